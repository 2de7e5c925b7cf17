"""The product with an adapter in one kernel against float64; without a GPU it runs in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from gepa_loop.model.fused.product import LEAST_INPUTS, Gpu, Launch, Tiling, adapted_product, counters, tiling
from gepa_loop.model.fused.projection import Projection
from gepa_loop.model.fused.rows import whose_ranks

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float16, *([torch.bfloat16] if CUDA else [])]
"""Triton's interpreter multiplies no bfloat16."""


def operands(
    rows: int, modules: tuple[int, ...], inputs: int, rank: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """x with columns behind it, [W | s B] with the modules' s B in a diagonal, A, and a bias."""
    source = torch.Generator().manual_seed(rows + inputs)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    outputs, each = sum(modules), rank * len(modules)
    x = torch.cat([normal(rows, inputs), torch.full((rows, each), torch.nan, dtype=torch.float64)], 1)
    ups = torch.block_diag(*(normal(size, rank) for size in modules))
    weight = torch.cat([normal(outputs, inputs) / inputs**0.5, ups / rank**0.5], 1)
    down = normal(each, inputs) / inputs**0.5
    return tuple(part.to(DEVICE, dtype) for part in (x, weight, down, normal(outputs)))


def in_float64(x: torch.Tensor, weight: torch.Tensor, down: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    inputs = down.shape[1]
    x, weight, down, bias = x.double()[:, :inputs], weight.double(), down.double(), bias.double()
    return x @ weight[:, :inputs].T + x @ down.T @ weight[:, inputs:].T + bias


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("rows", "modules", "inputs", "rank", "tiles"),
    [
        (3, (64, 32, 32), 96, 8, Tiling(16, 1, 3)),
        (70, (32,), 128, 16, Tiling(32, 2, 3)),
        (1, (64, 64), 288, 24, Tiling(64, 4, 3)),
        (65, (32, 16, 16), 320, 16, Tiling(16, 8, 3)),  # more parts than tiles of inputs
    ],
)
def test_an_adapter_is_inside_the_sum(
    rows: int,
    modules: tuple[int, ...],
    inputs: int,
    rank: int,
    tiles: Tiling,
    biased: bool,
    dtype: torch.dtype,
) -> None:
    x, weight, down, bias = operands(rows, modules, inputs, rank, dtype)
    if not biased:
        bias = torch.zeros_like(bias)
    want = in_float64(x, weight, down, bias)
    counted = counters(modules, x.device)
    for _ in range(2):  # what the parts are counted with is as it was afterwards
        got = adapted_product(x, weight, down, bias if biased else None, modules, Launch(tiles, counted))
        step = torch.finfo(dtype).eps
        # Rounded once; A x is rounded before it is multiplied, which costs a step of each of its numbers.
        torch.testing.assert_close(got.double(), want, rtol=step, atol=8 * step)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tiles", [Tiling(16, 1, 3), Tiling(32, 2, 3)], ids=str)
def test_each_row_computes_with_the_ranks_of_its_student(tiles: Tiling, dtype: torch.dtype) -> None:
    modules, rank = (64, 32), 24  # three students of 8 each
    x, weight, down, bias = operands(70, modules, 128, rank, dtype)
    step = torch.finfo(dtype).eps
    students = torch.arange(70, dtype=torch.int32, device=x.device) % 3
    launch = Launch(tiles, counters(modules, x.device))
    own = whose_ranks(students, 8, rank)
    got = adapted_product(x, weight, down, bias, modules, launch, own)
    for student in range(3):
        only = down.clone().view(len(modules), 3, 8, -1)
        only[:, [n for n in range(3) if n != student]] = 0
        rows = students == student
        want = in_float64(x[rows], weight, only.view_as(down), bias)
        torch.testing.assert_close(got[rows].double(), want, rtol=step, atol=8 * step)
    # And in two launches.
    names = {f"m{n}": size for n, size in enumerate(modules)}
    two = Projection(names, weight, down, bias)(x.clone(), own)
    torch.testing.assert_close(two, got, rtol=2 * step, atol=8 * step)


H100, A100, RTX, OLD = Gpu(132, 232_448), Gpu(108, 166_912), Gpu(128, 101_376), Gpu(40, 49_152)
SHAPES = (
    ((576, 192, 192), 576),
    ((896,), 4864),
    ((4864, 4864), 896),
    ((4096, 1024, 1024), 2560),
    ((9728, 9728), 2560),
    ((5120,), 27_648),
)


def test_tiles_hold_outputs_of_one_module() -> None:
    assert tiling(64, (96, 32), 576, 16, H100) in {Tiling(n, 1, s) for n in (16, 32) for s in (3, 5)}
    assert tiling(64, (96, 40), 576, 16, H100) is None


def test_a_tile_is_shared_where_there_are_few_of_them() -> None:
    few, many = tiling(64, (896,), 4864, 16, H100), tiling(64, (9728, 9728), 2560, 16, H100)
    assert few is not None and few.split > 1 and few.split * LEAST_INPUTS <= 4864
    assert many is not None and many.split == 1


def test_many_rows_of_a_large_model_take_two_launches() -> None:
    assert tiling(256, (9728, 9728), 2560, 16, H100) is None
    assert tiling(64, (9728, 9728), 2560, 16, H100) is not None
    assert tiling(256, (1536, 1536), 576, 16, H100) is not None


@pytest.mark.parametrize("gpu", [H100, A100, RTX, OLD], ids=["H100", "A100", "RTX 4090", "48 KiB"])
def test_what_is_on_its_way_fits_in_shared_memory(gpu: Gpu) -> None:
    """Ranks of a stack add up; a launch that does not fit would end the run at its first token."""
    for modules, inputs in SHAPES:
        for rank in (8, 16, 24, 64, 128, 136, 256, 512, 1024):
            for rows in (1, 16, 64, 128, 256):
                found = tiling(rows, modules, inputs, rank, gpu)
                if found is not None:
                    padded = max(16, 1 << (rank - 1).bit_length())
                    held = 64 * 64 + 64 * found.outputs + 64 * padded
                    assert found.stages >= 2 and 2 * found.stages * held <= gpu.shared
                    assert rank <= 128
    assert all(tiling(64, modules, inputs, 16, gpu) is not None for modules, inputs in SHAPES)


def test_a_projection_computes_the_same_in_one_launch_and_in_two() -> None:
    x, weight, down, bias = operands(5, (32, 16), 64, 8, torch.float16)
    names = {"q": 32, "k": 16}

    def projection() -> Projection:
        made = Projection(names, weight[:, :64].clone(), down.new_empty(0, 64), bias)
        made.reserve(8)
        for (_, own_down, own_up), rows, columns in zip(
            made.places(), (slice(0, 32), slice(32, 48)), (slice(64, 72), slice(72, 80)), strict=True
        ):
            own_up.copy_(weight[rows, columns])
            own_down.copy_(down[columns.start - 64 : columns.stop - 64])
        return made

    one, two = projection(), projection()
    one.use_kernel(Gpu(4, 10**6))
    two.gpu = None
    want = in_float64(x, weight, down, bias)
    for made in (one, two, one):
        torch.testing.assert_close(made(x.clone()).double(), want, rtol=2**-10, atol=2**-7)
    read = x.clone()
    one(read)
    assert read[:, 64:].isnan().all(), "the kernel writes nothing behind its input"
    grown = projection()
    grown.use_kernel(Gpu(4, 10**6))
    before = grown.counters_T
    grown.reserve(16)
    assert grown.rank == 32 and (grown.counters_T is not before or not CUDA)

"""Attention of packed rows against a masked softmax in float64; without a GPU the kernels run in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gepa_loop.model.fused.training_attention import attend
from gepa_loop.model.packed import Packed, pack
from gepa_loop.model.shapes import pad_packed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NARROW = torch.bfloat16 if torch.cuda.is_available() else torch.float16
"""Triton's interpreter multiplies no bfloat16."""
HEADS, GROUPS, WIDTH = 4, 2, 16
CASES = {
    "one": ([[1] * 3], [[(1, 2)]]),
    "rows": ([[1] * 40, [1] * 5], [[(1,) * 30, (1,), (1,) * 7], [(1,) * 20, (1,) * 33]]),
    "long": ([[1] * 70], [[(1,) * 40, (1,) * 41, (1,) * 2]]),
}


def masked(
    query: Tensor, key: Tensor, value: Tensor, past: tuple[Tensor, Tensor] | None, packed: Packed
) -> Tensor:
    """[B, L, heads, D], by the mask that the model's own modules get."""
    rows = len(query)
    if past is not None:
        key, value = (
            torch.cat([side[None].expand(rows, -1, -1, -1), own], 2)
            for side, own in zip(past, (key, value), strict=True)
        )
    each = HEADS // GROUPS
    score = query @ key.repeat_interleave(each, 1).transpose(-1, -2) / WIDTH**0.5
    weight = score.masked_fill(~packed.mask_B1LS, float("-inf")).softmax(-1)
    return (weight @ value.repeat_interleave(each, 1)).transpose(1, 2)


def drawn(packed: Packed, past: int, shift: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
    """Queries, keys, values and a slope of the output, and the past; float64. All keys have `shift` in common."""
    source = torch.Generator().manual_seed(0)
    rows, length = packed.ids_BL.shape
    shapes = [(rows, n, length, WIDTH) for n in (HEADS, GROUPS, GROUPS)] + [(rows, length, HEADS, WIDTH)]
    own = [torch.randn(shape, generator=source, dtype=torch.float64).to(DEVICE) for shape in shapes]
    before = [
        torch.randn(GROUPS, past, WIDTH, generator=source, dtype=torch.float64).to(DEVICE) for _ in "kv"
    ]
    for keys in (own[1], before[0]):
        keys += shift
    return own, before


def outcome(function: object, tensors: list[Tensor], past: list[Tensor] | None, last: object) -> list[Tensor]:
    """Output and gradients of queries, keys and values."""
    *sides, slope = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    before = None if past is None else tuple(past)
    out = function(*sides, before, *last) if isinstance(last, tuple) else function(*sides, before, last)  # type: ignore[operator]
    return [out.detach(), *torch.autograd.grad(out, sides, slope.detach())]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("past", [0, 5, 37], ids=["whole", "prefix", "long-prefix"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("more", [0, 9], ids=["exact", "padded"])
def test_output_and_gradients(case: str, past: int, more: int) -> None:
    prompts, completions = CASES[case]
    packed = pack(prompts, completions, past, DEVICE)
    real = packed.positions_BL.new_ones(packed.ids_BL.shape, dtype=torch.bool)
    size = packed.ids_BL.shape[1]
    packed = pad_packed(packed, size + more, len(packed.rows_N))
    real = torch.nn.functional.pad(real, (0, more))
    tensors, before = drawn(packed, past)
    tensors[3] *= real[:, :, None, None]  # padding predicts nothing
    exact = outcome(masked, tensors, before if past else None, packed)
    narrow = [tensor.float() for tensor in tensors]
    found = outcome(
        attend, narrow, [side.float() for side in before] if past else None, (packed.spans, WIDTH**-0.5)
    )
    found[0], exact[0] = found[0] * real[:, :, None, None], exact[0] * real[:, :, None, None]
    for mine, right in zip(found, exact, strict=True):
        assert error(mine, right) < 1e-5


def test_values_may_lie_as_a_projection_leaves_them() -> None:
    prompts, completions = CASES["rows"]
    packed = pack(prompts, completions, 0, DEVICE)
    (query, key, value, _), _ = drawn(packed, 0)
    query, key, value = (tensor.float() for tensor in (query, key, value))
    apart = value.transpose(1, 2).contiguous().transpose(1, 2)
    assert not apart.is_contiguous()
    same = [attend(query, key, side, None, packed.spans, 0.25) for side in (value, apart)]
    assert torch.equal(*same)


def test_a_common_part_of_all_keys_leaves_no_error_in_the_queries_gradient() -> None:
    """The gradient is one of the keys' differences: what they have in common must not bring its rounding in."""
    prompts, completions = CASES["rows"]
    packed = pack(prompts, completions, 0, DEVICE)
    tensors, _ = drawn(packed, 0, shift=30.0)
    narrow = [tensor.to(NARROW) for tensor in tensors]
    exact = outcome(masked, [tensor.double() for tensor in narrow], None, packed)
    found = outcome(attend, narrow, None, (packed.spans, WIDTH**-0.5))
    for mine, right in zip(found, exact, strict=True):
        assert error(mine, right) < 3 * torch.finfo(NARROW).eps


@pytest.mark.parametrize("low", [-300.0, -1000.0])
def test_scores_far_below_zero_are_finite(low: float) -> None:
    prompts, completions = CASES["long"]
    packed = pack(prompts, completions, 5, DEVICE)
    tensors, before = drawn(packed, 5)
    for side, value in ((tensors[0], -8.0), (tensors[1], low / -8 * 4), (before[0], low / -8 * 4)):
        side[..., 7] = value  # q . k / 4 = low
    exact = outcome(masked, tensors, before, packed)
    found = outcome(
        attend, [t.float() for t in tensors], [side.float() for side in before], (packed.spans, WIDTH**-0.5)
    )
    for mine, right in zip(found, exact, strict=True):
        assert error(mine, right) < 1e-3

"""W x + s B A x for a launch of rows, in one kernel: no launch more than W x alone takes.

Each program computes a tile of outputs of one module, and beside it that module's A x, whose few columns read x a second
time from registers. Where the tiles are too few for the GPU, several programs share one's inputs; the last of them to finish
adds their parts in a fixed order, so that a result repeats bit for bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gepa_loop.model.fused.rows import Whose

ROWS = 256
"""A launch has no more rows."""
TILE_ROWS = 64
FEW = 500_000
"""Cost (of `tiling`) up to which more rows than a tile's are faster here than in two launches; see benchmarks/NOTES.md."""
TILE_INPUTS = 64
MOST_RANK = 128
"""A x of a tile is kept in registers."""
LEAST_INPUTS = 512
"""Of one program where several share a tile."""


class Gpu(NamedTuple):
    """What a launch has to fit."""

    processors: int
    """Multiprocessors."""
    shared: int
    """Bytes of shared memory that one program may have."""


@lru_cache
def gpu_of(device: torch.device) -> Gpu:
    """What Triton itself holds a launch on this device against."""
    found = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return Gpu(found["multiprocessor_count"], found["max_shared_mem"])


class Tiling(NamedTuple):
    """How a product is divided among programs."""

    outputs: int
    """Of a tile."""
    split: int
    """Programs that share a tile's inputs."""
    stages: int
    """Tiles of inputs on their way at a time."""


@lru_cache
def tiling(rows: int, modules: tuple[int, ...], inputs: int, rank: int, gpu: Gpu) -> Tiling | None:
    """The division that should be fastest; None where two launches are faster, or none is possible.

    What it counts as time are the columns that one multiprocessor reads after another, and the parts that are added at the
    end; fitted to 16 products of 135M to 4B on an H100, where it is at most 14 % above the best found (1.5 % in the mean).
    A tile holds outputs of one module, and its stages fit in shared memory.

    Args:
        rows: Of the input.
        modules: Outputs of each.
        inputs: Of all.
        rank: Of an adapter.
        gpu: Where it is to run.
    """
    best, least = None, 0.0
    if rank > MOST_RANK:
        return None
    for outputs in (128, 64, 32, 16):
        if any(size % outputs for size in modules):
            continue
        reads = TILE_ROWS + outputs + _padded(rank)
        fitting = gpu.shared // (2 * TILE_INPUTS * reads)
        tiles = sum(modules) // outputs * triton.cdiv(rows, TILE_ROWS)
        for split in (1, 2, 4, 8):
            programs = tiles * split
            if split > 1 and (programs > gpu.processors or inputs < split * LEAST_INPUTS):
                break
            stages = min(3 if programs > gpu.processors else 5, fitting)
            cost = triton.cdiv(programs, gpu.processors) * inputs / split * reads + 300 * split * outputs
            if stages >= 2 and (best is None or cost < least):
                best, least = Tiling(outputs, split, stages), cost
    return best if rows <= TILE_ROWS or least <= FEW else None


def _padded(rank: int) -> int:
    return max(16, 1 << (rank - 1).bit_length())


@triton.jit
def _product(
    x,
    weight,
    down,
    bias,
    out,
    parts,
    finished,
    students,
    rows,
    outputs,
    inputs,
    x_row,
    weight_row,
    end_0,
    end_1,
    EACH: tl.constexpr,
    OWN: tl.constexpr,
    RANK: tl.constexpr,
    BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tile, part = tl.program_id(0), tl.program_id(2)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    r = tl.arange(0, RANK)
    # A tile holds outputs of one module (`tiling`), so one A serves all of it.
    module = (tile * BLOCK_N >= end_0).to(tl.int32) + (tile * BLOCK_N >= end_1).to(tl.int32)
    chunk = tl.cdiv(tl.cdiv(inputs, BLOCK_K), SPLIT) * BLOCK_K
    first = part * chunk
    # Rows that only fill a tile up are not read: one line read again and again by all programs is slower than many.
    filled = (m < rows)[:, None]
    x_at = x + m[:, None] * x_row + (first + k)[None, :]
    weight_rows = weight + n[None, :].to(tl.int64) * weight_row
    weight_at = weight_rows + (first + k)[:, None]
    # Ranks that only fill a power of 2 up read A's last row again; their B is masked to 0 below.
    down_at = down + (module * EACH + tl.minimum(r, EACH - 1))[None, :] * inputs + (first + k)[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    low = tl.zeros((BLOCK_M, RANK), tl.float32)
    for start in range(first, tl.minimum(first + chunk, inputs), BLOCK_K):
        if EVEN:
            x_tile = tl.load(x_at, filled, 0.0)
            weight_tile, down_tile = tl.load(weight_at), tl.load(down_at)
        else:
            real = start + k < inputs
            x_tile = tl.load(x_at, filled & real[None, :], 0.0)
            weight_tile = tl.load(weight_at, real[:, None], 0.0)
            down_tile = tl.load(down_at, real[:, None], 0.0)
        total = tl.dot(x_tile, weight_tile, total)
        low = tl.dot(x_tile, down_tile, low)
        x_at += BLOCK_K
        weight_at += BLOCK_K
        down_at += BLOCK_K
    if OWN:
        of_row = (r // OWN)[None, :] == tl.load(students + m, m < rows, 0)[:, None]
        low = tl.where(of_row, low, 0.0)
    up_tile = tl.load(weight_rows + inputs + (module * EACH + r)[:, None], (r < EACH)[:, None], 0.0)
    # A x is rounded once, as between two launches; the sum with W x stays in float32, which bfloat16 would swallow.
    total = tl.dot(low.to(up_tile.dtype), up_tile, total)
    here = m[:, None] * outputs + n[None, :]
    if SPLIT > 1:
        tl.store(parts + part * rows * outputs + here, total, filled)
        # All threads have stored before one of them counts.
        tl.debug_barrier()
        mine = finished + tile * tl.num_programs(1) + tl.program_id(1)
        if tl.atomic_add(mine, 1, sem="acq_rel", scope="gpu") == SPLIT - 1:
            # In the order of the parts, whoever is last; past the first cache, which may hold what was there before.
            total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for other in range(SPLIT):
                total += tl.load(parts + other * rows * outputs + here, filled, 0.0, cache_modifier=".cg")
            if BIAS:
                total += tl.load(bias + n)[None, :]
            tl.store(mine, 0)  # for the next launch
            tl.store(out + here, total.to(out.dtype.element_ty), filled)
    else:
        if BIAS:
            total += tl.load(bias + n)[None, :]
        tl.store(out + here, total.to(out.dtype.element_ty), filled)


def counters(modules: tuple[int, ...], device: torch.device) -> Tensor:
    """One for each tile that a launch may have: how many of its programs are through; 0 between two launches."""
    return torch.zeros(sum(modules) // 16 * (ROWS // TILE_ROWS), dtype=torch.int32, device=device)


class Launch(NamedTuple):
    """How a product is cut into programs, and what they count with."""

    tiles: Tiling
    """Of `tiling`."""
    counters_T: Tensor
    """Of `counters`; two launches at a time must not share them."""


def adapted_product(
    x_NX: Tensor,
    weight_OX: Tensor,
    down_RI: Tensor,
    bias_O: Tensor | None,
    modules: tuple[int, ...],
    launch: Launch,
    whose: Whose | None = None,
) -> Tensor:
    """W x + bias + s B A x, [N, O], summed in float32 and rounded once.

    Args:
        x_NX: Inputs; columns behind the first I are not read.
        weight_OX: [W | s B], as `projection.Projection` has them.
        down_RI: A of each module, one below the other.
        bias_O: The layers' bias.
        modules: Outputs of each; at most three.
        launch: How it is cut.
        whose: Which ranks each row computes with; None is all.
    """
    tiles, counters_T = launch
    rows, inputs = len(x_NX), down_RI.shape[1]
    outputs, each = sum(modules), len(down_RI) // len(modules)
    grid = outputs // tiles.outputs, triton.cdiv(rows, TILE_ROWS), tiles.split
    out = x_NX.new_empty(rows, outputs)
    shared = tiles.split > 1
    parts = out.new_empty(tiles.split * rows * outputs, dtype=torch.float32) if shared else out
    ends = *(sum(modules[:n]) for n in range(1, len(modules))), outputs, outputs
    _product[grid](
        x_NX,
        weight_OX,
        down_RI,
        out if bias_O is None else bias_O,
        out,
        parts,
        counters_T,
        counters_T if whose is None else whose.student_N,
        rows,
        outputs,
        inputs,
        x_NX.stride(0),
        weight_OX.stride(0),
        ends[0],
        ends[1],
        EACH=each,
        OWN=0 if whose is None else whose.ranks,
        RANK=_padded(each),
        BIAS=bias_O is not None,
        SPLIT=tiles.split,
        EVEN=inputs % TILE_INPUTS == 0,
        BLOCK_M=TILE_ROWS,
        BLOCK_N=tiles.outputs,
        BLOCK_K=TILE_INPUTS,
        num_warps=4,
        num_stages=tiles.stages,
    )
    return out

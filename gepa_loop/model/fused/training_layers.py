"""Triton kernels of the training forward and their gradients, where PyTorch would launch five to ten small ones for each.

Weights are frozen here, so only activations get gradients. `_N` are positions of all rows, one after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_norm_forward(
    x, delta, weight, total, out, scales, size, eps, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < size
    value = tl.load(x + row * size + at, inside, 0.0)
    if ADD:
        value = value + tl.load(delta + row * size + at, inside, 0.0)
        tl.store(total + row * size + at, value, inside)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / size + eps)
    tl.store(scales + row, scale)
    normed = (wide * scale).to(value.dtype)
    tl.store(out + row * size + at, normed * tl.load(weight + at, inside, 0.0), inside)


@triton.jit
def _add_norm_backward(total, weight, scales, grad, extra, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < size
    scale = tl.load(scales + row)
    unit = tl.load(total + row * size + at, inside, 0.0).to(tl.float32) * scale
    slope = tl.load(grad + row * size + at, inside, 0.0).to(tl.float32)
    slope = slope * tl.load(weight + at, inside, 0.0).to(tl.float32)
    found = scale * (slope - unit * (tl.sum(slope * unit) / size))
    past = tl.load(extra + row * size + at, inside, 0.0)
    tl.store(out + row * size + at, past + found.to(past.dtype), inside)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, delta_NH: Tensor, weight_H: Tensor, eps: float) -> Any:
        total_NH, out_NH, scales_N = _launch_norm(x_NH, delta_NH, weight_H, eps)
        ctx.save_for_backward(total_NH, weight_H, scales_N)
        return total_NH, out_NH

    @staticmethod
    def backward(ctx: Any, total_grad_NH: Tensor, out_grad_NH: Tensor) -> Any:
        total_NH, weight_H, scales_N = ctx.saved_tensors
        count, size = total_NH.shape
        found_NH = torch.empty_like(total_NH)
        _add_norm_backward[count,](
            total_NH,
            weight_H,
            scales_N,
            out_grad_NH.contiguous(),
            total_grad_NH.contiguous(),
            found_NH,
            size,
            BLOCK=triton.next_power_of_2(size),
        )
        return found_NH, found_NH, None, None


def _launch_norm(
    x_NH: Tensor, delta_NH: Tensor | None, weight_H: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    count, size = x_NH.shape
    total_NH = x_NH if delta_NH is None else torch.empty_like(x_NH)
    out_NH = torch.empty_like(x_NH)
    scales_N = x_NH.new_empty(count, dtype=torch.float32)
    _add_norm_forward[count,](
        x_NH,
        x_NH if delta_NH is None else delta_NH,
        weight_H,
        total_NH,
        out_NH,
        scales_N,
        size,
        eps,
        ADD=delta_NH is not None,
        BLOCK=triton.next_power_of_2(size),
    )
    return total_NH, out_NH, scales_N


def add_norm(x_NH: Tensor, delta_NH: Tensor | None, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + delta, and its RMSNorm; both [N, H]. Without `delta_NH` there is no gradient: x is an embedding."""
    if delta_NH is None:
        return _launch_norm(x_NH, None, weight_H, eps)[:2]
    found: tuple[Tensor, Tensor] = _AddNorm.apply(x_NH, delta_NH, weight_H, eps)  # type: ignore[no-untyped-call]
    return found


@triton.jit
def _rotate(
    source,
    target,
    weight,
    cos,
    sin,
    inputs,
    length,
    eps,
    HEADS: tl.constexpr,
    PAD: tl.constexpr,
    D: tl.constexpr,
    NORM: tl.constexpr,
    BACK: tl.constexpr,
):
    """Forward: [N, heads, D] -> [B, heads, L, D]; backward: gradients the other way, with the forward's inputs."""
    n = tl.program_id(0).to(tl.int64)
    head, half = tl.arange(0, PAD)[:, None], tl.arange(0, D // 2)[None, :]
    inside = head < HEADS
    flat = (n * HEADS + head) * D + half
    turned = ((n // length * HEADS + head) * length + n % length) * D + half
    c = tl.load(cos + n * D + half).to(tl.float32)
    s = tl.load(sin + n * D + half).to(tl.float32)
    if NORM:
        w_low = tl.load(weight + half).to(tl.float32)
        w_high = tl.load(weight + D // 2 + half).to(tl.float32)
        plain_low = tl.load(inputs + flat, inside, 0.0).to(tl.float32)
        plain_high = tl.load(inputs + flat + D // 2, inside, 0.0).to(tl.float32)
        total = tl.sum(plain_low * plain_low, 1) + tl.sum(plain_high * plain_high, 1)
        scale = tl.rsqrt(total / D + eps)[:, None]
    if BACK:
        one = tl.load(source + turned, inside, 0.0).to(tl.float32)
        two = tl.load(source + turned + D // 2, inside, 0.0).to(tl.float32)
        low, high = one * c + two * s, two * c - one * s
        if NORM:
            unit_low, unit_high = plain_low * scale, plain_high * scale
            low, high = low * w_low, high * w_high
            mean = ((tl.sum(low * unit_low, 1) + tl.sum(high * unit_high, 1)) / D)[:, None]
            low, high = scale * (low - unit_low * mean), scale * (high - unit_high * mean)
        tl.store(target + flat, low.to(target.dtype.element_ty), inside)
        tl.store(target + flat + D // 2, high.to(target.dtype.element_ty), inside)
    else:
        if NORM:
            kind = source.dtype.element_ty
            low = ((plain_low * scale).to(kind) * w_low.to(kind)).to(tl.float32)
            high = ((plain_high * scale).to(kind) * w_high.to(kind)).to(tl.float32)
        else:
            low = tl.load(source + flat, inside, 0.0).to(tl.float32)
            high = tl.load(source + flat + D // 2, inside, 0.0).to(tl.float32)
        tl.store(target + turned, (low * c - high * s).to(target.dtype.element_ty), inside)
        tl.store(target + turned + D // 2, (high * c + low * s).to(target.dtype.element_ty), inside)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_NW: Tensor, weight_D: Tensor | None, cos_BLD: Tensor, sin_BLD: Tensor, eps: float
    ) -> Any:
        rows, length, width = cos_BLD.shape
        heads = x_NW.shape[1] // width
        out_BDL = x_NW.new_empty(rows, heads, length, width)
        _launch_rotate(x_NW, out_BDL, x_NW, heads, _Turn(weight_D, cos_BLD, sin_BLD, eps), back=False)
        ctx.save_for_backward(x_NW if weight_D is not None else None, weight_D, cos_BLD, sin_BLD)
        ctx.heads, ctx.eps = heads, eps
        return out_BDL

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        inputs_NW, weight_D, cos_BLD, sin_BLD = ctx.saved_tensors
        grad = grad.contiguous()
        found_NW = grad.new_empty(cos_BLD.shape[0] * cos_BLD.shape[1], ctx.heads * cos_BLD.shape[2])
        inputs_NW = grad if inputs_NW is None else inputs_NW
        turn = _Turn(weight_D, cos_BLD, sin_BLD, ctx.eps)
        _launch_rotate(grad, found_NW, inputs_NW, ctx.heads, turn, back=True)
        return found_NW, None, None, None, None


class _Turn(NamedTuple):
    """As for `rotate`."""

    weight_D: Tensor | None
    cos_BLD: Tensor
    sin_BLD: Tensor
    eps: float


def _launch_rotate(
    source: Tensor, target: Tensor, inputs_NW: Tensor, heads: int, turn: _Turn, back: bool
) -> None:
    weight_D, cos_BLD, sin_BLD, eps = turn
    rows, length, width = cos_BLD.shape
    _rotate[rows * length,](
        source,
        target,
        source if weight_D is None else weight_D,
        cos_BLD,
        sin_BLD,
        inputs_NW,
        length,
        eps,
        HEADS=heads,
        PAD=triton.next_power_of_2(heads),
        D=width,
        NORM=weight_D is not None,
        BACK=back,
        num_warps=4 if heads * width > 256 else 1,
    )


def rotate(x_NW: Tensor, weight_D: Tensor | None, cos_BLD: Tensor, sin_BLD: Tensor, eps: float) -> Tensor:
    """Heads turned to their positions, as attention reads them: [B, heads, L, D].

    Args:
        x_NW: Queries or keys of all heads, side by side.
        weight_D: Of Qwen 3's norm of each head before that; None without one.
        cos_BLD: Cosines of the rotary angles; both halves of D are alike.
        sin_BLD: Their sines.
        eps: Of the norm.
    """
    out: Tensor = _Rotate.apply(x_NW, weight_D, cos_BLD, sin_BLD, eps)  # type: ignore[no-untyped-call]
    return out


@triton.jit
def _silu_mul_forward(gate, up, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    value = tl.load(gate + at, inside, 0.0)
    wide = value.to(tl.float32)
    tl.store(out + at, (wide / (1 + tl.exp(-wide))).to(value.dtype) * tl.load(up + at, inside, 0.0), inside)


@triton.jit
def _silu_mul_backward(gate, up, grad, gate_grad, up_grad, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    wide = tl.load(gate + at, inside, 0.0).to(tl.float32)
    slope = tl.load(grad + at, inside, 0.0).to(tl.float32)
    share = 1 / (1 + tl.exp(-wide))
    silu = wide * share
    by_gate = slope * tl.load(up + at, inside, 0.0).to(tl.float32) * (share + silu * (1 - share))
    tl.store(gate_grad + at, by_gate.to(gate_grad.dtype.element_ty), inside)
    tl.store(up_grad + at, (slope * silu).to(up_grad.dtype.element_ty), inside)


class _SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Any:
        out = torch.empty_like(gate)
        _silu_mul_forward[triton.cdiv(gate.numel(), 2048),](gate, up, out, gate.numel(), BLOCK=2048)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        found = torch.empty_like(gate), torch.empty_like(up)
        blocks = triton.cdiv(gate.numel(), 2048)
        _silu_mul_backward[blocks,](gate, up, grad.contiguous(), *found, gate.numel(), BLOCK=2048)
        return found


def silu_mul(gate_NI: Tensor, up_NI: Tensor) -> Tensor:
    """silu(gate) * up, [N, I]; both contiguous."""
    out: Tensor = _SiluMul.apply(gate_NI, up_NI)  # type: ignore[no-untyped-call]
    return out

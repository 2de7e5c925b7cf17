"""PEFT's LoRA of a linear layer with a shorter forward: half the kernels, and the adapter computes in the model's type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft.tuners.lora
import torch
from torch import Tensor

from gepa_loop.model.lora.low_rank import project


@dataclass(eq=False)
class Adapted:
    """What the LoRA layers of one model share: the one place that says which adapters compute.

    PEFT keeps that in every layer, and takes 40 ms to change it in a model of 210.
    """

    parameters: Mapping[str, Mapping[str, torch.nn.Parameter]]
    """Each adapter's, under their names on disk."""
    active: tuple[str, ...] = ()
    """Adapters that compute."""


class LoraLinear(peft.tuners.lora.Linear):  # type: ignore[misc]
    """W x + s B A x in one sum (`low_rank.project`); A and B are float32 parameters that are rounded to the type of x.

    PEFT would widen x to float32 for every layer: with bfloat16 more work than the layer itself.
    """

    shared: Adapted

    def forward(self, x: Tensor) -> Tensor:
        names = [name for name in self.shared.active if name in self.lora_A]  # others are for other layers
        if not names:
            out: Tensor = self.base_layer(x)
            return out
        pairs = [side[name].weight for name in names for side in (self.lora_A, self.lora_B)]
        scales = tuple(self.scaling[name] for name in names)
        base = self.base_layer
        found: Tensor = _Sum.apply(x.flatten(0, -2), base.weight, base.bias, scales, *pairs)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)


class _Sum(torch.autograd.Function):
    """W x + bias + the sum of s B A x; on a GPU the gradients of A and B are float32 sums, never rounded to the type of x."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight: Tensor, bias: Tensor | None, scales: tuple[float, ...], *pairs: Tensor
    ) -> Tensor:
        downs = [a.to(x_NI.dtype) for a in pairs[::2]]
        ups = [(b * scale).to(x_NI.dtype) for b, scale in zip(pairs[1::2], scales, strict=True)]
        out_NO, lows = project(x_NI, weight, bias, list(zip(downs, ups, strict=True)))
        ctx.save_for_backward(x_NI, weight, *downs, *ups, *lows)
        ctx.scales = scales
        return out_NO

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> Any:
        scales = ctx.scales
        x_NI, weight, *rest = ctx.saved_tensors
        count = len(scales)
        downs, ups, lows = rest[:count], rest[count : 2 * count], rest[2 * count :]
        grad_NI = grad_NO @ weight if ctx.needs_input_grad[0] else None
        grads: list[Tensor | None] = []
        for n, (down, up, low_NR, scale) in enumerate(zip(downs, ups, lows, scales, strict=True)):
            slope_NR = grad_NO @ up
            if grad_NI is not None:
                grad_NI.addmm_(slope_NR, down)
            wanted = ctx.needs_input_grad[4 + 2 * n]
            grads.append(_product(slope_NR, x_NI) if wanted else None)
            grads.append(_product(grad_NO, low_NR).mul_(scale) if wanted else None)
        return (grad_NI, None, None, None, *grads)


def _product(left_NI: Tensor, right_NO: Tensor) -> Tensor:
    """left^T right, [I, O], in float32 where the factors are narrower."""
    if left_NI.dtype == torch.float32 or left_NI.device.type == "cpu":
        wide = torch.promote_types(left_NI.dtype, torch.float32)
        return (left_NI.T @ right_NO).to(wide)
    return torch.mm(left_NI.T, right_NO, out_dtype=torch.float32)

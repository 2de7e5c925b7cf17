"""PEFT's LoRA of a linear layer with a shorter forward: half the kernels, and the adapter computes in the model's type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft.tuners.lora
import torch
from torch import Tensor
from torch.nn.functional import linear


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
    """W x + scale B A x; A and B are float32 parameters that are rounded to the type of x.

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
    """W x + bias + the sum of scale B A x; on a GPU the gradients of A and B are float32 sums, never rounded to the type of x."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight: Tensor, bias: Tensor | None, scales: tuple[float, ...], *pairs: Tensor
    ) -> Tensor:
        out_NO = linear(x_NI, weight, bias)
        low, kept = [pair.to(x_NI.dtype) for pair in pairs], []
        for n, scale in enumerate(scales):
            low_NR = linear(x_NI, low[2 * n])
            out_NO.addmm_(low_NR, low[2 * n + 1].T, alpha=scale)
            kept.append(low_NR)
        ctx.save_for_backward(x_NI, weight, *low, *kept)
        ctx.scales = scales
        return out_NO

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> Any:
        scales = ctx.scales
        x_NI, weight, *rest = ctx.saved_tensors
        low, kept = rest[: 2 * len(scales)], rest[2 * len(scales) :]
        grad_NI = grad_NO @ weight if ctx.needs_input_grad[0] else None
        grads: list[Tensor | None] = []
        for n, scale in enumerate(scales):
            a, b = low[2 * n : 2 * n + 2]
            slope_NR = (grad_NO @ b).mul_(scale)
            if grad_NI is not None:
                grad_NI.addmm_(slope_NR, a)
            wanted = ctx.needs_input_grad[4 + 2 * n]
            grads.append(_product(slope_NR, x_NI) if wanted else None)
            grads.append(_product(grad_NO, kept[n]).mul_(scale) if wanted else None)
        return (grad_NI, None, None, None, *grads)


def _product(left_NI: Tensor, right_NO: Tensor) -> Tensor:
    """left^T right, [I, O], in float32 where the factors are narrower."""
    if left_NI.dtype == torch.float32 or left_NI.device.type == "cpu":
        wide = torch.promote_types(left_NI.dtype, torch.float32)
        return (left_NI.T @ right_NO).to(wide)
    return torch.mm(left_NI.T, right_NO, out_dtype=torch.float32)

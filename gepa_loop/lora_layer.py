"""PEFT's LoRA of a linear layer with a shorter forward: half the kernels, and the adapter computes in the model's type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """W x + scale B A x; A and B are float32 parameters that are rounded to the type of x, as the sampler's merge does.

    PEFT would widen x to float32 for every layer: with bfloat16 more work than the layer itself.
    """

    shared: Adapted

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x)
        for name in self.shared.active:
            if name not in self.lora_A:  # one for other layers
                continue
            a, b = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
            low = linear(x, a).flatten(0, -2)
            out = torch.addmm(out.flatten(0, -2), low, b.T, alpha=self.scaling[name]).view_as(out)
        return out

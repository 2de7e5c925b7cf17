"""PEFT's LoRA of a linear layer with a shorter forward: half the kernels, and the adapter computes in the model's type."""

from __future__ import annotations

import peft.tuners.lora
import torch
from torch import Tensor
from torch.nn.functional import linear


class LoraLinear(peft.tuners.lora.Linear):  # type: ignore[misc]
    """W x + scale B A x; A and B are float32 parameters that are rounded to the type of x, as the sampler's merge does.

    PEFT would widen x to float32 for every layer: with bfloat16 more work than the layer itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x)
        if self.disable_adapters:
            return out
        for name in self.active_adapters:
            if name not in self.lora_A:  # one for other layers
                continue
            a, b = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
            low = linear(x, a).flatten(0, -2)
            out = torch.addmm(out.flatten(0, -2), low, b.T, alpha=self.scaling[name]).view_as(out)
        return out

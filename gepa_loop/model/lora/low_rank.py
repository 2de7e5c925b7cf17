"""What an adapter adds to a linear layer, inside the layer's own sum, in training and in sampling alike.

W x + s B (A x) is the product of [W | s B] with [x, A x]: one sum, rounded once. In bfloat16 what an adapter adds is often
less than half a step of what it is added to. Merged into rounded weights, or added to a rounded W x, it is lost then (.46 and
.61 of a small one's effect were left; benchmarks/NOTES.md); inside the sum it moves the place where the rounding falls,
which is right in the mean.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from gepa_loop.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gepa_loop.model.lora.adapter import Adapter

ALIGNED = 8
"""Columns by which what stands behind W grows: rows of other lengths take a slower product on a GPU."""


def factors(adapter: Adapter, module: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """A [rank, in] and s B [out, rank] of one module, in the type and on the device of `like`."""
    a, b = adapter.pair(module)
    return a.to(like.device, like.dtype), (b * adapter.scale).to(like.device, like.dtype)


def project(
    x_NI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    pair: tuple[Tensor, Tensor],
    others_NR: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """W x + bias + s B A x, [N, out], and A x [N, rank].

    Args:
        x_NI: What the layer reads.
        weight_OI: Its matrix.
        bias_O: Its bias.
        pair: A [rank, in] and s B [out, rank], of several adapters side by side, in the type of x.
        others_NR: Which of the ranks a position leaves alone; None is none of them.
    """
    down_RI, up_OR = pair
    low_NR = linear(x_NI, down_RI)
    if others_NR is not None:
        low_NR.masked_fill_(others_NR, 0)  # times 0 would leave what is infinite
    if x_NI.dtype.itemsize >= 4:  # steps so small that a copy of x and of W would buy nothing
        return linear(x_NI, weight_OI, bias_O).addmm_(low_NR, up_OR.T), low_NR
    spare = -low_NR.shape[1] % ALIGNED
    read_NX = torch.cat([x_NI, low_NR], 1)
    whole_OX = torch.cat([weight_OI, up_OR], 1)
    if spare:
        read_NX, whole_OX = pad(read_NX, (0, spare)), pad(whole_OX, (0, spare))
    return linear(read_NX, whole_OX, bias_O), low_NR


class AdaptedLinear(nn.Module):
    """A linear layer with an adapter; it shares the layer's own parameters."""

    def __init__(self, layer: nn.Linear, down_RI: Tensor, up_OR: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._pair = down_RI, up_OR

    def forward(self, x: Tensor) -> Tensor:
        out_NO, _ = project(x.flatten(0, -2), self.weight, self.bias, self._pair)
        return out_NO.view(*x.shape[:-1], -1)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Modules of their own on the same tensors: what is changed in one's structure the other does not see."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class Twin:
    """A twin of a model with at most one adapter on it; training wraps the modules of the model itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = twin(model)
        self._plain: dict[str, nn.Module] = {}

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Compute with this adapter from now on.

        Raises:
            ModelError: It changes what is no linear layer of the model, or one of another shape.
        """
        for name, plain in self._plain.items():
            self.model.set_submodule(name, plain)
        self._plain.clear()
        if adapter is None:
            return
        layers = {name: m for name, m in self.model.named_modules() if isinstance(m, nn.Linear)}
        for module in adapter.modules:
            layer = layers.get(module)
            check_fits(adapter, module, None if layer is None else tuple(layer.weight.shape))
            assert layer is not None
            self._plain[module] = layer
            self.model.set_submodule(module, AdaptedLinear(layer, *factors(adapter, module, layer.weight)))


def check_fits(adapter: Adapter, module: str, shape: tuple[int, ...] | None) -> None:
    """Raise ModelError where the adapter changes a layer of another shape than the base's; None is no such layer."""
    a, b = adapter.pair(module)
    if shape != (b.shape[0], a.shape[1]):
        found = "no linear layer" if shape is None else shape
        raise ModelError(
            f"the adapter changes {module} {(b.shape[0], a.shape[1])}, which is {found} in the base model"
        )

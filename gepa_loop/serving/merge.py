"""Weights with an adapter in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gepa_loop.errors import ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.lora.adapter import Adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@contextmanager
def merged_into(base: Base, adapter: Adapter) -> Iterator[PreTrainedModel]:
    """The base's model with an adapter's change in its weights, added in float32 and rounded once, while the block runs.

    Its weights are as they were afterwards, byte by byte.

    Raises:
        ModelError: The adapter changes what is no layer of the model.
    """
    import torch

    model, before = base.model, dict[str, "Tensor"]()
    try:
        with torch.no_grad():
            for name in adapter.modules:
                weight = _weight(base, name)
                a, b = (tensor.to(weight.device) for tensor in adapter.pair(name))
                before[name] = weight.detach().cpu().clone()
                weight.copy_((weight.float() + adapter.scale * (b @ a)).to(weight.dtype))
        yield model
    finally:
        with torch.no_grad():
            for name, old in before.items():
                _weight(base, name).copy_(old)


def _weight(base: Base, name: str) -> Tensor:
    try:
        weight: Tensor = base.model.get_submodule(name).weight
    except AttributeError:
        raise ModelError(f"the adapter changes {name}, which {base.name} has not") from None
    return weight

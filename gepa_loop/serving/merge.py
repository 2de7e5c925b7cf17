"""Weights with an adapter in them."""

from __future__ import annotations

from pathlib import Path

from gepa_loop.errors import ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.lora.adapter import Adapter


def write_merged(base: Base, adapter: Adapter, folder: Path) -> None:
    """Save the base's weights with an adapter's change added in float32 and rounded once, to the type of the weights.

    The base is changed while they are written, layer by layer, and is as it was afterwards.

    Raises:
        ModelError: The adapter changes what is no layer of the model.
    """
    import torch

    model, before = base.model, dict[str, torch.Tensor]()
    try:
        with torch.no_grad():
            for name in adapter.modules:
                try:
                    weight = model.get_submodule(name).weight
                except AttributeError:
                    raise ModelError(f"the adapter changes {name}, which {base.name} has not") from None
                assert isinstance(weight, torch.Tensor)
                a, b = (tensor.to(weight.device) for tensor in adapter.pair(name))
                before[name] = weight.detach().cpu().clone()
                weight.copy_((weight.float() + adapter.scale * (b @ a)).to(weight.dtype))
        model.save_pretrained(folder)
    finally:
        with torch.no_grad():
            for name, weight_before in before.items():
                weight = model.get_submodule(name).weight
                assert isinstance(weight, torch.Tensor)
                weight.copy_(weight_before)

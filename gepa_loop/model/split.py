"""A model that is larger than one GPU: its layers lie on several, one stretch behind the other, all else on the first.

So ids go in and hidden states and logits come out where the embedding is, as from a model in one piece, and losses are
computed there. Only one GPU computes at a time: this makes room, not speed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, TypeVar

from gepa_loop.errors import ModelError
from gepa_loop.model.device import free_bytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

SPLIT = "split"
"""The `model.device` of such a model."""
FULL = 0.9
"""Of the GPUs' free memory, what weights may take; activations, a cache and an adapter's optimiser need the rest."""

T = TypeVar("T", bound="Tensor")


def spread(layers: Sequence[float], rest: float, free: Sequence[float]) -> list[int]:
    """The GPU of each layer, so that each is filled by the same share of what is free on it.

    Args:
        layers: Bytes of each layer.
        rest: Bytes of all else, which lies on the first GPU.
        free: Free bytes of each GPU.
    """
    share = (rest + sum(layers)) / sum(free)
    ends = [share * end for end in accumulate(free)]
    starts = accumulate(layers, initial=rest)
    # A layer goes where its middle lies.
    return [
        min(bisect_right(ends, start + size / 2), len(free) - 1)
        for start, size in zip(starts, layers, strict=False)
    ]


def free_cards() -> dict[torch.device, int]:
    """The free bytes of each GPU that torch sees."""
    import torch

    cards = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return {card: free_bytes(card) for card in cards}


def layout(name: str, model: PreTrainedModel, free: Mapping[torch.device, int]) -> dict[str, torch.device]:
    """Where the parts of a model go, as transformers' `device_map` wants it: the device of each layer, and of what lies beside them.

    Args:
        name: The model's, for the message of an error.
        model: Its modules, whose parameters may be without data.
        free: The devices to lie on, and their free bytes.

    Raises:
        ModelError: Its layers are not to be found, or the GPUs' free memory does not hold it.
    """
    cards = list(free)
    blocks = dict(_blocks(model))
    if not blocks:
        raise ModelError(
            f"model.name = {name!r}: a model of type {model.config.model_type} cannot be split: transformers does not name its layers",
            "Use a model that one GPU holds.",
        )
    whole, layers = _bytes(model), [_bytes(block) for block in blocks.values()]
    if whole > FULL * sum(free.values()):
        shown = " and ".join(f"{size / 2**30:.1f}" for size in free.values())
        raise ModelError(
            f"model.name = {name!r}: its weights take {whole / 2**30:.1f} GiB, and of the GPUs' {shown} GiB that are free they may take "
            f"{FULL:.0%}",
            "Take a smaller model or more GPUs, or free what other processes hold of them (nvidia-smi shows it).",
        )
    places = spread(layers, whole - sum(layers), list(free.values()))
    above = {block.rsplit(".", depth)[0] for block in blocks for depth in range(1, block.count(".") + 1)} | {
        ""
    }
    beside = [
        part
        for part, _ in model.named_modules()
        if part.rpartition(".")[0] in above and part not in above and part not in blocks
    ]
    # Not "" for all of these: accelerate would put the whole model there first.
    return dict.fromkeys(beside, cards[0]) | {
        block: cards[place] for block, place in zip(blocks, places, strict=True)
    }


def join_layers(model: PreTrainedModel) -> None:
    """Let what a layer reads come to where the layer lies, and what the last one gives go back to the first GPU, in place.

    accelerate, which transformers loads with, does it in every module, linear layers included: a few microseconds of the host for
    each of 500 of them in a token that is decoded, and its hooks would stay on layers that an adapter wraps.
    """
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)
    blocks = dict(_blocks(model))
    for block in blocks.values():
        block.register_forward_pre_hook(_come, with_kwargs=True)
    *_, last = blocks.values()
    last.register_forward_hook(partial(_go, model.device))


def _come(block: nn.Module, args: tuple[Any, ...], more: dict[str, Any]) -> tuple[Any, Any]:
    from accelerate.utils import send_to_device

    device = next(block.parameters()).device
    # A cache keeps each layer's keys and values where the layer is.
    return send_to_device(args, device), send_to_device(more, device, skip_keys="past_key_values")


def _go(home: torch.device, block: Any, args: Any, out: Any) -> Any:  # noqa: ARG001 (the signature is torch's)
    from accelerate.utils import send_to_device

    return send_to_device(out, home)


def is_split(model: PreTrainedModel) -> bool:
    """Whether a model lies on several devices."""
    return len({model.device, *layers_by_device(model)}) > 1


def layers_by_device(model: PreTrainedModel) -> Counter[torch.device]:
    """How many of a model's layers lie on each device."""
    return Counter(next(block.parameters()).device for _, block in _blocks(model))


def by_device(tensors: Iterable[T]) -> list[list[T]]:
    """Tensors in their order, cut where one lies on another device than the one before it."""
    return [list(run) for _, run in groupby(tensors, key=lambda tensor: tensor.device)]


def copied(tensors: Sequence[Tensor], device: str | torch.device) -> list[Tensor]:
    """Copies of at least two tensors on a device."""
    import torch

    parts: list[Tensor] = []
    for run in by_device(tensors):
        # Through one tensor, so that a GPU launches one copy and not one for each matrix.
        whole = torch._utils._flatten_dense_tensors(run).to(device)  # type: ignore[no-untyped-call]
        parts += torch._utils._unflatten_dense_tensors(whole, run)  # type: ignore[no-untyped-call]
    return parts


def _blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """The layers of a model, in their order; adapters may lie in them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [(name, m) for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)]


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.dtype.itemsize for parameter in module.parameters())

"""What computes: by name, and where there is room."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def device_name(device: torch.device) -> str:
    """The GPU's name, or how many CPU cores this process may use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} CPU {'core' if cores == 1 else 'cores'}"


def cards_under(model: PreTrainedModel) -> frozenset[str]:
    """The GPUs that a model lies on, by marks that no other GPU has, on whatever machine."""
    import torch

    devices = {parameter.device for parameter in model.parameters()}
    return frozenset(str(torch.cuda.get_device_properties(d).uuid) for d in devices if d.type == "cuda")


def free_bytes(device: torch.device) -> int:
    """What of a GPU's memory this process can have: what is free, and what it holds without using it."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


ROOM = 1.25
"""Of a model's own size, what a second one takes: its weights, and what a forward of one chat adds."""


def place_beside(model: PreTrainedModel) -> torch.device:
    """Where another model of the same size can be had: this one's device, or the CPU where its memory is short."""
    device: torch.device = model.device
    if device.type != "cuda":
        return device
    return with_room(device, free_bytes(device), model.get_memory_footprint())


def with_room(device: torch.device, free: float, size: float) -> torch.device:
    """A device where its free bytes hold a model of a size, else the CPU."""
    import torch

    return device if free >= ROOM * size else torch.device("cpu")

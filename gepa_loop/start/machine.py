"""What there is to train on, and a model that fits it where none is named."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.model.bundled import SMOLLM
from gepa_loop.model.device import device_name
from gepa_loop.model.split import SPLIT

BY_MEMORY = (
    (20.0, "Qwen/Qwen3-4B-Instruct-2507"),
    (10.0, "Qwen/Qwen2.5-1.5B-Instruct"),
    (0.0, "Qwen/Qwen2.5-0.5B-Instruct"),
)
"""GiB of a GPU from which on a model is proposed."""


@dataclass(frozen=True)
class Machine:
    """What there is to train on."""

    name: str
    gpu_gib: float | None
    """Memory of the GPU; None where there is none that torch can use."""
    free_gib: float
    """What of it is free; without a GPU, what is free of the machine's memory."""
    disk_gib: float
    """Free where runs are written."""


def find_machine(folder: Path, device: str = "auto") -> Machine:
    """This machine, with the disk of a folder and the GPU that a `model.device` names, if any; of a split model all of them."""
    import shutil

    import torch

    disk = shutil.disk_usage(folder).free / 2**30
    if torch.cuda.is_available() and device != "cpu":
        cards = cards_of(device, torch.cuda.device_count())
        free, whole = map(sum, zip(*map(torch.cuda.mem_get_info, cards), strict=True))
        names = ", ".join(device_name(torch.device("cuda", card)) for card in cards)
        return Machine(names, whole / 2**30, free / 2**30, disk)
    return Machine(device_name(torch.device("cpu")), None, free_memory_gib(), disk)


def cards_of(device: str, count: int) -> list[int]:
    """The numbers of the GPUs that a `model.device` means; of one that there is not, the first."""
    if device == SPLIT:
        return list(range(count))
    _, _, number = device.partition("cuda:")
    return [int(number)] if number.isdigit() and int(number) < count else [0]


def free_memory_gib() -> float:
    """Memory that a process can have, within what a control group allows; what a system does not tell is taken to be enough."""
    known = getattr(os, "sysconf_names", {})
    free = math.inf
    if "SC_AVPHYS_PAGES" in known:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = _field(meminfo, "MemAvailable:") * 1024
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.exists() and (most := limit.read_text().strip()).isdigit():
        # Of what files have brought into memory the part that was not used lately is given back at once.
        used = int((group / "memory.current").read_text()) - _field(group / "memory.stat", "inactive_file")
        free = min(free, int(most) - used)
    return free / 2**30


def _field(file: Path, name: str) -> int:
    """The number behind a name in a file of the kernel's; 0 where there is none."""
    for line in file.read_text().splitlines():
        first, *rest = line.split()
        if first == name and rest:
            return int(rest[0])
    return 0


def choose_model(machine: Machine, name: str | None) -> tuple[str, str]:
    """(model, why this one)."""
    if name is not None:
        return name, "as --model says"
    if machine.gpu_gib is None:
        return SMOLLM, (
            f"what {machine.name} train in minutes. It follows short prompts and copies little: `gepa-loop check` shows whether it "
            "follows yours. With a GPU: --model Qwen/Qwen3-4B-Instruct-2507, or any other chat model"
        )
    chosen = next(model for least, model in BY_MEMORY if machine.gpu_gib >= least)
    return (
        chosen,
        f"what fits {machine.name} with {machine.gpu_gib:.0f} GiB; --model takes any other chat model",
    )

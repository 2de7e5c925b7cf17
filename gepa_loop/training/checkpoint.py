"""Checkpoints: adapter, optimiser moments and what the checks found. Tensors are safetensors, the rest JSON."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.files import read_adapter, write_adapter
from gepa_loop.model.origin import Origin
from gepa_loop.run.files import read_json, read_record, write_bytes, write_record
from gepa_loop.training.checks import Check
from gepa_loop.training.records import StateRecord

MOMENTS = "optimizer.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a distillation after `step` steps; seeds are derived, so there is no generator state."""

    step: int
    adapter: Adapter
    moments: Mapping[str, torch.Tensor]
    """AdamW's moments and step count, as "0.<name>"."""
    checks: tuple[Check, ...]
    rows: Mapping[str, int]
    """How many rows of each journal beside the checkpoints are of its steps."""
    teacher: Adapter | None = None
    """Of a teacher that follows the student."""
    weights: Adapter | None = None
    """Those that training goes on from, where `adapter` is an average over steps."""
    baseline: float = 0.0
    """Running mean of the advantages."""
    warm: bool = False
    """The next step is one on the teacher's samples."""
    failed: int = 0
    """Steps in a row before it whose loss or gradient was not finite."""
    halved: str = ""
    """Why the learning rate is half of `distill.lr` from here on; empty where it is whole."""

    def at_half_the_rate(self, why: str) -> Checkpoint:
        """Where training goes on after a stretch that is taken back: from what the check judged, as an average may hide for a while that
        the weights are spoilt. Saved over this one it changes state.json alone, so a process may end anywhere in between."""
        return replace(self, halved=why, weights=None)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, base: Origin) -> None:
    """Write `folder`/step_NNNNNN, complete when its state.json exists."""
    target = folder / f"step_{checkpoint.step:06d}"
    others = {"teacher": checkpoint.teacher, "weights": checkpoint.weights}
    more = {name: adapter for name, adapter in others.items() if adapter is not None}
    # What is saved over itself is a checkpoint that training goes on from in another manner, of the same tensors.
    if not _whole(folder, checkpoint.step):
        write_adapter(target / "adapter", checkpoint.adapter, base)
        for name, adapter in more.items():
            write_adapter(target / name, adapter, base)
        write_bytes(target / MOMENTS, save(dict(checkpoint.moments)))
    state: StateRecord = {
        "step": checkpoint.step,
        "checks": [check.as_dict() for check in checkpoint.checks],
        "rows": dict(checkpoint.rows),
        "more": list(more),
        "baseline": checkpoint.baseline,
        "warm": checkpoint.warm,
        "failed": checkpoint.failed,
        "halved": checkpoint.halved,
    }
    write_record(target / "state.json", state, "adapter", *more, MOMENTS)


def thin_out(folder: Path, step: int) -> None:
    """Leave of the checkpoints before `step` only their adapters: any may be kept in the end, as later checks decide what the
    best one is."""
    target = folder / f"step_{step:06d}"
    others = ("teacher", "weights")
    for old in folder.glob("step_*"):
        if not (old / "state.json").exists():
            # Its process was killed: state.json is written last.
            shutil.rmtree(old)
        elif old != target and (old / MOMENTS).exists():
            # First the record, then the files: wherever a kill falls, no record lists what is gone.
            write_record(old / "state.json", read_json(old / "state.json", StateRecord), "adapter")
            for name in others:
                shutil.rmtree(old / name, ignore_errors=True)
            (old / MOMENTS).unlink()


def at_one_step(folders: Sequence[Path], least: int) -> bool:
    """Take back checkpoints of some students where those of others were not written; whether any were.

    Students that share their steps are saved side by side, and thinned out when all are saved. Going on together from
    where all were, they do the same sums again, and come out the same to the byte.

    Args:
        folders: Of all students that share their steps.
        least: The first step at which one of them goes on.
    """
    ahead = [folder for folder in folders if steps_saved(folder) > least]
    # One that was thinned out says that all were saved: who is behind goes over a stretch again, and nobody waits there.
    if not all(_whole(folder, least) for folder in ahead):
        return False
    for folder in ahead:
        for newer in folder.glob("step_*"):
            if int(newer.name.removeprefix("step_")) > least:
                # First the record: what has none is not complete.
                (newer / "state.json").unlink(missing_ok=True)
                shutil.rmtree(newer)
    return bool(ahead)


def _whole(folder: Path, step: int) -> bool:
    """Whether training can go on from a checkpoint, of which its record has the last word: files go after it."""
    path = folder / f"step_{step:06d}" / "state.json"
    return path.exists() and MOMENTS in read_json(path, dict[str, Any]).get("files", {})


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The last complete checkpoint; None when there is none.

    Raises:
        RunDirectoryError: It, or one before it, is not as it was written.
    """
    states = sorted(folder.glob("step_*/state.json"))
    if not states:
        return None
    # All of them: a damaged one before the last would else be met when it turns out to be the best, after all steps.
    *_, state = [read_record(path, StateRecord, again=folder.parent) for path in states]
    target = states[-1].parent
    return Checkpoint(
        step=state["step"],
        adapter=read_adapter(target / "adapter"),
        moments=load_file(target / MOMENTS),
        checks=tuple(Check(**check) for check in state["checks"]),
        rows=state["rows"],
        teacher=read_adapter(target / "teacher") if "teacher" in state["more"] else None,
        weights=read_adapter(target / "weights") if "weights" in state["more"] else None,
        baseline=state["baseline"],
        warm=state["warm"],
        failed=state["failed"],
        halved=state["halved"],
    )


def adapter_at(folder: Path, step: int) -> Adapter:
    """The student of one check.

    Raises:
        RunDirectoryError: It is not as it was written.
    """
    target = folder / f"step_{step:06d}"
    read_record(target / "state.json", StateRecord, again=folder.parent)
    return read_adapter(target / "adapter")


def steps_saved(folder: Path) -> int:
    """Steps of a half-written distillation's last checkpoint; 0 without one."""
    return max(
        (int(s.parent.name.removeprefix("step_")) for s in folder.glob("step_*/state.json")), default=0
    )


def optimizer_moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """A copy of the optimiser's state as flat named tensors on the CPU: that of one parameter, in which all lie side by side.

    Also where they lie on several devices, so that training goes on however a model is split next time.
    """
    entries = optimizer.state_dict()["state"].values()
    names = list(next(iter(entries), {}))
    return {f"0.{name}": _joined([torch.as_tensor(entry[name]) for entry in entries]) for name in names}


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts of a moment, one behind the other; numbers of steps are equal."""
    if not parts[0].ndim:
        return parts[0].detach().cpu().clone()
    # A copy: on the CPU these are the tensors that AdamW goes on writing into.
    return torch.cat([part.detach().cpu().flatten() for part in parts])


def restore_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, torch.Tensor]) -> None:
    """Put back what `optimizer_moments` took, in place."""
    [parameters] = [group["params"] for group in optimizer.param_groups]
    state: dict[int, dict[str, torch.Tensor]] = {n: {} for n in range(len(parameters) if moments else 0)}
    for key, value in moments.items():
        sizes = [parameter.numel() for parameter in parameters]
        parts = torch.split(value, sizes) if value.ndim else [value] * len(sizes)
        for entry, part in zip(state.values(), parts, strict=True):
            # The optimiser takes a tensor as it is, and writes into it from then on.
            entry[key.partition(".")[2]] = part.clone()
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)

"""What a run takes of memory and disk, at least, as far as a model's outline and a configuration tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.teachers import ModelTeacher
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, EnvironmentFault, ModelError
from gepa_loop.model.base import find_device, resolve_dtype
from gepa_loop.model.outline import Outline, outline
from gepa_loop.model.split import SPLIT
from gepa_loop.stages.counts import students_a_round
from gepa_loop.start.findings import Finding, fault
from gepa_loop.start.machine import Machine, cards_of, find_machine

if TYPE_CHECKING:
    from gepa_loop.lab import Lab
    from gepa_loop.model.base import Base

OPTIMISER = 20
"""Bytes that a student in training has for each parameter of its adapter: weights, gradient, two moments and an average, in float32."""

TIGHT = 0.8
"""Share of the free memory that weights and caches may take before there is a note: activations come on top."""

TEACHER = "the teacher's weights"
"""Of a second model."""

COPY = "the command's copy"
"""Of the models, beside those of its workers."""

QUESTION = 256
"""Tokens that a question is taken to have, before any is made."""


def least_memory(config: Config, model: Outline, machine: Machine, most: int) -> Mapping[str, float]:
    """GiB by what takes them: weights, students in training (`most` of a round, as far as they share their steps), a decoding batch, vLLM. Activations of training come on top, and fit
    themselves to what is left."""
    size = resolve_dtype(config.model.dtype, find_device(config.model.device)).itemsize
    students = min(config.distill.together, most)
    longest = min(config.sampling.max_tokens + QUESTION, model.context)
    rows = min(config.sampling.batch, config.distill.rollouts)
    found: dict[str, float] = {
        "weights": model.parameters * size,
        "1 student" if students == 1 else f"{students} students": students
        * model.trained
        * config.lora.rank
        * OPTIMISER,
        "a decoding batch": rows * longest * model.kv_bytes * size / 2,
    }
    if config.sampling.engine == "vllm" and machine.gpu_gib is not None:
        found["vLLM"] = config.sampling.vllm.memory * machine.gpu_gib * 2**30
    return {name: size / 2**30 for name, size in found.items()}


def weights(model: Outline, dtype: str, device: str) -> float:
    """GiB of a model's."""
    return model.parameters * resolve_dtype(dtype, find_device(device)).itemsize / 2**30


def memory_of_command(lab: Lab, most: int) -> Mapping[str, float]:
    """`least_memory` of the model's device, where it is fullest: the command, which holds the models as each worker does, may share it with one."""
    config = lab.config
    machine = find_machine(Path.cwd(), config.model.device)
    found = {**least_memory(config, outline(config.model), machine, most)}
    copied = found["weights"]
    if lab.teacher is not None and lab.teacher.where == lab.base.where:
        found[TEACHER] = _gib(lab.teacher)
        copied += found[TEACHER]
    return {**found, COPY: copied} if config.cluster.workers else found


def elsewhere(base: Base, teacher: Base | None, workers: int) -> Iterator[str]:
    """What a second model takes that does not lie where the first does, in a line; the command has it as each of its workers does."""
    if teacher is not None and teacher.where != base.where:
        twice = f", and as much for the command's own beside that of one of {workers} workers"
        yield f"{TEACHER} take {_gib(teacher):.1f} GiB more, on {teacher.where}{twice if workers else ''}"


def _gib(model: Base) -> float:
    return float(sum(one.nbytes for one in model.model.parameters())) / 2**30


def memory(config: Config, model: Outline, cwd: Path) -> Iterator[Finding]:
    """Whether what a run takes beside a second model is free; runs are written below `cwd`."""
    machine = find_machine(cwd, config.model.device)
    parts = least_memory(config, model, machine, students_a_round(config))
    yield _fits(
        parts,
        machine.free_gib,
        'Take a smaller model or another device (model.device = "split" is all GPUs together), or lower lora.rank, sampling.batch, '
        "sampling.max_tokens or distill.together.",
    )


def memory_of_teacher(config: Config, model: Outline, teacher: Outline, cwd: Path) -> Iterator[Finding]:
    """The same with a second model as teacher: on its own device, or beside the first.

    Raises:
        ModelError, ConfigError: Its device is none.
    """
    settings = config.teacher
    assert isinstance(settings, ModelTeacher), "the second model is the teacher"
    try:
        need = weights(teacher, settings.dtype, settings.device)
        own, other = _cards(config.model.device), _cards(settings.device)
    except (ModelError, ConfigError) as error:
        raise type(error)(
            *(text.replace("model.", "teacher.", 1) for text in (str(error), error.hint))
        ) from error
    # Where one of them is split, all GPUs.
    device = settings.device if own == other or not own & other else SPLIT
    machine = find_machine(cwd, device)
    parts = {TEACHER: need}
    if own & other:
        parts = {**least_memory(config, model, machine, students_a_round(config)), **parts}
    where = f" on teacher.device = {settings.device!r}"
    hint = 'Take a smaller teacher, or another device for it (teacher.device; "split" is all GPUs together).'
    yield _fits(parts, machine.free_gib, hint, where)


def _cards(device: str) -> frozenset[int]:
    """GPUs of a device; of a machine's own memory one that none is."""
    import torch

    on_gpu = find_device(device).type == "cuda"
    return frozenset(cards_of(device, torch.cuda.device_count()) if on_gpu else [-1])


def _fits(parts: Mapping[str, float], free: float, hint: str, where: str = "") -> Finding:
    need = sum(parts.values())
    shown = ", ".join(f"{name} {gib:.1f}" for name, gib in parts.items())
    told = f"at least {need:.1f} GiB ({shown}), {free:.1f} GiB free{where}"
    if need > free:
        return fault("memory", EnvironmentFault(f"memory: {told}", hint))
    if need > TIGHT * free:
        return Finding("memory", "note", told, "Passes get smaller as memory gets scarce, and a run slower.")
    return Finding("memory", "ok", told)


def most_disk(config: Config, model: Outline) -> float:
    """GiB that the checkpoints and adapters of a loop may take: of the last checkpoint moments, too, of earlier ones weights and average."""
    checks = -(-config.distill.steps // config.distill.check_every)
    each = model.trained * config.lora.rank * (OPTIMISER + 8 * checks)
    return students_a_round(config) * config.loop.rounds * each / 2**30

"""What a run takes of memory and disk, at least, as far as a model's outline and a configuration tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gepa_loop.config.teachers import ModelTeacher
from gepa_loop.config.whole import Config
from gepa_loop.errors import EnvironmentFault
from gepa_loop.model.base import find_device, resolve_dtype
from gepa_loop.model.outline import Outline
from gepa_loop.model.split import SPLIT
from gepa_loop.stages.counts import students_a_round
from gepa_loop.start.findings import Finding
from gepa_loop.start.machine import Machine, cards_of, find_machine

OPTIMISER = 20
"""Bytes that a student in training has for each parameter of its adapter: weights, gradient, two moments and an average, in float32."""

TIGHT = 0.8
"""Share of the free memory that weights and caches may take before there is a note: activations come on top."""

TEACHER = "the teacher's weights"
"""Of a second model."""

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


def memory(config: Config, model: Outline, teacher: Outline | None, cwd: Path) -> Iterator[Finding]:
    """Whether what a run takes is free.

    Args:
        config: Of the run.
        model: That is trained.
        teacher: A second model; where its device is none of the first one's, there.
        cwd: Where runs are written.

    Raises:
        EnvironmentFault: It is not.
    """
    device = config.model.device
    machine = find_machine(cwd, device)
    parts = {**least_memory(config, model, machine, students_a_round(config))}
    settings = config.teacher
    if teacher is not None and isinstance(settings, ModelTeacher):
        need = weights(teacher, settings.dtype, settings.device)
        own, other = _cards(device), _cards(settings.device)
        if own & other:
            parts[TEACHER] = need
            machine = machine if own == other else find_machine(cwd, SPLIT)
        else:
            free = find_machine(cwd, settings.device).free_gib
            yield _fits({TEACHER: need}, free, f" on teacher.device = {settings.device!r}")
    yield _fits(parts, machine.free_gib)


def _cards(device: str) -> frozenset[int]:
    """GPUs of a device; of a machine's own memory one that none is."""
    import torch

    on_gpu = find_device(device).type == "cuda"
    return frozenset(cards_of(device, torch.cuda.device_count()) if on_gpu else [-1])


def _fits(parts: Mapping[str, float], free: float, where: str = "") -> Finding:
    need = sum(parts.values())
    shown = ", ".join(f"{name} {gib:.1f}" for name, gib in parts.items())
    told = f"at least {need:.1f} GiB ({shown}), {free:.1f} GiB free{where}"
    if need > free:
        raise EnvironmentFault(
            f"memory: {told}",
            'Take a smaller model or another device (model.device = "split" is all GPUs together), or lower lora.rank, sampling.batch, '
            "sampling.max_tokens or distill.together.",
        )
    if need > TIGHT * free:
        return Finding("memory", "note", told, "Passes get smaller as memory gets scarce, and a run slower.")
    return Finding("memory", "ok", told)


def most_disk(config: Config, model: Outline) -> float:
    """GiB that the checkpoints and adapters of a loop may take: of the last checkpoint moments, too, of earlier ones weights and average."""
    checks = -(-config.distill.steps // config.distill.check_every)
    each = model.trained * config.lora.rank * (OPTIMISER + 8 * checks)
    return students_a_round(config) * config.loop.rounds * each / 2**30

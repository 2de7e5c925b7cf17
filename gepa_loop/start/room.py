"""What a run takes of memory and disk, at least, as far as a model's outline and a configuration tell."""

from __future__ import annotations

from collections.abc import Mapping

from gepa_loop.config.whole import Config
from gepa_loop.model.base import find_device, resolve_dtype
from gepa_loop.model.outline import Outline
from gepa_loop.stages.counts import students_a_round
from gepa_loop.start.machine import Machine

OPTIMISER = 20
"""Bytes that a student in training has for each parameter of its adapter: weights, gradient, two moments and an average, in float32."""

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


def most_disk(config: Config, model: Outline) -> float:
    """GiB that the checkpoints and adapters of a loop may take: of the last checkpoint moments, too, of earlier ones weights and average."""
    checks = -(-config.distill.steps // config.distill.check_every)
    each = model.trained * config.lora.rank * (OPTIMISER + 8 * checks)
    return students_a_round(config) * config.loop.rounds * each / 2**30

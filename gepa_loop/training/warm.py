"""A beginning with the teacher's own samples, for prompts whose replies the student would never give.

Where the student has no mass, the gradient of the reverse KL vanishes with the student's own probability, and its own rollouts
never visit the teacher's answers. KL(teacher || student) on the teacher's samples has neither fault. They are made once,
before the first step, and read again in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gepa_loop.config.objectives import FullKL
from gepa_loop.config.recipe import DistillConfig
from gepa_loop.config.tables import SamplingConfig
from gepa_loop.config.whole import Config
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.files import read_jsonl, write_jsonl
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.records import Item
from gepa_loop.training.records import TeacherRow
from gepa_loop.training.teacher.base import Teacher

Recorded = Mapping[str, Sequence[Completion]]
"""Item id -> the teacher's completions of it."""

TEACHER_SAMPLES = "teacher.jsonl"


def imitating(config: Config) -> Config:
    """The configuration of a step on the teacher's samples."""
    return config.model_copy(
        update={
            "distill": config.distill.model_copy(update={"on_policy": 0.0}),
            "objective": FullKL(divergence="forward_kl"),
        }
    )


@contextmanager
def by_teacher(
    rollouts: Rollouts, teacher: Teacher, stack: Adapter | None, settings: SamplingConfig
) -> Iterator[Rollouts]:
    """The same, answered by the teacher; where another sampler draws for it, one of the two sleeps."""
    answered = teacher.answers(rollouts, stack, settings)
    if answered.sampler is rollouts.sampler:
        yield answered
        return
    # Another model's: two caches and two sets of weights need not fit on one device.
    rollouts.sampler.sleep()
    yield answered
    answered.sampler.sleep()


def recorded(
    settings: DistillConfig,
    sampling: SamplingConfig,
    rollouts: Rollouts,
    teacher: Teacher,
    stack: Adapter | None,
    folder: Path,
) -> Recorded:
    """The teacher's completions of all items of `train`, `distill.teacher_samples` each.

    Args:
        settings: How many, and how long they may be.
        sampling: How they are drawn.
        rollouts: Of the round.
        teacher: Reads the prompt.
        stack: Adapter of the earlier rounds, part of the teacher.
        folder: Of the distillation; they are in teacher.jsonl there, or are made and written there.

    Raises:
        RunDirectoryError: The file is not as it was written.
    """
    items, samples = rollouts.task.splits["train"], settings.teacher_samples
    path = folder / TEACHER_SAMPLES
    if path.exists():
        # A row that is not as it was written takes the whole distillation with it: steps were trained on what it said.
        rows = read_jsonl(path, TeacherRow, samples * len(items), again=folder)
    else:
        drawn = Sampling(sampling.temperature, settings.longest(sampling.max_tokens))
        prompts = [teacher.prompts[item.id] for item in items]
        with by_teacher(rollouts, teacher, stack, sampling) as answered:
            flat = answered.sample(prompts, items, samples, drawn, "teacher")
        owners = [item for item in items for _ in range(samples)]
        rows = [_row(item, completion) for item, completion in zip(owners, flat, strict=True)]
        write_jsonl(path, rows)
    found: dict[str, list[Completion]] = {}
    for row in rows:
        tokens, logprobs = tuple(row["token_ids"]), tuple(row["logprobs"])
        found.setdefault(row["item"], []).append(Completion(tokens, logprobs, row["finish_reason"]))
    return found


def _row(item: Item, completion: Completion) -> TeacherRow:
    return {
        "item": item.id,
        "token_ids": list(completion.token_ids),
        "logprobs": list(completion.logprobs),
        "finish_reason": completion.finish_reason,
    }

"""One step's rollouts: which items, who answers them, and what the answers are worth."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from gepa_loop.config.objectives import Objective, ObjectiveConfig
from gepa_loop.config.recipe import on_policy_share
from gepa_loop.config.whole import Config
from gepa_loop.distill.batch import Group
from gepa_loop.distill.objectives.base import Completions
from gepa_loop.distill.objectives.choose import rule_of
from gepa_loop.distill.teacher.base import Teacher
from gepa_loop.distill.warm import Recorded, by_teacher
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT


@dataclass(frozen=True)
class Drawn:
    """One item's completions with their scores."""

    item: Item
    by_student: bool
    prompt: tuple[int, ...]
    """The student's."""
    completions: tuple[Completion, ...]
    scores: tuple[float, ...] | None
    """Of the task; 0 for cut completions under `truncated = "zero_reward"`. None where nothing scores the item, or where a
    judge would be paid for scores that train nothing."""

    @property
    def equal(self) -> bool:
        """All completions score the same, so that the group teaches the task nothing.

        The overlong penalty is not looked at: DAPO filters by accuracy.
        """
        return self.scores is None or len(set(self.scores)) == 1


@dataclass(frozen=True)
class Collected:
    """The rollouts of one step, as training reads them."""

    drawn: tuple[Drawn, ...]
    groups: tuple[Group, ...]
    """The same as token ids."""
    batch: Completions
    trained_C: torch.Tensor
    """Completions that count."""
    scored_C: torch.Tensor
    """Completions whose item can be scored; the reward of the others is 0 and is not read."""

    @property
    def completions(self) -> list[Completion]:
        return [completion for one in self.drawn for completion in one.completions]


def collect(
    config: Config,
    rollouts: Rollouts,
    teacher: Teacher | None,
    stack: Adapter | None,
    step: int,
    recorded: Recorded | None = None,
) -> Collected:
    """Sample and score the rollouts of one step, counted from 0.

    Args:
        config: The run's configuration.
        rollouts: Of the round, by the present student.
        teacher: Samples the groups that the student does not.
        stack: Adapter of the earlier rounds.
        step: Items, seeds and horizon depend on it and the round, and on nothing that came before.
        recorded: The teacher's completions, where they are made once; a group takes its item's in turn.
    """
    settings, objective, size = config.distill, config.objective, config.distill.group
    count = settings.rollouts // size
    # A round goes on where the one before would have ended, so that no item comes twice before all have come.
    begun = rollouts.round * settings.steps
    train = rollouts.task.splits["train"]
    items = items_of_step(train, begun + step, count, rollouts.seed)
    share = on_policy_share(settings, objective, config.teacher)
    # Counted on over steps, so that a quarter of two groups is one group of the student's in every second step.
    by_student = [
        int((place + 1) * share) > int(place * share) for place in range(step * count, (step + 1) * count)
    ]
    horizon = settings.max_tokens(step, config.sampling.max_tokens)
    sampling = Sampling(config.sampling.temperature, horizon)

    def sampled(
        wanted: Sequence[Item], own: Sequence[Sequence[int]], student_draws: bool, purpose: str
    ) -> list[Completion]:
        if student_draws:
            return rollouts.sample(own, wanted, size, sampling, purpose)
        assert teacher is not None
        prompts = [teacher.prompts[item.id] for item in wanted]
        with by_teacher(rollouts, teacher, stack, config.sampling) as answered:
            return answered.sample(prompts, wanted, size, sampling, purpose)

    def draw(
        wanted: Sequence[Item], student_draws: bool, purpose: str, epochs: Sequence[int] = ()
    ) -> list[Drawn]:
        if not wanted:
            return []
        own = [tuple(tokens) for tokens in rollouts.renderer.all_tokens(NO_PROMPT, wanted)]
        if recorded is None or student_draws:
            flat = sampled(wanted, own, student_draws, purpose)
        else:
            turns = zip(wanted, epochs, strict=True)
            flat = [c for item, epoch in turns for c in _replayed(recorded[item.id], size, epoch)]
        parts = [tuple(flat[n : n + size]) for n in range(0, len(flat), size)]
        scores = _scores(rollouts, wanted, parts, objective)
        return [
            Drawn(item, student_draws, prompt, part, worth)
            for item, prompt, part, worth in zip(wanted, own, parts, scores, strict=True)
        ]

    own = draw([item for item, yes in zip(items, by_student, strict=True) if yes], True, f"train/{step}")
    first = (begun + step) * count
    teachers = [n for n, yes in enumerate(by_student) if not yes]
    others = draw(
        [items[n] for n in teachers],
        False,
        f"teacher/{step}",
        [(first + n) // len(train) for n in teachers],
    )
    drawn = [(own if yes else others).pop(0) for yes in by_student]
    for attempt in range(objective.redraws):
        dull = [n for n, one in enumerate(drawn) if one.equal]
        fresh = _other_items(train, drawn, len(dull), rollouts.derived("redraw", step, attempt))
        for n, one in zip(dull, draw(fresh, True, f"train/{step}/{attempt}"), strict=False):
            drawn[n] = one
    return _as_tensors(objective, size, teacher, drawn, horizon)


def _replayed(completions: Sequence[Completion], size: int, epoch: int) -> list[Completion]:
    """A group of an item's recorded completions: each epoch goes on where the one before ended."""
    return [completions[(epoch * size + n) % len(completions)] for n in range(size)]


def items_of_step(items: Sequence[Item], step: int, count: int, seed: int) -> list[Item]:
    """The items of one step: shuffled anew each epoch, each read once an epoch."""
    picked = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(items))
        # Shuffled again for each place: a step asks nothing of those before it, and a run that is continued has the same items.
        order = list(range(len(items)))
        random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
        picked.append(items[order[index]])
    return picked


def _other_items(items: Sequence[Item], drawn: Sequence[Drawn], count: int, seed: int) -> list[Item]:
    """`count` items: those that are not drawn yet, and then any; a redraw gives them other completions."""
    taken = {one.item.id for one in drawn}
    free = [item for item in items if item.id not in taken]
    random_ = random.Random(seed)
    fresh = random_.sample(free, min(count, len(free)))
    return fresh + random_.choices(items, k=count - len(fresh))


def _scores(
    rollouts: Rollouts, items: Sequence[Item], parts: Sequence[Sequence[Completion]], objective: Objective
) -> list[tuple[float, ...] | None]:
    """Each item's, as `Drawn` has them."""
    task, zero_cut = rollouts.task, objective.truncated == "zero_reward"
    paid_for_nothing = task.judge is not None and not objective.reads_score
    scored = [n for n, item in enumerate(items) if task.scores(item) and not paid_for_nothing]
    rows = iter(rollouts.scored([items[n] for n in scored], [c for n in scored for c in parts[n]]))
    found: list[tuple[float, ...] | None] = [None] * len(items)
    for n in scored:
        own = islice(rows, len(parts[n]))
        found[n] = tuple(0.0 if zero_cut and row.finish_reason == "length" else row.score for row in own)
    return found


def _as_tensors(
    objective: ObjectiveConfig, size: int, teacher: Teacher | None, drawn: Sequence[Drawn], horizon: int
) -> Collected:
    """The rollouts of groups of `size` completions."""
    rule = rule_of(objective)
    completions = [completion for one in drawn for completion in one.completions]
    lengths_C = torch.tensor([len(c.token_ids) for c in completions])
    truncated_C = torch.tensor([c.finish_reason == "length" for c in completions])
    nothing = (0.0,) * size
    score_C = torch.tensor([score for one in drawn for score in one.scores or nothing])
    equal_C = torch.tensor([one.equal for one in drawn]).repeat_interleave(size)
    groups = [
        Group(
            one.prompt,
            () if teacher is None else teacher.after_prefix(one.item),
            tuple(c.token_ids for c in one.completions),
        )
        for one in drawn
    ]
    batch = Completions(
        lengths_C=lengths_C,
        groups_C=torch.arange(len(drawn)).repeat_interleave(size),
        reward_C=rule.rewards(score_C, lengths_C, horizon),
        truncated_C=truncated_C,
        old_logprob_N=torch.tensor([lp for c in completions for lp in c.logprobs]),
        by_student_C=torch.tensor([one.by_student for one in drawn]).repeat_interleave(size),
    )
    scored_C = torch.tensor([one.scores is not None for one in drawn]).repeat_interleave(size)
    return Collected(tuple(drawn), tuple(groups), batch, rule.trained(score_C, equal_C), scored_C)

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
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Completion, Request, Sampling
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT
from gepa_loop.training.batch import Group
from gepa_loop.training.objectives.base import Completions
from gepa_loop.training.objectives.choose import rule_of
from gepa_loop.training.teacher.base import Teacher
from gepa_loop.training.warm import Recorded, by_teacher


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


@dataclass(frozen=True)
class Planned:
    """Who answers what in a step; nothing is sampled yet."""

    items: tuple[Item, ...]
    by_student: tuple[bool, ...]
    """Who answers each item: the student, or else the teacher."""
    epochs: tuple[int, ...]
    """How often all of `train` was drawn before each item."""
    sampling: Sampling

    def of(self, student: bool) -> list[Item]:
        """The items that the student answers, or those that the teacher does."""
        return [item for item, own in zip(self.items, self.by_student, strict=True) if own is student]


def plan_step(config: Config, rollouts: Rollouts, step: int) -> Planned:
    """A step's items and who answers them, counted from 0: they depend on it and the round, and on nothing that came before."""
    settings = config.distill
    count = settings.rollouts // settings.group
    train = rollouts.task.splits["train"]
    # A round goes on where the one before would have ended, so that no item comes twice before all have come.
    first = (rollouts.round * settings.steps + step) * count
    share = on_policy_share(settings, config.objective, config.teacher)
    return Planned(
        tuple(items_of_step(train, first // count, count, rollouts.seed)),
        # Counted on over steps, so that a quarter of two groups is one group of the student's in every second step.
        tuple(
            int((place + 1) * share) > int(place * share) for place in range(step * count, (step + 1) * count)
        ),
        tuple((first + n) // len(train) for n in range(count)),
        Sampling(config.sampling.temperature, settings.max_tokens(step, config.sampling.max_tokens)),
    )


def asked(config: Config, rollouts: Rollouts, step: int) -> Request:
    """What the student is asked first in a step."""
    items = plan_step(config, rollouts, step).of(True)
    prompts = rollouts.renderer.all_tokens(NO_PROMPT, items) if items else []
    return rollouts.wanted(prompts, items, config.distill.group, f"train/{step}")


def asks_once(config: Config, recorded: Recorded | None) -> bool:
    """Whether nothing is sampled for a step beyond `asked`: no group by the teacher, and none is drawn again."""
    share = on_policy_share(config.distill, config.objective, config.teacher)
    return not config.objective.redraws and (share == 1 or recorded is not None)


def collect(
    config: Config,
    rollouts: Rollouts,
    teacher: Teacher | None,
    stack: Adapter | None,
    step: int,
    recorded: Recorded | None = None,
    answered: Sequence[Completion] | None = None,
) -> Collected:
    """Sample and score the rollouts of one step, counted from 0.

    Args:
        config: The run's configuration.
        rollouts: Of the round, by the present student.
        teacher: Samples the groups that the student does not.
        stack: Adapter of the earlier rounds.
        step: Items, seeds and horizon depend on it and the round, and on nothing that came before.
        recorded: The teacher's completions, where they are made once; a group takes its item's in turn.
        answered: The student's completions of `asked`, where they are there already.
    """
    objective, size = config.objective, config.distill.group
    planned = plan_step(config, rollouts, step)
    train = rollouts.task.splits["train"]

    def by_its_teacher(wanted: Sequence[Item], epochs: Sequence[int]) -> list[Completion]:
        if recorded is not None:
            turns = zip(wanted, epochs, strict=True)
            return [c for item, epoch in turns for c in _replayed(recorded[item.id], size, epoch)]
        assert teacher is not None
        prompts = [teacher.prompts[item.id] for item in wanted]
        with by_teacher(rollouts, teacher, stack, config.sampling) as others:
            return others.sample(prompts, wanted, size, planned.sampling, f"teacher/{step}")

    def drawn_by(student: bool, wanted: Sequence[Item], flat: Sequence[Completion]) -> list[Drawn]:
        own = [tuple(tokens) for tokens in rollouts.renderer.all_tokens(NO_PROMPT, wanted)]
        parts = [tuple(flat[n : n + size]) for n in range(0, len(flat), size)]
        scores = _scores(rollouts, wanted, parts, objective)
        return [
            Drawn(item, student, prompt, part, worth)
            for item, prompt, part, worth in zip(wanted, own, parts, scores, strict=True)
        ]

    def by_the_student(wanted: Sequence[Item], purpose: str) -> list[Completion]:
        own = rollouts.renderer.all_tokens(NO_PROMPT, wanted)
        return rollouts.sample(own, wanted, size, planned.sampling, purpose)

    own, others = list[Drawn](), list[Drawn]()
    if mine := planned.of(True):
        flat = by_the_student(mine, f"train/{step}") if answered is None else answered
        own = drawn_by(True, mine, flat)
    if theirs := planned.of(False):
        epochs = [n for n, yes in zip(planned.epochs, planned.by_student, strict=True) if not yes]
        others = drawn_by(False, theirs, by_its_teacher(theirs, epochs))
    drawn = [(own if yes else others).pop(0) for yes in planned.by_student]
    for attempt in range(objective.redraws):
        dull = [n for n, one in enumerate(drawn) if one.equal]
        fresh = _other_items(train, drawn, len(dull), rollouts.derived("redraw", step, attempt))
        if not fresh:
            break
        again = drawn_by(True, fresh, by_the_student(fresh, f"train/{step}/{attempt}"))
        for n, one in zip(dull, again, strict=False):
            drawn[n] = one
    return _as_tensors(objective, size, teacher, drawn, planned.sampling.max_tokens)


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

"""The configuration's table `distill`, and what follows from it with an objective and a teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gepa_loop.config.kinds import Above0, Decay, Positive, Section, Share, Weight
from gepa_loop.config.objectives import ObjectiveConfig
from gepa_loop.config.tables import TaskConfig
from gepa_loop.config.teachers import TeacherConfig


class DistillConfig(Section):
    """How one prompt's effect is moved into an adapter."""

    steps: Positive = 200
    """At most; `patience` may end it earlier."""
    rollouts: Positive = 64
    """Completions in one step."""
    group: Positive = 4
    """Completions of one item; must divide `rollouts`."""
    on_policy: Share | None = None
    """Share of the groups that the student samples; the teacher samples the others, with its prompt. None: 0 for
    the objective `sft`, for `full_kl` without `adv_tau` 0.5 after a warm start, else 1."""
    warm_start: Weight | None = None
    """Begin with the teacher's samples and KL(teacher || student), until that is at most this many nats a token, or for
    half of the steps; then `on_policy` and the objective hold. For prompts that know something: replies that a student would
    never give are in no rollout of its own, and the reverse KL has no gradient there. 0: no such beginning. None: 0.05 for the
    objective `full_kl`, where the student samples and the teacher stays as it is, else 0."""
    teacher_samples: Positive = 4
    """Completions of each `train` item that the teacher gives for a warm start. They are made once, kept in the run, and
    stand for the teacher's share of later rollouts, too."""
    questions: Annotated[int, Field(ge=0)] = 0
    """More questions of the kind of `train`, written for the run and added to it. They have no answers: the teacher's reply is
    all there is to learn. For `gepa-loop distill` alone (`--questions`)."""
    writer: Literal["model", "reflection"] = "model"
    """Who writes them: the run's own model, at temperature 1, or `optimize.reflection.model`, for at most `optimize.max_usd`."""
    updates: Positive = 1
    """Optimiser steps on one step's rollouts, each on its own share of the groups."""
    horizon: tuple[tuple[Annotated[int, Field(ge=0)], Positive], ...] = ()
    """Progressive horizon: pairs (step, longest completion from there on), the first for step 0. Empty:
    `sampling.max_tokens` throughout."""
    lr: Above0 = 3e-4
    """Highest learning rate. It is halved, once, from the last checkpoint on where the held-out score falls by more than half
    of itself or the divergence from the teacher triples (without `adv_tau`, and where the teacher stays as it is), both beyond noise, or
    losses triple in a warm start or are not finite. It goes on from the average, where there is one."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine` falls from `lr`, at the first optimiser step after the warm-up, to 0 at the last one."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps over which the learning rate rises linearly to `lr`."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: Weight = 0.0
    """AdamW's, of the adapter's weights."""
    max_norm: Above0 = 1.0
    """Gradient norm above which gradients are scaled down."""
    average: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Checks judge, and a run keeps, an average of the student's weights over the steps so far that is behind them by this share of
    the steps; training goes on from the weights. 0: the weights themselves; 0.5: all steps alike. None: 0.15
    where there is a warm start, else 0."""
    check_every: Positive = 10
    """Steps between held-out checks on `pareto`; each is also a checkpoint."""
    pass_at: Annotated[int, Field(ge=0)] = 0
    """k of pass@k at checks, from as many completions of each `pareto` item at `sampling.temperature`; 0: none."""
    control: TaskConfig | None = None
    """Another task whose `pareto` split is scored at checks, too: what the distillation costs elsewhere. No judge scores it."""
    patience: Annotated[int, Field(ge=0)] = 4
    """Stop where so many checks together are not above as many before them by more than one standard error; those of a warm
    start do not count. 0 goes on to the end."""
    stale: Annotated[int, Field(ge=0, le=1)] = 0
    """How many updates old the student is that samples a step's rollouts. With 1 they are sampled beside the update before, so that both overlap
    where workers sample (`cluster.workers`); never across held-out checks. Policy gradients reckon with it by their importance
    ratios; a divergence weighs its tokens by them where `objective.ratio_cap` is set."""
    together: Positive = 8
    """Most students of a race that share their steps, as far as they have 256 rollouts a step between them: one decoding batch and
    one pass for the rows of all, each with its own adapter. 1 trains them one after the other; results are the same up to
    rounding. A teacher other than `base` has them train one after the other, too."""
    micro_tokens: Positive | None = None
    """Tokens in one forward and backward pass; changes memory, not the result. None: 2,048 on the CPU, and on a GPU what
    half of its free memory holds, up to 16,384. Where memory runs out it is halved for good and the update begins anew; rows that do
    not fit at all are recomputed layer by layer in the backward pass."""

    @model_validator(mode="after")
    def _no_judge_watches(self) -> DistillConfig:
        if self.control is not None and self.control.judge is not None:
            raise ValueError(
                "control.scorer = 'model': a judge would be paid at every check for what decides nothing"
            )
        return self

    @model_validator(mode="after")
    def _groups_fit(self) -> DistillConfig:
        if self.rollouts % self.group:
            raise ValueError(f"rollouts ({self.rollouts}) must be a multiple of group ({self.group})")
        if self.updates > self.rollouts // self.group:
            raise ValueError(
                f"updates ({self.updates}) is over the number of groups ({self.rollouts // self.group})"
            )
        steps = [step for step, _ in self.horizon]
        if steps and (steps[0] != 0 or steps != sorted(set(steps))):
            raise ValueError(f"horizon's steps {steps} must begin with 0 and rise")
        return self

    def max_tokens(self, step: int, default: int) -> int:
        """Longest completion of a step (from 0); `default` without a progressive horizon."""
        return next((tokens for first, tokens in reversed(self.horizon) if first <= step), default)

    def longest(self, default: int) -> int:
        """Longest completion of any step; `default` without a progressive horizon."""
        return max((tokens for _, tokens in self.horizon), default=default)


def check_recipe(
    distill: DistillConfig, objective: ObjectiveConfig, teacher: TeacherConfig, temperature: float
) -> None:
    """Refuse combinations that cannot be trained; `temperature` is that of sampling.

    Raises:
        ValueError: Names the values that contradict each other.
    """
    share = on_policy_share(distill, objective, teacher)
    if distill.questions and (why := needs_answers(objective, teacher)):
        raise ValueError(
            f"distill.questions = {distill.questions}: written questions have no answers, and {why}"
        )
    taus = {key: value for key, value in objective.model_dump().items() if key.endswith("_tau")}
    if taus and not any(taus.values()) and not objective.imitates:
        raise ValueError(f"objective.{' = objective.'.join(taus)} = 0: nothing is trained")
    if objective.imitates and objective.adv_tau > 0:
        raise ValueError(
            f"objective.adv_tau: {objective.type} imitates and takes no reward; only_correct rejects by it"
        )
    if distill.warm_start and (objective.reward_alone or teacher.kind in ("live", "ema", "server")):
        who = (
            f"objective {objective.type} reads no teacher"
            if objective.reward_alone
            else f"teacher.kind = {teacher.kind!r}"
        )
        raise ValueError(f"distill.warm_start = {distill.warm_start:g}: its samples are made once, and {who}")
    if objective.reward_alone and teacher.kind != "base":
        raise ValueError(f"teacher.kind = {teacher.kind!r}: objective {objective.type} reads no teacher")
    if teacher.kind == "server" and share < 1:
        raise ValueError(f"teacher.kind = 'server' does not sample, but distill.on_policy is {share:g}")
    if teacher.kind == "server" and objective.outcomes:
        raise ValueError(f"{objective.outcomes}: a server gives its own likeliest tokens; set teacher.top_k")
    if objective.uses_ratio and temperature == 0:
        raise ValueError(
            f"sampling.temperature = 0: objective {objective.type} follows a policy gradient or importance ratios, "
            "and greedy completions have none"
        )
    if distill.stale and objective.old_from_trainer(temperature):
        raise ValueError(
            f"distill.stale = {distill.stale}: ratios are to be over the student that sampled, and objective.old, "
            "the trainer's, is of the one after it; set sampling.temperature to 1 and objective.old to auto"
        )
    if objective.uses_ratio and objective.old == "sampler" and temperature != 1:
        raise ValueError(
            f"objective.old = 'sampler' at sampling.temperature {temperature:g}: its log-probabilities are of "
            "temperature 1; take 'trainer' or 'auto'"
        )
    key, compared = objective.compared_at(temperature) or ("", 1.0)
    if teacher.kind == "server" and compared != 1:
        raise ValueError(
            f"{key} = {compared:g}: teacher.kind = 'server' gives log-probabilities at temperature 1"
        )
    if objective.centres and distill.group < 2:
        raise ValueError("the reward is centred by group: distill.group must be 2 or more")


def needs_answers(objective: ObjectiveConfig, teacher: TeacherConfig) -> str:
    """Why a question without an answer cannot be trained on; empty where it can."""
    if key := objective.reads_score:
        return f"{key} = {getattr(objective, key.rpartition('.')[2])!r} trains on scores"
    return (
        f"teacher.privileged = {teacher.privileged!r} shows a field of the item" if teacher.privileged else ""
    )


WARM_START = 0.05
"""Nats a token. With it the students of four tasks whose prompt carries information kept .94 to 1.07 of its effect greedily, by seed
(Qwen2.5-Coder-0.5B; benchmarks/NOTES.md)."""

AFTER_WARM_START = 0.5
"""Share of groups that the student samples after a warm start. Students kept as much of the prompt as with all of them, and were
nearer to the teacher (benchmarks/NOTES.md). All where a reward is trained: it would move the student as if it had drawn the
teacher's."""


AVERAGE = 0.15
"""Of twelve distillations of four prompts (Qwen2.5-Coder-0.5B) the greedy share at a run's checks spread by .009 with it and by .022 without,
and replies equal to the teacher's were .86 and .84 (docs/results.md)."""


def warm_start(distill: DistillConfig, objective: ObjectiveConfig, teacher: TeacherConfig) -> float:
    """Nats a token at which a warm start ends; 0: there is none."""
    if distill.warm_start is not None:
        return distill.warm_start
    stays, samples = teacher.kind in ("base", "adapter", "model"), distill.on_policy != 0
    return WARM_START if objective.mixes and objective.reads_teacher and stays and samples else 0.0


def averaging(distill: DistillConfig, objective: ObjectiveConfig, teacher: TeacherConfig) -> float:
    """The share of the steps by which the average is behind that is checked and kept; 0: there is none."""
    if distill.average is not None:
        return distill.average
    return AVERAGE if warm_start(distill, objective, teacher) > 0 else 0.0


def on_policy_share(distill: DistillConfig, objective: ObjectiveConfig, teacher: TeacherConfig) -> float:
    """The share of groups that the student samples, after a warm start where there is one.

    Raises:
        ValueError: The objective cannot be trained on such rollouts.
    """
    natural = 0.0 if objective.imitates else 1.0
    if distill.on_policy is None:
        mixes = objective.mixes and not objective.adv_tau
        return AFTER_WARM_START if mixes and warm_start(distill, objective, teacher) > 0 else natural
    if distill.on_policy != natural and not objective.mixes:
        raise ValueError(
            f"distill.on_policy = {distill.on_policy}: objective {objective.type} needs {natural:g}"
        )
    return distill.on_policy


def reads_prompt(distill: DistillConfig, objective: ObjectiveConfig) -> bool:
    """Whether a student depends on the teacher's prompt; where not, all prompts of a round would have the same student."""
    imitates = objective.imitates or bool(distill.warm_start) or distill.on_policy not in (None, 1)
    return objective.reads_teacher or imitates

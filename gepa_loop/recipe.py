"""The configuration's tables of a distillation: the trainer, the objective and the teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from gepa_loop.redact import has_password
from gepa_loop.schema import Name, Positive, Section, TaskConfig

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound comes first")
    return bounds


def _shows_the_value(text: str) -> str:
    if "{value}" not in text:
        raise ValueError("it must hold {value}, which stands for the field")
    return text


def _http(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    if has_password(url):
        raise ValueError(
            "a user and password in an address would be written down; put the key into VLLM_API_KEY"
        )
    return url


Bounds = Annotated[tuple[Weight, Weight], AfterValidator(_ordered)]


class DistillConfig(Section):
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
    weight_decay: Weight = 0.0
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


class Objective(Section):
    """What the objectives share."""

    adv_tau: Weight = 0.0
    """Weight of the task reward's advantage: the reward minus its group's mean."""
    reward_std: bool = False
    """Divide that advantage by the group's standard deviation."""
    normalise: Literal["token", "sequence"] = "token"
    """`token`: mean over all trained tokens of the update; `sequence`: mean over completions of their means."""
    truncated: Literal["keep", "mask", "zero_reward"] = "keep"
    """Completions cut at the horizon: trained like others, not trained, or trained with a reward of 0."""
    skip_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens at the beginning of each completion that are not trained."""
    token_mask: Bounds | None = None
    """Tokens whose ratio student / sampler lies outside are not trained."""
    geo_mask: Bounds | None = None
    """Completions whose geometric mean ratio lies outside are not trained."""
    sequence_mask: Bounds | None = None
    """Completions with any token's ratio outside are not trained."""
    ratio_cap: Above0 | None = None
    """Truncated importance sampling: ratios count as at most this. `full_kl` weighs its divergence by the ratio only
    where this is set."""
    old: Literal["auto", "sampler", "trainer"] = "auto"
    """Whose log-probabilities of the student before the step importance ratios and advantages are made from: the
    sampler's, so that the ratio also corrects for what sampler and trainer compute differently, or those of a further
    forward pass of the trainer (as in SkyRL and verl), so that the first update's ratio is 1. `auto`: the sampler's at
    `sampling.temperature` 1, else the trainer's, since the sampler's are of temperature 1."""

    @property
    def uses_ratio(self) -> bool:
        """It follows a policy gradient, or looks at importance ratios."""
        masks = (self.ratio_cap, self.token_mask, self.geo_mask, self.sequence_mask)
        return self.adv_tau > 0 or any(mask is not None for mask in masks)

    @property
    def reads_teacher(self) -> bool:
        """Its loss depends on what the teacher, with its prompt, makes of the completions."""
        return True

    @property
    def reads_score(self) -> str:
        """The key by which its loss depends on the task's scores; empty where it does not."""
        return "objective.adv_tau" if self.adv_tau > 0 else ""

    def old_from_trainer(self, temperature: float) -> bool:
        """Whether a forward pass of the trainer says what the student's log-probabilities were before the step."""
        return self.uses_ratio and (self.old == "trainer" or (self.old == "auto" and temperature != 1))

    def policy_temperature(self, temperature: float) -> float:
        """The temperature of the log-probabilities that ratios, advantages and policy gradients are made of: that of
        sampling, or 1 where there are none."""
        return temperature if self.uses_ratio else 1.0


class FullKL(Objective):
    """A divergence over the whole vocabulary at every completion token (GKD, OPSD, SDFT, OPCD).

    `sampling.temperature` decides only where it is measured: no gradient goes through the sampling, so none is biased.
    """

    type: Literal["full_kl"] = "full_kl"
    divergence: Literal["reverse_kl", "forward_kl", "jsd"] = "reverse_kl"
    """KL(student || teacher), KL(teacher || student), or the generalised Jensen-Shannon divergence of GKD."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The teacher's share in the mixture of `jsd`."""
    clip: Above0 | None = None
    """Highest part of one vocabulary entry in a token's divergence, in nats, before the sum over the vocabulary; above it
    the entry has no gradient (OPSD)."""
    temperature: Above0 = 1.0
    """Student's and teacher's logits are divided by it before they are compared; 1 compares the models as they are served
    at temperature 1. A task reward beside the divergence has the temperature of sampling."""
    top_k: Positive | None = None
    """Only the student's K likeliest tokens, and all others as one more outcome."""
    teacher_tau: Weight = 1.0
    """Weight of the divergence beside the task reward."""

    @property
    def reads_teacher(self) -> bool:
        return self.teacher_tau > 0


class TokenKL(Objective):
    """The sampled token's log-ratio as its advantage (Thinking Machines, SkyRL, MiniLLM)."""

    type: Literal["token_kl"] = "token_kl"
    teacher_tau: Weight = 1.0
    student_tau: Weight = 1.0
    """The advantage of a token is teacher_tau * teacher's - student_tau * student's log-probability."""
    student: Literal["sampler", "trainer"] = "sampler"
    """Which log-probability of the student: the one from before the step (`sampler`, or whose `old` says), or that of
    the training forward, which moves between the updates of a step."""
    discount: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: each token's own log-ratio; above: the discounted sum of those that follow, too."""
    length_normalise: bool = False
    """Divide that sum by the number of its tokens (MiniLLM)."""
    single_step: bool = False
    """MiniLLM's single-step regularisation: the token's own log-ratio leaves the sum, and its expectation over the whole
    vocabulary, KL(student || teacher), is added to the loss: the same gradient on average, with less variance."""
    centre: Literal["none", "group", "running", "whiten"] = "none"
    """What is subtracted from the advantages: nothing, the mean of the group's tokens, a running mean, or (`whiten`) the
    mean of the step's tokens, before a division by their standard deviation."""

    @property
    def reads_teacher(self) -> bool:
        return self.teacher_tau > 0

    @property
    def uses_ratio(self) -> bool:
        return True

    @model_validator(mode="after")
    def _fits(self) -> TokenKL:
        if self.student == "trainer" and (self.discount > 0 or self.centre != "none"):
            raise ValueError("student = 'trainer' allows neither a discount nor centring")
        if (self.length_normalise or self.single_step) and not self.discount:
            raise ValueError("length_normalise and single_step are about a sum: set discount above 0")
        if self.single_step and self.teacher_tau != self.student_tau:
            raise ValueError(
                f"single_step needs teacher_tau ({self.teacher_tau}) and student_tau ({self.student_tau}) to be equal"
            )
        return self


class SequenceKL(Objective):
    """One reward for each completion, from the sums of log-probabilities (the prime-rl fork)."""

    type: Literal["sequence_kl"] = "sequence_kl"
    teacher_tau: Weight = 1.0
    student_tau: Weight = 1.0
    kl_tau: Weight = 0.0
    """Weight of the log-ratio student / sampler in a token's coefficient."""
    kl_std: bool = False
    """Divide the log-probabilities' part of the advantage by its group's standard deviation, too; the two parts are
    normalised apart and then added. Needs `use_full_reward_baseline`."""
    use_full_reward_baseline: bool = True
    """The group's mean is taken of the whole reward; otherwise of the task reward alone, and the log-probabilities
    count for each token."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of a token: its own, or its completion's product, which counts as at most 10."""

    @property
    def reads_teacher(self) -> bool:
        return self.teacher_tau > 0

    @property
    def uses_ratio(self) -> bool:
        return True

    @model_validator(mode="after")
    def _kl_has_a_group(self) -> SequenceKL:
        if self.kl_std and not self.use_full_reward_baseline:
            raise ValueError("kl_std = true needs use_full_reward_baseline = true")
        return self


class GRPO(Objective):
    """The task reward alone (GRPO, DAPO)."""

    type: Literal["grpo"] = "grpo"
    adv_tau: Weight = 1.0
    reward_std: bool = True
    reward: tuple[float, float] = (0.0, 1.0)
    """The reward of a score of 0 and of a score of 1; between them it is linear. Its width is what penalties are
    measured by (DAPO: -1 and 1)."""
    clip: tuple[Share, Weight] = (0.2, 0.2)
    """The surrogate is clipped outside [1 - low, 1 + high]."""
    kl_tau: Weight = 0.0
    """Weight of the k3 estimate of KL(student || base), both without a prompt."""
    redraw: Annotated[int, Field(ge=0)] = 0
    """Dynamic sampling: how often groups whose rewards are all equal are replaced by other items."""
    drop_equal: bool = False
    """Groups whose rewards are all equal are not trained and not counted."""
    overlong: Annotated[int, Field(ge=0)] = 0
    """Soft overlong penalty: over the last so many tokens of the horizon the reward falls linearly by 1."""

    @property
    def reads_teacher(self) -> bool:
        return False

    @property
    def reads_score(self) -> str:
        return "objective.type"

    @property
    def uses_ratio(self) -> bool:
        return True

    @model_validator(mode="after")
    def _reward_rises(self) -> GRPO:
        if self.reward[0] >= self.reward[1]:
            raise ValueError(
                f"reward = {list(self.reward)}: the reward of a full score must be the higher one"
            )
        return self


class SFT(Objective):
    """The teacher samples with the prompt, at `sampling.temperature`; the student, at temperature 1, imitates what it
    wrote without the prompt (context distillation)."""

    type: Literal["sft"] = "sft"
    loss: Literal["cross_entropy", "forward_kl"] = "cross_entropy"
    """Of the teacher's tokens, or of its whole distribution at each."""
    only_correct: bool = False
    """Rejection sampling: train only completions with a full score."""

    @property
    def reads_score(self) -> str:
        return "objective.only_correct" if self.only_correct else ""


ObjectiveConfig = Annotated[FullKL | TokenKL | SequenceKL | GRPO | SFT, Field(discriminator="type")]


class Teacher(Section):
    """What the teachers share."""

    privileged: str = ""
    """A field of the item (`answer`, or any field of its record) that only the teacher reads, after its prompt."""
    privileged_text: Annotated[str, AfterValidator(_shows_the_value)] = (
        "For your eyes only, the reference: {value}"
    )
    """How it is shown; {value} stands for the field."""

    @property
    def moves(self) -> bool:
        """It follows the student, whose distance from it says nothing of how much is learnt."""
        return False


class BaseTeacher(Teacher):
    """The model as the round found it, without the new adapter."""

    kind: Literal["base"] = "base"


class LiveTeacher(Teacher):
    """The student's present weights."""

    kind: Literal["live"] = "live"

    @property
    def moves(self) -> bool:
        return True


class EmaTeacher(Teacher):
    """A moving average of the student's weights."""

    kind: Literal["ema"] = "ema"
    rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """After each step, however many updates it has: rate * student + (1 - rate) * average."""

    @property
    def moves(self) -> bool:
        return True


class AdapterTeacher(Teacher):
    """The base model with another LoRA adapter."""

    kind: Literal["adapter"] = "adapter"
    path: Name
    """The adapter's folder."""


class ModelTeacher(Teacher):
    """A second model with the same vocabulary."""

    kind: Literal["model"] = "model"
    name: Name
    """As `model.name`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Name = "auto"


class ServerTeacher(Teacher):
    """A model with the same vocabulary on a vLLM server; a key is read from VLLM_API_KEY."""

    kind: Literal["server"] = "server"
    url: Annotated[str, AfterValidator(_http)]
    """Where it is, without a path."""
    name: Name
    """The model's name there."""
    top_k: Positive = 20
    """How many of its likeliest tokens it gives at each position; all others count as one outcome."""
    seconds: Above0 = 300.0
    """Longest wait for a whole answer, however steadily it drips."""


TeacherConfig = Annotated[
    BaseTeacher | LiveTeacher | EmaTeacher | AdapterTeacher | ModelTeacher | ServerTeacher,
    Field(discriminator="kind"),
]


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
    if taus and not any(taus.values()) and not isinstance(objective, SFT):
        raise ValueError(f"objective.{' = objective.'.join(taus)} = 0: nothing is trained")
    if isinstance(objective, SFT) and objective.adv_tau > 0:
        raise ValueError("objective.adv_tau: sft imitates and takes no reward; only_correct rejects by it")
    if distill.warm_start and (objective.type == "grpo" or teacher.kind in ("live", "ema", "server")):
        who = (
            "objective grpo reads no teacher"
            if objective.type == "grpo"
            else f"teacher.kind = {teacher.kind!r}"
        )
        raise ValueError(f"distill.warm_start = {distill.warm_start:g}: its samples are made once, and {who}")
    if isinstance(objective, GRPO) and teacher.kind != "base":
        raise ValueError(f"teacher.kind = {teacher.kind!r}: objective grpo reads no teacher")
    if teacher.kind == "server" and share < 1:
        raise ValueError(f"teacher.kind = 'server' does not sample, but distill.on_policy is {share:g}")
    if teacher.kind == "server" and isinstance(objective, FullKL) and objective.top_k is not None:
        raise ValueError("objective.top_k: a server gives its own likeliest tokens; set teacher.top_k")
    if objective.uses_ratio and temperature == 0:
        raise ValueError(
            f"sampling.temperature = 0: objective {objective.type} follows a policy gradient or importance ratios, "
            "and greedy completions have none"
        )
    if objective.uses_ratio and objective.old == "sampler" and temperature != 1:
        raise ValueError(
            f"objective.old = 'sampler' at sampling.temperature {temperature:g}: its log-probabilities are of "
            "temperature 1; take 'trainer' or 'auto'"
        )
    if teacher.kind == "server":
        compared = objective.temperature if isinstance(objective, FullKL) else temperature
        which = "objective" if isinstance(objective, FullKL) else "sampling"
        if isinstance(objective, FullKL | TokenKL | SequenceKL) and compared != 1:
            raise ValueError(
                f"{which}.temperature = {compared:g}: teacher.kind = 'server' gives log-probabilities at temperature 1"
            )
    centred = isinstance(objective, SequenceKL) and objective.use_full_reward_baseline
    if (objective.adv_tau > 0 or centred) and distill.group < 2:
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
(Qwen2.5-Coder-0.5B; benchmarks/RESULTS.md)."""

AFTER_WARM_START = 0.5
"""Share of groups that the student samples after a warm start. Students kept as much of the prompt as with all of them, and were
nearer to the teacher (benchmarks/RESULTS.md). All where a reward is trained: it would move the student as if it had drawn the
teacher's."""


AVERAGE = 0.15
"""Of twelve distillations of four prompts (Qwen2.5-Coder-0.5B) the greedy share at a run's checks spread by .009 with it and by .022 without,
and replies equal to the teacher's were .86 and .84 (benchmarks/RESULTS.md)."""


def warm_start(distill: DistillConfig, objective: ObjectiveConfig, teacher: TeacherConfig) -> float:
    """Nats a token at which a warm start ends; 0: there is none."""
    if distill.warm_start is not None:
        return distill.warm_start
    stays, samples = teacher.kind in ("base", "adapter", "model"), distill.on_policy != 0
    return (
        WARM_START if objective.type == "full_kl" and objective.reads_teacher and stays and samples else 0.0
    )


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
    natural = 0.0 if objective.type == "sft" else 1.0
    if distill.on_policy is None:
        mixes = objective.type == "full_kl" and not objective.adv_tau
        return AFTER_WARM_START if mixes and warm_start(distill, objective, teacher) > 0 else natural
    if distill.on_policy != natural and objective.type != "full_kl":
        raise ValueError(
            f"distill.on_policy = {distill.on_policy}: objective {objective.type} needs {natural:g}"
        )
    return distill.on_policy


def reads_prompt(distill: DistillConfig, objective: ObjectiveConfig) -> bool:
    """Whether a student depends on the teacher's prompt; where not, all prompts of a round would have the same student."""
    imitates = objective.type == "sft" or bool(distill.warm_start) or distill.on_policy not in (None, 1)
    return objective.reads_teacher or imitates

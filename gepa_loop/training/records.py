"""A distillation on disk: what each step saw, what each check found, and who is kept."""

from __future__ import annotations

from typing import Literal, TypedDict

from gepa_loop.sampling.base import FinishReason, SelfMeasured


class CheckMetrics(TypedDict, total=False):
    """What a held-out check adds to its step's row."""

    held_out_score: float
    """0 to 1, at checks: the student without a prompt on `pareto`; where there is one (`distill.average`), the average of its weights over the
    steps."""
    held_out_kl: float
    """>= 0, nats a token, at checks: KL(student || teacher) of that student on those replies, over the whole vocabulary (a server's: over its K and
    the rest); the mean over items of means over tokens. Not where the objective reads no teacher or the teacher a privileged field.
    Where the task has no answers exp(-KL) of each item is what chooses the step."""
    pass_at_k: float
    """0 to 1, at checks, with `distill.pass_at`: items of `pareto` of which one of so many sampled replies has a full score."""
    control_score: float
    """0 to 1, at checks, with `distill.control`: on the other task."""


class StepMetrics(SelfMeasured, CheckMetrics):
    """What one step's rollouts and updates were like."""

    step: int
    """From 1."""
    loss: float | None
    """Any sign: what was minimised, mean over the step's updates; a weighted mean over trained tokens."""
    reverse_kl: float | None
    """>= 0, nats a token: KL(student || teacher): over the whole vocabulary, at temperature 1, for `full_kl`, `sft` with `forward_kl`
    and `token_kl` with `single_step`; else the k3 estimate from the sampled tokens, at the temperature of sampling (for `grpo`: from
    the base)."""
    teacher_likelihood: float | None
    """0 to 1: the probability that the student gives a token of the teacher's samples, before the step; the geometric mean over
    tokens."""
    reward_mean: float | None
    """Task's score: mean over the completions of items that can be scored, null where there are none, and where a judge scores that the
    objective does not read; for `grpo` as `objective.reward` has it, with penalties."""
    advantage_std: float | None
    """>= 0: standard deviation of the tokens' advantages before the training forward."""
    trained_share: float | None
    """0 to 1: tokens that count in the loss."""
    ratio_masked_share: float | None
    """0 to 1: of those, tokens outside an importance-ratio mask."""
    geo_ratio: float | None
    """> 0: geometric mean of the importance ratios (student over `objective.old`) over a completion, mean over the student's
    completions."""
    mismatch_abs: float | None
    """>= 0, nats: mean absolute difference of sampler's and trainer's log-probabilities of the sampled tokens, at temperature 1."""
    mismatch_kl: float | None
    """>= 0, nats a token: k3 estimate of KL(sampler || trainer); rounding, or staleness with several updates a step."""
    entropy: float | None
    """>= 0, nats a token: of the student, at temperature 1."""
    completion_tokens_mean: float | None
    """Tokens: mean length of the completions."""
    truncated_share: float | None
    """0 to 1: completions cut at the horizon."""
    grad_norm: float | None
    """>= 0: before clipping; the largest of the step's updates."""
    lr: float | None
    """> 0: of the step's first update."""
    seconds: dict[str, float]
    """By phase: `generate`, `teacher`, `forward`, `loss`, `backward`, `optimizer`, `check`; those of a step that several students share are
    divided among them."""
    tokens_per_second: float
    """Completion tokens, of the step without its check."""
    micro_tokens: int
    """Most positions of one forward and backward pass; less than before where memory ran out."""
    recomputed: bool
    """One completion was too long to keep what its backward pass needs, which was computed again."""
    peak_memory_gib: float
    """GiB: highest so far, of the GPU that had to hold most (a teacher may lie on another than the model), or else of the process."""


class MetricsRow(StepMetrics):
    """One row for each step of a distillation. A value that is not finite, or that the objective has none of, is null."""

    warm: bool
    """A step of `distill.warm_start`, on the teacher's samples; later ones are as `distill.on_policy` and the objective say."""
    skipped: bool
    """The loss or its gradient was not finite, and the weights stayed as they were."""
    halved: str
    """Why the learning rate is half of `distill.lr` from this stretch on; empty where it is not. Rows of the stretch that was taken back
    are gone."""


class SampleRow(TypedDict):
    """The first completions of each step with the log-probabilities of their tokens: at the temperature of sampling where the objective
    compares the sampled tokens' log-probabilities, else at 1."""

    step: int
    """From 1."""
    item: str
    """The item's id."""
    by: Literal["student", "teacher"]
    """Who sampled it."""
    reward: float | None
    """Task's score, as the objective has it; null where the item is not scored."""
    completion: str
    """As text, special tokens included."""
    finish_reason: FinishReason
    """`stop`, or `length` where it was cut at the horizon."""
    token_ids: list[int]
    """What was sampled, with the stop token where there was one."""
    student_logprobs: list[float]
    """<= 0, nats, before the step."""
    teacher_logprobs: list[float | None]
    """<= 0, nats; null where no teacher read."""


class TeacherRow(TypedDict):
    """The teacher's samples of the items of `train`, after a warm start, item by item: they are made once."""

    item: str
    """The item's id."""
    token_ids: list[int]
    """What was sampled, with the stop token where there was one."""
    logprobs: list[float]
    """<= 0, nats: the teacher's, at temperature 1."""
    finish_reason: FinishReason
    """`stop`, or `length` where it was cut at the horizon."""


class CheckRecord(TypedDict):
    """What a held-out check found of the student without a prompt."""

    step: int
    """0 is before the first one."""
    scores: dict[str, float]
    """Item -> mean score over its samples, 0 to 1."""
    warm: bool
    """The step after it is still one on the teacher's samples."""
    kl: dict[str, float]
    """Item -> KL(student || teacher) of the same replies, nats a token; empty where it does not judge."""
    warm_losses: list[float]
    """KL(teacher || student) of the warm start's steps since the check before, nats a token, without those that are not finite."""


class StateRecord(TypedDict):
    """A checkpoint, complete when this file exists. The last one has the optimiser's moments beside it, the earlier ones their adapter
    alone."""

    step: int
    """Steps that were taken."""
    checks: list[CheckRecord]
    """All so far."""
    rows: dict[str, int]
    """Journal -> how many of its rows are of these steps."""
    more: list[str]
    """Further adapters beside it: `teacher`, where it follows the student, and `weights`, from which training goes on where
    `adapter` is an average."""
    baseline: float
    """Running mean of the advantages."""
    warm: bool
    """The next step is one on the teacher's samples."""
    failed: int
    """Steps in a row before it whose loss or gradient was not finite."""
    halved: str
    """Why the learning rate is half of `distill.lr` from here on; empty where it is whole."""


class ChoiceRecord(TypedDict):
    """Which check's student is kept, and why. Its scores are of the items that chose it, and high by that."""

    step: int
    """The kept one."""
    score: float
    """0 to 1, at that check alone."""
    smoothed: float
    """0 to 1, over neighbouring checks."""
    best: int
    """The step with the highest smoothed score."""
    difference: float
    """That score less the kept one's."""
    standard_error: float
    """Of the difference, over the items."""
    reason: str
    """In words."""


class LastRecord(TypedDict):
    """The last check."""

    step: int
    """Its step."""
    score: float
    """Held-out score, 0 to 1."""


class MismatchRecord(TypedDict):
    """Of sampler and trainer, on fixed prompts."""

    nats: float
    """>= 0, a token: mean absolute difference of their log-probabilities."""
    effect: float
    """>= 0, nats a token: what the adapter changes, to compare it with."""


class ControlRecord(TypedDict):
    """Mean scores on the control task, without a prompt, 0 to 1."""

    before: float
    """Of the model that the student stands on."""
    after: float
    """Of the student."""


class DistilledRecord(TypedDict):
    """What a distillation ended with."""

    before: float
    """Held-out score before the first step, 0 to 1."""
    last: LastRecord
    """Held-out score after the last one."""
    choice: ChoiceRecord
    """Which step is kept and why."""
    ended: str
    """Which limit ended it, in words."""
    forgetting: float
    """>= 0, nats a token: KL(model || student) on eight neutral texts."""
    control: ControlRecord | None
    """Scores on `distill.control`; null without one."""
    kl: float | None
    """>= 0, nats a token: KL(student || teacher) of the kept student's held-out replies; null where it was not measured."""
    mismatch: MismatchRecord
    """Of sampler and trainer with this student."""
    stack: str | None
    """The fingerprint of the adapter that it stands on; null is the bare base."""

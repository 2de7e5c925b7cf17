"""The configuration's table `objective`, which is one of several."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gepa_loop.config.kinds import Above0, Bounds, Positive, Section, Share, Weight


class Objective(Section):
    """What the objectives share."""

    reads_before: ClassVar[bool] = False
    """Somebody's log-probabilities of the sampled tokens are read before the student's own forward."""
    reward_alone: ClassVar[bool] = False
    """There is no teacher to choose: the task's reward is all there is."""
    imitates: ClassVar[bool] = False
    """It trains on what the teacher wrote, whatever that is worth."""
    mixes: ClassVar[bool] = False
    """Completions of the student and of the teacher can be trained together, as nothing depends on who sampled a token."""
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
    def anchored(self) -> bool:
        """The base without a prompt is read, which the student is held to."""
        return False

    @property
    def centres(self) -> bool:
        """Something is measured from its group's mean."""
        return self.adv_tau > 0

    @property
    def outcomes(self) -> str:
        """The key by which the student says over which outcomes it is compared; empty where it does not."""
        return ""

    def compared_at(self, temperature: float) -> tuple[str, float] | None:  # noqa: ARG002 (others read it)
        """The key of the temperature at which the teacher's log-probabilities are read, and its value; None where it is 1.

        Args:
            temperature: Of sampling.
        """
        return None

    @property
    def redraws(self) -> int:
        """How often groups that teach nothing are drawn again."""
        return 0

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

    mixes = True
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

    @property
    def outcomes(self) -> str:
        return "" if self.top_k is None else "objective.top_k"

    def compared_at(self, temperature: float) -> tuple[str, float]:  # noqa: ARG002 (the same call for all)
        return "objective.temperature", self.temperature


class TokenKL(Objective):
    """The sampled token's log-ratio as its advantage (Thinking Machines, SkyRL, MiniLLM)."""

    reads_before = True
    type: Literal["token_kl"] = "token_kl"
    teacher_tau: Weight = 1.0
    """Weight of the teacher's log-probability in a token's advantage; see `student_tau`."""
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

    def compared_at(self, temperature: float) -> tuple[str, float]:
        return "sampling.temperature", temperature

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

    reads_before = True
    type: Literal["sequence_kl"] = "sequence_kl"
    teacher_tau: Weight = 1.0
    """Weight of the teacher's log-probability of the completion in its reward."""
    student_tau: Weight = 1.0
    """Weight of the student's, as the sampler has it, which is subtracted."""
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

    @property
    def centres(self) -> bool:
        return self.adv_tau > 0 or self.use_full_reward_baseline

    def compared_at(self, temperature: float) -> tuple[str, float]:
        return "sampling.temperature", temperature

    @model_validator(mode="after")
    def _kl_has_a_group(self) -> SequenceKL:
        if self.kl_std and not self.use_full_reward_baseline:
            raise ValueError("kl_std = true needs use_full_reward_baseline = true")
        return self


class GRPO(Objective):
    """The task reward alone (GRPO, DAPO)."""

    reward_alone = True
    reads_before = True
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
    def anchored(self) -> bool:
        return self.kl_tau > 0

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

    @property
    def redraws(self) -> int:
        return self.redraw


class SFT(Objective):
    """The teacher samples with the prompt, at `sampling.temperature`; the student, at temperature 1, imitates what it
    wrote without the prompt (context distillation)."""

    imitates = True
    type: Literal["sft"] = "sft"
    loss: Literal["cross_entropy", "forward_kl"] = "cross_entropy"
    """Of the teacher's tokens, or of its whole distribution at each."""
    only_correct: bool = False
    """Rejection sampling: train only completions with a full score."""

    @property
    def reads_score(self) -> str:
        return "objective.only_correct" if self.only_correct else ""


ObjectiveConfig = Annotated[FullKL | TokenKL | SequenceKL | GRPO | SFT, Field(discriminator="type")]

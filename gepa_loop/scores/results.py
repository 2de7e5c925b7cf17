"""What a loop says of itself on disk: the decision of each round, and the result."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from gepa_loop.scores.card import Way
from gepa_loop.scores.records import CardRecord, DifferenceRecord, EstimateRecord, RatioRecord


class ContenderRecord(TypedDict):
    """A prompt that a search handed on, on `select`."""

    id: str
    """Of the prompt."""
    prompted: EstimateRecord | None
    """With the prompt; null where its student is not tested."""
    student: EstimateRecord | None
    """Of its student, without a prompt; null where it is not tested."""
    skipped: str | None
    """Why, in words."""


class DroppedRecord(TypedDict):
    """A student whose race ended at a rung."""

    id: str
    """Of its prompt."""
    behind: float
    """0 to 1: mean over items of what the leader has less what it has; what is compared is the student's score, with
    `race.prompt` of its prompt's."""
    error: float
    """Standard error of that mean."""
    reason: str
    """In words and numbers."""


class RungRecord(TypedDict):
    """A rung of a round's race: students without a prompt, on the same items."""

    step: int
    """After which they were looked at."""
    split: str
    """`race`, or `pareto` where that has no items."""
    scores: dict[str, float]
    """Prompt -> its student's mean."""
    prompts: dict[str, float]
    """Prompt -> its own mean on these items, on the round's model."""
    living: list[str]
    """Who trained on, best first."""
    dropped: list[DroppedRecord]
    """Who did not."""


class RoundRecord(TypedDict):
    """Who won a round and why."""

    round: int
    """From 0."""
    winner: str | None
    """The winner's prompt."""
    reason: str
    """In words and numbers."""
    ended: str | None
    """Why the loop ends with this round, which has no winner, however many are asked for: another one would have nothing new to try. Null
    where it would, and after a winner."""
    candidates: list[ContenderRecord]
    """Those that the search handed on, best first."""


class RunnerUpRecord(TypedDict):
    """The best student beside a winner, on `select`."""

    id: str
    """Of its prompt."""
    difference: DifferenceRecord
    """The winner's score less its own."""


class VerdictRecord(TypedDict):
    """What a decision was made of."""

    base: EstimateRecord
    """The round's model without a prompt, on `select`."""
    ranking: list[str]
    """The students, best first."""
    differences: dict[str, DifferenceRecord]
    """Candidate -> student - base, p before any correction."""
    adjusted_p: dict[str, float]
    """Candidate -> p after Holm's correction."""
    oracle: float | None
    """Mean over items of the best student's score on each, which no student can be expected to reach; null below two."""
    runner_up: RunnerUpRecord | None
    """Whether the winner is better than the next one; null without a winner, and where it was tested alone."""


class DecisionRecord(RoundRecord, VerdictRecord):
    """Who won a round and why, in words and numbers."""

    level: float
    """Of the test."""
    race: list[RungRecord]
    """Its rungs, in order; none where there were no more students than are tested."""


class GainsRecord(TypedDict):
    """A model without a prompt, with one, and the student that stands on it, on `test`; null for what needs a student."""

    base: CardRecord
    """Without a prompt."""
    prompted: CardRecord
    """With it."""
    student: CardRecord | None
    """Without it, after the distillation."""
    prompted_minus_base: DifferenceRecord
    """What the prompt gains."""
    student_minus_base: DifferenceRecord | None
    """What the student gains."""
    student_minus_prompted: DifferenceRecord | None
    """What it lacks of the prompted model, where below 0."""


class RoundTest(TypedDict):
    """What `test` said of a round."""

    test: GainsRecord | None
    """On the model as the round found it, as what decides was drawn; null without a winner."""
    internalisation: RatioRecord | None
    """(student - base) / (prompted - base); null where the prompt's gain may be 0, or there is no winner."""


class RoundResult(RoundRecord, RoundTest):
    """A round of a finished loop."""


class TokensRecord(TypedDict):
    """Lengths in tokens: of the system turn, and mean ones of the replies, as what decides was drawn."""

    prompt: int
    """Of the system turn with the prompt."""
    bare: int
    """Without it: what the chat template adds of itself."""
    base: float
    """Of the base's replies."""
    prompted: float
    """Of the prompted model's."""
    student: NotRequired[float]
    """Of the student's, where there is one."""


class WholeTest(TypedDict):
    """What `test` said of a whole loop: the model without anything against the last student."""

    decides: Way
    """Whether scores of greedy or of sampled replies decide."""
    test: GainsRecord
    """As what decides was drawn. `prompted` is the last winner's prompt on the model that its round found; without a winner the best
    prompt of the last round."""
    greedy: GainsRecord
    """The same greedily."""
    sampled: GainsRecord
    """And sampled."""
    tokens: TokensRecord
    """Lengths."""
    internalisation: RatioRecord | None
    """Of the last round that has a winner."""


class LoopRecord(WholeTest):
    """The outcome of a loop."""

    status: str
    """`done`, or `null` where no round has a winner."""
    seed: int
    """Of the config."""
    adapter: str | None
    """Where the student lies in the run: the last winner's adapter, on top of those of the rounds before."""
    prompt: str
    """Where the last winner's prompt lies; without a winner that of the best prompt."""
    rounds: list[RoundResult]
    """In order."""

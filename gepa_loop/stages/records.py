"""What the stages that are no search and no distillation write: results of `distill` and `evaluate`, questions, a judge's spread."""

from __future__ import annotations

from typing import Literal, TypedDict

from gepa_loop.scores.card import Way
from gepa_loop.scores.records import CardRecord, DifferenceRecord, RatioRecord


class ChangesRecord(TypedDict):
    """What became of single items, each as far as its score went."""

    kept: float | None
    """0 to 1: of what the prompt gains on items, the share that the student gains on the same ones; null where it gains none."""
    beyond: float
    """0 to 1: what the student has above both the prompted and the bare model, the mean over items."""
    broke: float
    """0 to 1: what the bare model has and the student lacks, the mean over items."""


class RetainedRecord(ChangesRecord):
    """What a student keeps of its prompt, on `test`, one way of drawing."""

    base: CardRecord
    """The bare model."""
    prompted: CardRecord
    """The same with the prompt."""
    student: CardRecord
    """The student without it."""
    student_prompted: CardRecord
    """The student with the prompt."""
    prompted_minus_base: DifferenceRecord
    """What the prompt gains."""
    student_minus_base: DifferenceRecord
    """What the student gains."""
    student_minus_prompted: DifferenceRecord
    """What it lacks of the prompted model, where below 0."""
    internalisation: RatioRecord | None
    """(student - base) / (prompted - base); null where the prompt's gain may be 0, or the objective reads no prompt."""


class ExampleRecord(TypedDict):
    """Greedy replies to one question, side by side."""

    item: str
    """The item's id."""
    question: str
    """Its last turn."""
    base: str
    """The bare model's reply."""
    prompted: str
    """The prompted one's."""
    student: str
    """The student's."""


class TurnRecord(TypedDict):
    """A turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """What it says."""


class ItemRow(TypedDict):
    """One row for each item of `test`, those first on which the student's greedy score falls furthest behind its prompt's, and where
    the student and the prompted model disagree on the student's greedy reply. It is read of the first 200 alone."""

    item: str
    """The item's id."""
    turns: list[TurnRecord]
    """What was asked."""
    answer: str
    """What was expected; empty where only a scorer knows, and the prompted model's reply where the task has no answers."""
    student: str | None
    """Fingerprint of the adapter that is compared; null where there is no student."""
    pieces: list[str]
    """The tokens of the student's greedy reply as text, which joined are the reply. Empty is what ends no character yet, and a stop
    token. None where the reply was not read."""
    nats: list[float]
    """>= 0, of each piece: KL(student without the prompt || model that its round found, with it) at that token, over the whole
    vocabulary at temperature 1."""


class TrainRecord(TypedDict):
    """What was trained on."""

    items: int
    """Items of `train`."""
    written: int
    """How many of them were written by `distill.questions`."""


class SystemTokens(TypedDict):
    """Lengths of the system turn in tokens."""

    prompt: int
    """With the prompt."""
    bare: int
    """Without it: what the chat template adds of itself."""


class RetentionRecord(TypedDict):
    """The outcome of `gepa-loop distill`."""

    decides: Way
    """Whether scores of greedy or of sampled replies decide."""
    answers: Literal["given", "references", "none"]
    """Whether scores are of the task's answers or of the prompted model's greedy replies, which stand in for them (`references`)."""
    train: TrainRecord
    """What was trained on."""
    greedy: RetainedRecord
    """Greedily."""
    sampled: RetainedRecord
    """And sampled."""
    tokens: SystemTokens
    """What is saved at every call."""
    examples: list[ExampleRecord]
    """The first items whose prompted reply differs from the bare one."""


class SubjectRecord(CardRecord):
    """A prompt and an adapter that were scored together."""

    id: str
    """Of the prompt or `none`, and the fingerprint of the adapter or `base`."""
    name: str
    """What a person knows it by: its prompt's id, and the student's run or the adapter's folder; `bare` without both."""


class ComparedRecord(TypedDict):
    """Subjects on a split, one way of drawing."""

    subjects: list[SubjectRecord]
    """One, or two."""
    difference: DifferenceRecord | None
    """The first less the second, where there are two."""


class EvaluatedRecord(ComparedRecord):
    """The outcome of `gepa-loop evaluate`; its own scores are as what decides was drawn."""

    split: str
    """Whose items were scored."""
    decides: Way
    """Whether scores of greedy or of sampled replies decide."""
    greedy: ComparedRecord
    """Greedily."""
    sampled: ComparedRecord
    """And sampled."""


class QuestionRow(TypedDict):
    """One row for each question that `distill.questions` wrote and that is used. As a JSONL task they can be given answers by hand."""

    id: str
    """`written:N`, by which rows of `teacher.jsonl` and `samples.jsonl` name it."""
    question: str
    """The text."""
    by: str
    """`model`, the run's own, or the reflection model's name."""


class WrittenRecord(TypedDict):
    """What a writer wrote in one piece."""

    text: str
    """As it came."""
    ended: bool
    """By the writer, not at its token limit."""


class CallRow(TypedDict):
    """One row for each call of the writer when it ends. A killed run goes on behind the last call and pays for none twice."""

    call: int
    """From 0."""
    by: str
    """As in written.jsonl."""
    replies: list[WrittenRecord]
    """As they came; none of a call that failed."""
    usd: float
    """What it cost, US dollars."""
    failed: str
    """Why there is no reply; empty where there is one."""


class QuestionsRecord(TypedDict):
    """How the writing of questions ended."""

    asked: int
    """Questions that were asked for."""
    written: int
    """Questions that are written."""
    by: str
    """As in written.jsonl."""
    calls: int
    """Calls of the writer."""
    dropped: dict[str, int]
    """Why questions were dropped -> how many."""
    usd: float
    """Of all calls, US dollars."""
    ended: str
    """What ended it before all were written; empty where nothing did."""


class SpreadRecord(TypedDict):
    """How much a judge's scores of equal replies differ."""

    model: str
    """The judge."""
    deviation: float
    """>= 0: standard deviation of a reply's scores, the root of the mean variance within replies."""
    replies: int
    """Replies that were judged."""
    judgements: int
    """Of each."""
    usd: float
    """Mean US dollars of a call."""
    priced: bool
    """False where litellm knows no price of the model, so that `usd` is 0."""


class JudgeRecord(TypedDict):
    """With `task.scorer = "model"`: what the judge is like, measured once."""

    spread: SpreadRecord
    """On equal replies."""

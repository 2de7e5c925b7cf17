"""Tasks: items in five splits that share no question, scores and textual feedback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gepa_loop.config.tables import TaskConfig
from gepa_loop.run.identity import fingerprint
from gepa_loop.task.answers import MISSING, open_thought
from gepa_loop.task.answers import extract as extract
from gepa_loop.task.content import content
from gepa_loop.task.dealing import FRESH, Making, silent
from gepa_loop.task.dealing import SPLITS as SPLITS
from gepa_loop.task.gold import contradictions, unmatched
from gepa_loop.task.judge import Judge
from gepa_loop.task.made import with_extract
from gepa_loop.task.own import Task as OwnTask
from gepa_loop.task.readings import Reading, Scorer
from gepa_loop.task.records import Item as Item
from gepa_loop.task.records import short
from gepa_loop.task.scorers import MEANINGS, make_scorer, same_text, unanswered
from gepa_loop.task.sources import Dealt, deal, undealt


@dataclass(frozen=True)
class Scored:
    """What a completion is worth."""

    value: float
    """From 0 to 1: what reaches every decision."""
    raw: float
    """What the scorer said; `value` is 0 where only full marks count and it is below 1."""
    extracted: str | None
    """The answer that was read; None where there was none to read."""
    feedback: str
    """Sentences for the reflection."""


@dataclass(frozen=True)
class Task:
    """Items in splits, and how a completion is scored. Make it with `load_task`."""

    name: str
    extract: str
    splits: Mapping[str, tuple[Item, ...]]
    distinct: int
    """Distinct questions found in `drawn` examples: a lower bound of what the task has."""
    drawn: int
    commonest: tuple[str, float]
    """The commonest answer over all splits, and its share of the items."""
    fingerprint: str
    """Over how replies are read and scored, the ids, messages and answers of all splits, and all fields of all records where there are some."""
    scorer: Scorer = field(compare=False, repr=False)
    full_marks: bool = False
    """Only a full score counts, as 1."""
    doubts: tuple[str, ...] = ()
    """What was found wrong with its answers."""
    answers: Literal["given", "none", "references"] = "given"
    """Whose: the task's (or its scorer needs none), nobody's, so that no reply can be scored, or those of `with_references`."""
    later: tuple[Mapping[str, tuple[Item, ...]], ...] = ()
    """Items of `race` and `select` for round 1, round 2 and so on: each round's decisions are made on items that decided nothing before."""
    written: int = 0
    """How many of `train`, the last ones, were written for this run; see `with_written`."""
    rounds: int | None = None
    """For how many rounds there are items; None where they are made and have no end."""
    unscored: frozenset[str] = frozenset()
    """Ids of items that have nothing to score a reply by, while others have."""

    @property
    def items(self) -> tuple[Item, ...]:
        """Those of all splits and all rounds."""
        parts = (self.splits, *self.later)
        return tuple(item for part in parts for split in SPLITS for item in part.get(split, ()))

    def in_round(self, number: int) -> Task:
        """The task as round `number` meets it: its `race` and `select` are that round's own."""
        return self if number == 0 else replace(self, splits={**self.splits, **self.later[number - 1]})

    def with_references(self, replies: Mapping[str, str]) -> Task:
        """The task whose items have these replies for answers, by item id; a reply scores 1 where it is the same text.

        Other items are not scored.
        """
        splits = {
            name: tuple(replace(item, answer=replies.get(item.id, "")) for item in items)
            for name, items in self.splits.items()
        }
        unscored = frozenset(item.id for items in splits.values() for item in items if item.id not in replies)
        return replace(
            self, splits=splits, extract="whole", scorer=same_text, answers="references", unscored=unscored
        )

    def with_written(self, items: Sequence[Item]) -> Task:
        """The task with further items in `train`, which have no answers and are not scored."""
        splits = {**self.splits, "train": (*self.splits["train"], *items)}
        unscored = self.unscored.union(item.id for item in items)
        return replace(self, splits=splits, written=len(items), unscored=unscored)

    def scores(self, item: Item) -> bool:
        """Whether a reply to an item can be scored."""
        return self.answers != "none" and item.id not in self.unscored

    @property
    def judge(self) -> Judge | None:
        """The model that scores it, each of whose calls costs something."""
        return self.scorer if isinstance(self.scorer, Judge) else None

    def score(self, item: Item, completion: str, *, truncated: bool = False, opening: str = "") -> Scored:
        """`score_all` of one completion."""
        return self.score_all([(item, completion, truncated)], opening)[0]

    def score_all(self, given: Sequence[tuple[Item, str, bool]], opening: str = "") -> list[Scored]:
        """Score completions.

        Args:
            given: Of each the item that was asked, the reply as text, without special tokens, and whether it was cut at the
                token limit, on which only the feedback depends.
            opening: What the prompt ends with of the replies themselves: the mark of a thought that the chat template opens.

        Raises:
            TaskError: The factory's own scorer returned something that is no score, or an item has nothing to score by.
            ProviderError: The judge cannot be asked.
            BudgetReached: What the judge may cost is spent.
        """
        readings = [Reading(item, extract(self.extract, opening + text), text) for item, text, _ in given]
        unanswered([one for one in readings if one.item.id in self.unscored])
        worths = self.scorer(readings)
        return [
            self._score(reading, worth, truncated, opening)
            for reading, worth, (_, _, truncated) in zip(readings, worths, given, strict=True)
        ]

    def _score(self, reading: Reading, worth: tuple[float, str], truncated: bool, opening: str) -> Scored:
        """What the scorer says of a reply, with the sentences that every task has."""
        extracted, (raw, own) = reading.read, worth
        full = raw >= 1 - 1e-9
        value = float(full) if self.full_marks else raw
        expected = short(reading.item.answer)
        sentences = []
        if full:
            shown = expected or short(extracted or "")
            sentences.append(f"Correct: {shown}." if shown else "Correct.")
        elif extracted is None:
            sentences.append(f"The expected answer is {expected}." if expected else "")
        else:
            wanted = f"; the expected answer is {expected}" if expected else ""
            verdict = f"worth {value:.2f} of 1" if value else "wrong"
            sentences.append(
                f"The answer read from the reply was {short(extracted)}, which is {verdict}{wanted}."
            )
        if raw > 0 and not value:
            sentences.append(f"The task's own scorer gave {raw:.2f} of 1.")
        if truncated:
            sentences.append("The reply was cut off at the token limit before it ended.")
        if extracted is None and not full:
            thought = open_thought(opening + reading.reply)
            sentences.append(
                f"It ended inside {thought}, before any answer." if thought else MISSING[self.extract]
            )
        return Scored(value, raw, extracted, " ".join(s for s in (*sentences, own) if s))

    def warnings(self) -> tuple[str, ...]:
        """Reasons not to trust a score on this task: answers that nothing matches or that contradict each other, one that
        dominates, draws that are mostly repeats."""
        found = [f"task {self.name}: {doubt}" for doubt in self.doubts]
        first = len(self.splits["race"])
        for number, later in enumerate(self.later, 1):
            if (count := len(later["race"])) < first:
                found.append(
                    f"task {self.name}: round {number} has {count} items of race, not {first} as round 0; no more questions were found"
                )
        answer, share = self.commonest
        if answer and share > 0.30:
            found.append(
                f"task {self.name}: {share:.0%} of the answers are {short(answer)!r}; "
                f"saying that every time scores {share:.2f}"
            )
        if self.drawn > 2 * self.distinct:
            used = sum(len(items) for items in self.splits.values())
            found.append(
                f"task {self.name}: {self.drawn:,} draws found only {self.distinct:,} distinct questions, and the "
                f"splits use {used:,} of them; a model can learn the questions instead of the task"
            )
        return tuple(found)


def load_task(
    config: TaskConfig, seed: int, rounds: int = 1, own: OwnTask | None = None, making: Making = silent
) -> Task:
    """The task of a configuration, its items dealt out to the splits, `race` and `select` once for each round.

    Args:
        config: Of the task.
        seed: Of the run.
        rounds: That need items of their own.
        own: The object whose items they are, where there is one; `config.name` only names it then.

    The items are a function of (config, seed); `test` does not depend on the sizes of the other splits, and none on the
    number of rounds, whose further items are taken when all splits are full. Only a
    few reasoning-gym tasks (`word_ladder`, `ransom_note` and others that iterate over sets) also depend on
    Python's PYTHONHASHSEED. Those of reasoning-gym that are slow to make are made once (`task.entries`); `making` is told of them.

    Raises:
        TaskError: No such task, options it does not take, a malformed record, fewer distinct questions than the splits
            ask for, or answers of which nearly all could not score 1 if a reply gave them word for word.
        EnvironmentFault: A dataset cannot be had, or what reads the file is not installed.
    """
    config = with_extract(config, own)
    return _task(config, deal(config, seed, rounds, own, making), rounds)


def load_undealt(config: TaskConfig, seed: int) -> Task:
    """The task of a configuration to be looked at alone: records are all in `train`. Raises as `load_task` does."""
    config = with_extract(config)
    return _task(config, undealt(config, seed), 1)


def _task(config: TaskConfig, dealt: Dealt, rounds: int) -> Task:
    ordered = {split: dealt.splits[split][0] for split in SPLITS}
    later = tuple({split: dealt.splits[split][number] for split in FRESH} for number in range(1, rounds))
    answers = Counter(item.answer for part in ordered.values() for item in part)
    answer, count = answers.most_common(1)[0]
    items, unknown = content(ordered, dealt.records)
    full_marks = config.kind == "reasoning_gym" and not config.partial
    scoring: dict[str, object] = {
        "extract": config.extract,
        "scorer": config.scorer,
        "full_marks": full_marks,
    }
    if (meaning := MEANINGS.get(config.scorer or "")) is not None:
        scoring["meaning"] = meaning
    if config.judge is not None:
        scoring["judge"] = [config.judge.model, config.judge.max_tokens, config.judge.rubric]
    every = [item for part in (ordered, *later) for dealt_out in part.values() for item in dealt_out]
    known = dealt.records or every
    answered = bool(dealt.scorer or config.scorer) or any(item.answer for item in known)
    if config.judge is not None:
        scorer: Scorer = Judge(config.judge)
    else:
        scorer = dealt.scorer or (make_scorer(config, known) if answered else unanswered)
    doubts = dealt.doubts + contradictions(dealt.records)
    if unknown:
        fields = ", ".join(f"`{name}`" for name in unknown)
        doubts += (f"{fields} of its records: what a run is known by has no part of it",)
    # A judge costs something, and a scorer of the user's may be one. A pattern does not match itself.
    rule = config.scorer or "exact"
    if config.kind == "reasoning_gym" or (
        dealt.scorer is None and rule not in ("regex", "model") and ":" not in rule
    ):
        doubts += unmatched(config, every, scorer)
    return Task(
        name=config.name,
        extract=config.extract,
        splits=ordered,
        distinct=dealt.distinct,
        drawn=dealt.drawn,
        commonest=(answer, count / answers.total()),
        fingerprint=fingerprint({**scoring, "splits": items}),
        scorer=scorer,
        full_marks=full_marks,
        doubts=doubts,
        answers="given" if answered else "none",
        later=later,
        rounds=dealt.rounds,
    )

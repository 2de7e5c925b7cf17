"""Tasks: items in four splits that share no question, answer extraction, scores and textual feedback.

A task comes from reasoning-gym, from a JSONL file or from a Python factory. Each JSONL line and each object of a
factory is a record: `question` (a text, or chat turns `{"role": ..., "content": ...}` of which the last is the
user's), `answer` (a text or a number) and any other fields. A field `split` puts records into splits by hand.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from numbers import Real
from pathlib import Path
from random import Random
from typing import Any

from gepa_loop.answers import MISSING, equal, open_thought
from gepa_loop.answers import extract as extract
from gepa_loop.errors import EnvironmentFault, TaskError
from gepa_loop.gold import Scorer, contradictions, unmatched
from gepa_loop.modules import foreign, import_own, module_file
from gepa_loop.records import MOST, Messages, Record, bounded, item_of, json_lines, short
from gepa_loop.records import Item as Item
from gepa_loop.runs import derive_seed, fingerprint
from gepa_loop.schema import TaskConfig

SPLITS = ("train", "pareto", "select", "test")
FILL_ORDER = ("test", "select", "pareto", "train")
"""The test split comes first, so that no other split's size changes it."""

BLOCK = 10**7
"""Seeds between the first examples of two splits: reasoning-gym's example i is `Random(seed + i)`."""

PROBE = 2_000
"""Examples drawn beyond the splits to count distinct questions."""

FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What reasoning-gym raises for options and for answers that it cannot use."""


@dataclass(frozen=True)
class Score:
    """What a completion is worth."""

    value: float
    """1.0 only for a full score, else 0.0."""
    raw: float
    """What the task's own scorer said."""
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
    """Over `extract` and the ids, messages and answers of all splits, and of all records where there are some."""
    scorer: Scorer = field(compare=False, repr=False)
    doubts: tuple[str, ...] = ()
    """What was found wrong with its answers."""
    later: tuple[tuple[Item, ...], ...] = ()
    """Items of `select` for round 1, round 2 and so on: each round's decision is made on items that decided nothing before."""

    @property
    def items(self) -> tuple[Item, ...]:
        """Those of all splits and all rounds."""
        parts = (*(self.splits[split] for split in SPLITS), *self.later)
        return tuple(item for part in parts for item in part)

    def in_round(self, number: int) -> Task:
        """The task as round `number` meets it: its `select` is that round's own."""
        return (
            self if number == 0 else replace(self, splits={**self.splits, "select": self.later[number - 1]})
        )

    def score(self, item: Item, completion: str, *, truncated: bool = False, opening: str = "") -> Score:
        """Score one completion.

        Args:
            item: The item that was asked.
            completion: The reply as text, without special tokens.
            truncated: The reply was cut at the token limit; only the feedback depends on it.
            opening: What the prompt ends with of the reply itself: the mark of a thought that the chat template opens.

        Raises:
            TaskError: The factory's own scorer returned something that is no score.
        """
        extracted = extract(self.extract, opening + completion)
        raw, own = self.scorer(item, extracted, completion)
        value = 1.0 if raw >= 1 - 1e-9 else 0.0
        expected = short(item.answer)
        sentences = []
        if value:
            shown = expected or short(extracted or "")
            sentences.append(f"Correct: {shown}." if shown else "Correct.")
        elif extracted is None:
            sentences.append(f"The expected answer is {expected}." if expected else "")
        else:
            wanted = f"; the expected answer is {expected}" if expected else ""
            read = short(extracted)
            sentences.append(f"The answer read from the reply was {read}, which is wrong{wanted}.")
        if raw > 0 and not value:
            sentences.append(f"The task's own scorer gave {raw:.2f} of 1.")
        if truncated:
            sentences.append("The reply was cut off at the token limit before it ended.")
        if extracted is None and not value:
            thought = open_thought(opening + completion)
            sentences.append(
                f"It ended inside {thought}, before any answer." if thought else MISSING[self.extract]
            )
        return Score(value, raw, extracted, " ".join(s for s in (*sentences, own) if s))

    def warnings(self) -> tuple[str, ...]:
        """Reasons not to trust a score on this task: answers that nothing matches or that contradict each other, one that
        dominates, draws that are mostly repeats."""
        found = [f"task {self.name}: {doubt}" for doubt in self.doubts]
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


def load_task(config: TaskConfig, seed: int, rounds: int = 1) -> Task:
    """The task of a configuration, its items dealt out to the splits, and `select` once for each round.

    The items are a function of (config, seed); `test` does not depend on the sizes of the other splits, and none on the
    number of rounds, whose further items of `select` are taken when all splits are full. Only a
    few reasoning-gym tasks (`word_ladder`, `ransom_note` and others that iterate over sets) also depend on
    Python's PYTHONHASHSEED.

    Raises:
        TaskError: No such task, options it does not take, a malformed record, fewer distinct questions than the splits
            ask for, or answers of which nearly all could not score 1 if a reply gave them word for word.
    """
    match config.kind:
        case "reasoning_gym":
            return _reasoning_gym(config, seed, rounds)
        case "jsonl":
            return _from_records(config, seed, rounds, json_lines(Path(config.name)), _exact)
        case "python":
            return _from_records(config, seed, rounds, *_made(config))


def _reasoning_gym(config: TaskConfig, seed: int, rounds: int) -> Task:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    name = config.name
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0)
        raise TaskError(
            f"task.name = {name!r}: reasoning-gym has no such task", f"Nearest: {', '.join(near)}."
        )
    # numpy, which some tasks use, takes seeds below 2**32 only.
    first = derive_seed(seed, "task") % (2**31 - (len(SPLITS) + 1) * BLOCK)

    def draws(split: str) -> Iterator[Item]:
        start, size = first + BLOCK * (*FILL_ORDER, "probe").index(split), 64
        try:
            while True:
                data = reasoning_gym.create_dataset(name, size=size, seed=start, **config.options)
                for n in range(size):
                    entry = data[n]
                    answer = "" if entry["answer"] is None else str(entry["answer"])
                    yield Item(f"{name}:{split}:{start + n}", (("user", entry["question"]),), answer, entry)
                start, size = start + size, min(2 * size, 4096)
        except FOREIGN as error:
            known = {f.name for f in dataclasses.fields(DATASETS[name][1])} - {"seed", "size"}
            raise TaskError(
                f"task.options = {config.options}: refused by {name}: {type(error).__name__}: {error}",
                f"Options of {name}: {', '.join(sorted(known))}.",
            ) from error

    splits, seen, drawn = _fill(config, rounds, lambda split: islice(draws(split), BLOCK), patience=1_000)
    # No repeat so far means far more questions than the splits take; some tasks need 0.2 seconds for one.
    if drawn > len(seen):
        seen.update(item.messages for item in islice(draws("probe"), PROBE))
        drawn += PROBE
    judge = reasoning_gym.create_dataset(name, size=1, seed=first, **config.options)

    def score(item: Item, extracted: str | None, _completion: str) -> tuple[float, str]:
        if extracted is None:
            return 0.0, ""
        try:
            return float(judge.score_answer(extracted, dict(item.entry))), ""
        except FOREIGN:
            # Some scorers parse the answer unguarded (prime_factorization: `int("abc")`).
            return 0.0, "The task's scorer could not read this answer."

    return _task(config, splits, len(seen), drawn, score)


Splits = dict[str, list[tuple[Item, ...]]]
"""Split -> its items; of `select` those of each round."""


def _fill(
    config: TaskConfig,
    rounds: int,
    draws: Callable[[str], Iterator[Item]],
    patience: float,
    marked: Mapping[str, int] | None = None,
) -> tuple[Splits, set[Messages], int]:
    """Take each split's items from its draws, no question twice: (splits, questions seen, examples drawn).

    A split gives up after `patience` repeats in a row, but not before 20 draws for each item asked for. `marked` is how
    many records name each split, where they do.
    """
    splits: Splits = {split: [] for split in SPLITS}
    streams = {split: draws(split) for split in FILL_ORDER}
    seen: set[Messages] = set()
    drawn = 0
    for split in (*FILL_ORDER, *["select"] * (rounds - 1)):
        size: int = getattr(config.splits, split)
        chosen: list[Item] = []
        tried = repeats = 0
        for item in streams[split]:
            tried += 1
            repeats = repeats + 1 if item.messages in seen else 0
            if not repeats:
                seen.add(item.messages)
                chosen.append(item)
            if len(chosen) == size or (repeats >= patience and tried >= 20 * size):
                break
        drawn += tried
        if len(chosen) < size:
            number = len(splits[split])
            whom, lower = (f"round {number}", " or loop.rounds,") if number else ("it", "")
            rest = "none may be in two splits" + (" or decide two rounds" if number else "")
            few = f"task.splits.{split} = {size}: only {len(chosen)} questions were found for {whom}; {config.name}"
            if marked is not None:
                counts = ", ".join(f"{marked[name]} of {name!r}" for name in SPLITS)
                raise TaskError(
                    f"{few} says itself which split each record is of, {counts}, and {rest}",
                    f"Lower task.splits.{split}{lower} or mark more records {split!r}; records without `split` are dealt out.",
                )
            raise TaskError(
                f"{few} gave {len(seen)} distinct questions in {drawn} examples, and {rest}",
                f"Lower task.splits.{split}{lower} or the other sizes, or choose a task with more questions.",
            )
        splits[split].append(tuple(chosen))
    return splits, seen, drawn


def _made(config: TaskConfig) -> tuple[Iterable[Record], Scorer]:
    """Records of a factory, and its own scorer where it has one."""
    where = f"task.name = {config.name!r}"
    module_name, attribute = _module_and_factory(config)
    factory = getattr(import_own(module_name, where), attribute, None)
    if not callable(factory):
        raise TaskError(f"{where}: {module_name} has no function {attribute!r}")
    signature = inspect.signature(factory)
    try:
        signature.bind(**config.options)
    except TypeError as error:
        raise TaskError(f"task.options = {config.options}: {error}", f"{attribute}{signature}") from None
    with foreign(TaskError, f"{where}: the factory"):
        made = factory(**config.options)
    own = getattr(made, "score", None)
    records = made.items if callable(own) else made
    if not isinstance(records, Iterable):
        raise TaskError(
            f"{where}: the factory returned {type(made).__name__}",
            "Return an iterable of records, or an object with `items` and `score`.",
        )
    numbered = _numbered(records, config.name, where)
    return bounded(numbered, MOST, where), _own_scorer(own, where) if callable(own) else _exact


def _module_and_factory(config: TaskConfig) -> tuple[str, str]:
    module_name, _, attribute = config.name.partition(":")
    parts = [*module_name.split("."), attribute]
    if not all(part.isidentifier() for part in parts):
        raise TaskError(f"task.name = {config.name!r}: not of the form package.module:factory")
    return module_name, attribute


def code_of(config: TaskConfig) -> Path | None:
    """The file that loading a task runs, or None where it is no Python factory.

    Raises:
        TaskError: There is no such file, or none that may be run.
    """
    if config.kind != "python":
        return None
    return module_file(_module_and_factory(config)[0], f"task.name = {config.name!r}")


def _numbered(records: Iterable[object], name: str, where: str) -> Iterator[Record]:
    with foreign(TaskError, f"{where}: the factory"):
        for number, record in enumerate(records, 1):
            yield f"python:{number}", f"{name} record {number}", record


def _own_scorer(own: Callable[[dict[str, Any], str], object], where: str) -> Scorer:
    def score(item: Item, _extracted: str | None, completion: str) -> tuple[float, str]:
        # A judge that cannot be reached, say: not a score of 0.
        saved = "What was finished is saved; run the same command again to continue."
        with foreign(EnvironmentFault, f"{where}: score on {item.id}", saved):
            result = own(dict(item.entry), completion)
        raw, said = result if isinstance(result, tuple) and len(result) == 2 else (result, "")
        if not isinstance(raw, Real) or not math.isfinite(raw) or not isinstance(said, str):
            raise TaskError(
                f"{where}: score gave {result!r} for {item.id}", "Return a number, or (number, text)."
            )
        return float(raw), said

    return score


def _from_records(
    config: TaskConfig, seed: int, rounds: int, records: Iterable[Record], scorer: Scorer
) -> Task:
    """Shuffle records by seed and deal them out; a record's own `split` is kept."""
    items: list[Item] = []
    by_hand = None
    for id, where, record in records:
        item = item_of(id, record, where)
        items.append(item)
        split = item.entry.get("split")
        by_hand = by_hand if by_hand is not None else split is not None
        if (split is not None) != by_hand or (by_hand and split not in SPLITS):
            hint = f"Give every record one of {', '.join(SPLITS)}, or give none a split."
            raise TaskError(f"{where}: split is {split!r}", hint)
    Random(derive_seed(seed, "task")).shuffle(items)
    rest = iter(items)

    def draws(split: str) -> Iterator[Item]:
        return (item for item in items if item.entry["split"] == split) if by_hand else rest

    marked = Counter(item.entry["split"] for item in items) if by_hand else None
    splits, _, _ = _fill(config, rounds, draws, math.inf, marked)
    return _task(config, splits, len({item.messages for item in items}), len(items), scorer, items)


def _task(
    config: TaskConfig,
    splits: Splits,
    distinct: int,
    drawn: int,
    scorer: Scorer,
    records: Sequence[Item] = (),
) -> Task:
    """A task; `records` are all that the items were dealt out from, where there is an end of them."""
    ordered = {split: splits[split][0] for split in SPLITS}
    answers = Counter(item.answer for items in ordered.values() for item in items)
    answer, count = answers.most_common(1)[0]
    content = {split: [[i.id, i.messages, i.answer] for i in items] for split, items in ordered.items()}
    if records:
        content["records"] = [[i.id, i.messages, i.answer] for i in records]
    mark = fingerprint({"extract": config.extract, "splits": content})
    doubts = contradictions(records)
    commonest = (answer, count / answers.total())
    # A factory's own scorer is not asked: it may be a judge that costs something.
    if config.kind != "python" or scorer is _exact:
        doubts += unmatched(config, [item for items in ordered.values() for item in items], scorer)
    later = tuple(splits["select"][1:])
    return Task(config.name, config.extract, ordered, distinct, drawn, commonest, mark, scorer, doubts, later)


def _exact(item: Item, extracted: str | None, _completion: str) -> tuple[float, str]:
    return float(extracted is not None and equal(extracted, item.answer)), ""

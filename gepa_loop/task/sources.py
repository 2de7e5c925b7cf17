"""Where items come from, and how they are dealt out to splits that share no question.

A JSONL line and an object of a Python factory is a record: `question` (a text, or chat turns `{"role": ..., "content": ...}`
of which the last is the user's), `answer` (a text or a number) and any other fields. A field `split` puts records into splits by
hand.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.outside.modules import foreign, module_file, own_function
from gepa_loop.run.seeds import derive_seed
from gepa_loop.task import examples
from gepa_loop.task.records import MOST, Item, Messages, Record, bounded, item_of, json_lines
from gepa_loop.task.scorers import Reading, Scorer, each, own_scorer

SPLITS = ("train", "pareto", "race", "select", "test")
FILL_ORDER = ("test", "select", "pareto", "train", "race")
"""The test split comes first, so that no other split's size changes it."""
FRESH = ("select", "race")
"""Splits of which each round has items of its own."""
RACE = 64
"""Items of `race` where no number is asked for and items are made, if there are so many."""
BLOCKS = ("test", "select", "pareto", "train", "probe", "race")
"""Whose seeds a reasoning-gym task takes one after another; what comes last changes nobody's."""

BLOCK = 10**7
"""Seeds between the first examples of two splits: reasoning-gym's example i is `Random(seed + i)`."""

PROBE = 2_000
"""Examples drawn beyond the splits to count distinct questions."""

FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What reasoning-gym raises for options and for answers that it cannot use."""


@dataclass(frozen=True)
class Dealt:
    """Items, dealt out."""

    splits: Mapping[str, tuple[tuple[Item, ...], ...]]
    """Split -> its items; of `FRESH` those of each round."""
    distinct: int
    """Distinct questions found in `drawn` examples."""
    drawn: int
    scorer: Scorer | None = None
    """The task's own."""
    records: tuple[Item, ...] = ()
    """All that they were dealt out from, where there is an end of them."""


def deal(config: TaskConfig, seed: int, rounds: int) -> Dealt:
    """Items for every split and round.

    Raises:
        TaskError: As `items.load_task` has it.
    """
    match config.kind:
        case "reasoning_gym":
            return _reasoning_gym(config, seed, rounds)
        case "jsonl":
            return _from_records(config, seed, rounds, json_lines(Path(config.name)), None)
        case "python":
            return _from_records(config, seed, rounds, *_made(config))
        case "example":
            return _example(config, seed, rounds)


def _reasoning_gym(config: TaskConfig, seed: int, rounds: int) -> Dealt:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    name = config.name
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0)
        raise TaskError(
            f"task.name = {name!r}: reasoning-gym has no such task", f"Nearest: {', '.join(near)}."
        )
    # numpy, which some tasks use, takes seeds below 2**32 only.
    first = derive_seed(seed, "task") % (2**31 - 5 * BLOCK)

    def draws(split: str) -> Iterator[Item]:
        start, size = first + BLOCK * BLOCKS.index(split), 64
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

    def score(one: Reading) -> tuple[float, str]:
        if one.read is None:
            return 0.0, ""
        try:
            return float(judge.score_answer(one.read, dict(one.item.entry))), ""
        except FOREIGN:
            # Some scorers parse the answer unguarded (prime_factorization: `int("abc")`).
            return 0.0, "The task's scorer could not read this answer."

    return Dealt(splits, len(seen), drawn, each(score))


def _example(config: TaskConfig, seed: int, rounds: int) -> Dealt:
    name = config.name
    if name not in examples.NAMES:
        raise TaskError(f"task.name = {name!r}: no such example", f"There are {', '.join(examples.NAMES)}.")
    module = examples.load(name)

    def draws(split: str) -> Iterator[Item]:
        source = Random(derive_seed(seed, "task", split))
        for number, record in enumerate(module.rows(source)):
            yield item_of(f"{name}:{split}:{number}", record, name)

    splits, seen, drawn = _fill(config, rounds, draws, patience=1_000)
    scorer = getattr(module, "score", None)
    own = own_scorer(scorer, f"task.name = {name!r}") if config.scorer is None and scorer else None
    return Dealt(splits, len(seen), drawn, own)


Splits = dict[str, tuple[tuple[Item, ...], ...]]


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
    splits: dict[str, list[tuple[Item, ...]]] = {split: [] for split in SPLITS}
    streams = {split: draws(split) for split in FILL_ORDER}
    seen: set[Messages] = set()
    drawn = 0
    for split in (*FILL_ORDER, *FRESH * (rounds - 1)):
        asked: int | None = getattr(config.splits, split)
        size = (RACE if patience < math.inf else 0) if asked is None else asked
        chosen: list[Item] = []
        tried = repeats = 0
        for item in streams[split] if size else ():
            tried += 1
            repeats = repeats + 1 if item.messages in seen else 0
            if not repeats:
                seen.add(item.messages)
                chosen.append(item)
            if len(chosen) == size or (repeats >= patience and tried >= 20 * size):
                break
        drawn += tried
        if len(chosen) < size and asked is not None:
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
    return {split: tuple(rounds_) for split, rounds_ in splits.items()}, seen, drawn


def _made(config: TaskConfig) -> tuple[Iterable[Record], Scorer | None]:
    """Records of a factory, and its own scorer where it has one."""
    where = f"task.name = {config.name!r}"
    module_name, attribute = _module_and_factory(config)
    factory = own_function(module_name, attribute, where)
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
    own = own if config.scorer is None else None
    return bounded(numbered, MOST, where), own_scorer(own, where) if callable(own) else None


def _module_and_factory(config: TaskConfig) -> tuple[str, str]:
    module_name, _, attribute = config.name.partition(":")
    parts = [*module_name.split("."), attribute]
    if not all(part.isidentifier() for part in parts):
        raise TaskError(f"task.name = {config.name!r}: not of the form package.module:factory")
    return module_name, attribute


def code_of(config: TaskConfig) -> tuple[Path, ...]:
    """The user's files that loading a task runs: a factory's and a scorer's.

    Raises:
        TaskError: There is no such file, or none that may be run.
    """
    files = []
    if config.kind == "python":
        files.append(module_file(_module_and_factory(config)[0], f"task.name = {config.name!r}"))
    if config.scorer is not None and ":" in config.scorer:
        files.append(module_file(config.scorer.partition(":")[0], f"task.scorer = {config.scorer!r}"))
    return tuple(dict.fromkeys(files))


def _numbered(records: Iterable[object], name: str, where: str) -> Iterator[Record]:
    with foreign(TaskError, f"{where}: the factory"):
        for number, record in enumerate(records, 1):
            # A copy: a generator may fill one dict again and again.
            taken = dict(record) if isinstance(record, Mapping) else record
            yield f"python:{number}", f"{name} record {number}", taken


def _from_records(
    config: TaskConfig, seed: int, rounds: int, records: Iterable[Record], own: Scorer | None
) -> Dealt:
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
    return Dealt(splits, len({item.messages for item in items}), len(items), own, tuple(items))

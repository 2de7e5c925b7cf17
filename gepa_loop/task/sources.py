"""Where items come from.

A line of a file, a row of a table and an object of a Python factory is a record: `question` (a text, or chat turns `{"role": ...,
"content": ...}` of which the last is the user's), `answer` (a text or a number) and any other fields; `task.fields` says where other names
stand for these in files and datasets.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random

from gepa_loop.config.tables import RECORDS, TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import TaskError
from gepa_loop.run.seeds import derive_seed
from gepa_loop.task import examples
from gepa_loop.task.dealing import (
    FRESH,
    SPLITS,
    Making,
    Splits,
    deal_records,
    deal_rounds,
    fill,
    once,
    silent,
    told_of,
)
from gepa_loop.task.entries import Kept, kept
from gepa_loop.task.environments import open_environment
from gepa_loop.task.fields import mapped
from gepa_loop.task.files import read_records
from gepa_loop.task.hub import dataset_rows
from gepa_loop.task.made import Made, made, with_extract
from gepa_loop.task.marked import left_out
from gepa_loop.task.own import Task
from gepa_loop.task.own_scorer import by_record, own_scorer
from gepa_loop.task.readings import Reading, Scorer, each
from gepa_loop.task.records import Item, Record, item_of

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
    doubts: tuple[str, ...] = ()
    """What was found wrong with the records."""
    rounds: int | None = None
    """For how many rounds there are items, where there is an end of them."""


def deal(
    config: TaskConfig, seed: int, rounds: int, own: Task | None = None, making: Making = silent
) -> Dealt:
    """Items for every split and round, of `own` where there is one.

    Args:
        config: Of the task.
        seed: Of the run.
        rounds: Which need items of their own.
        own: The object whose items they are, where there is one.
        making: Called with (items made, items wanted) where items are made.

    Raises:
        TaskError: As `items.load_task` has it.
        EnvironmentFault: A dataset cannot be had, or what reads the file is not installed.
    """
    if config.splits.shares:
        raise ValueError("task.splits has shares; `settled` makes numbers of them")
    match config.kind:
        case "reasoning_gym":
            return _reasoning_gym(config, seed, rounds, making)
        case "example":
            return _example(config, seed, rounds)
    found, items, doubts = _given(config, rounds, own)
    splits, most = deal_rounds(config, seed, rounds, items)
    dealt = _dealt(items, splits, found, doubts + left_out(config, items, splits))
    return replace(dealt, rounds=most)


def _given(
    config: TaskConfig, rounds: int, own: Task | None
) -> tuple[Made | None, list[Item], tuple[str, ...]]:
    """What records there are: what a user's code gives, its items, and what was found wrong with them."""
    match config.kind:
        case "python":
            found = made(config, own)
            return found, _items(found.records), ()
        case "verifiers":
            environment = open_environment(config, rounds)
            found = Made(list(environment.records()), None if config.scorer else environment.score)
            # Its rewards know what they compare with.
            kept, doubts = mapped(found.records, config.fields, bool(config.scorer))
            return found, _items(kept), doubts
    return None, *recorded(config)


def _dealt(
    items: Sequence[Item], splits: Splits, own: Made | None = None, doubts: tuple[str, ...] = ()
) -> Dealt:
    distinct = len({item.messages for item in items})
    return Dealt(splits, distinct, len(items), own and own.scorer, tuple(items), doubts)


def undealt(config: TaskConfig, seed: int, own: Task | None = None) -> Dealt:
    """As `deal`, for somebody who looks at a task alone: of records all are in `train`, whatever sizes the splits are to have."""
    if config.kind not in RECORDS:
        return deal(config, seed, 1, own)
    found, items, doubts = _given(config, 1, own)
    if not items:
        raise TaskError(f"task.name = {config.name!r}: there are no items")
    splits: Splits = {split: (tuple(items) if split == "train" else (),) for split in SPLITS}
    return _dealt(items, splits, found, doubts)


def recorded(config: TaskConfig) -> tuple[list[Item], tuple[str, ...]]:
    """The items of a file or a dataset, and what was found wrong with its records; raises as `deal` does."""
    if config.kind == "hf":
        records: Iterable[Record] = dataset_rows(config.name, config.options)
    else:
        records = read_records(config.kind, Path(config.name), config.options)
    compares = config.scorer != "model" and ":" not in (config.scorer or "")
    kept, doubts = mapped(records, config.fields, compares)
    return _items(kept), doubts


def _items(records: Iterable[Record]) -> list[Item]:
    return [item_of(id, record, where) for id, where, record in records]


def settle(config: Config, own: Task | None = None) -> Config:
    """A configuration that says what only the task's code and data tell: what is read of a reply that a class scores, and the numbers of
    items that shares are. The data are read where there are shares; `own` is as in `deal`.

    Raises:
        TaskError: As `items.load_task` does, or shares are more than all.
    """
    control = config.distill.control
    found: dict[str, object] = {"task": _settled(config.task, config.seed, config.loop.rounds, own)}
    if control is not None:
        settled = _settled(control, config.seed, 1)
        found["distill"] = config.distill.model_copy(update={"control": settled})
    return config.model_copy(update=found)


def _settled(config: TaskConfig, seed: int, rounds: int, own: Task | None = None) -> TaskConfig:
    config = with_extract(config, own)
    shares = {str(split): share for split, share in config.splits.shares.items()}
    if not shares:
        return config
    total = sum(share * (rounds if split in FRESH else 1) for split, share in shares.items())
    if total > 1 + 1e-9:
        raise TaskError(
            f"task.splits: the shares of {', '.join(shares)} are {total:g} together",
            f"They may be 1 at most{', with select and race as often as there are rounds' if rounds > 1 else ''}.",
        )
    _, items, _ = _given(config, rounds, own)
    counted = config.splits.counted(len({item.messages for item in items}))
    dealt = deal_records(config.model_copy(update={"splits": counted}), seed, rounds, items, owed=0)
    sizes = {split: min(map(len, dealt[split])) for split in shares}
    if empty := [split for split, size in sizes.items() if not size]:
        raise TaskError(
            f"task.splits.{empty[0]} = {shares[empty[0]]:g}: nothing is left for it of {len(items):,} records",
            "Lower other sizes, or take smaller groups.",
        )
    splits = counted.model_copy(update={**sizes, "shares": {}})
    return config.model_copy(update={"splits": splits})


def _reasoning_gym(config: TaskConfig, seed: int, rounds: int, making: Making) -> Dealt:
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

    release, streams = version("reasoning-gym"), dict[str, Kept]()

    def draws(split: str) -> Iterator[Item]:
        start = first + BLOCK * BLOCKS.index(split)
        stream = streams.setdefault(split, kept(name, config.options, start, release))
        try:
            for n, entry in enumerate(stream, start):
                answer = "" if entry["answer"] is None else str(entry["answer"])
                yield Item(f"{name}:{split}:{n}", (("user", entry["question"]),), answer, entry)
        except FOREIGN as error:
            known = {f.name for f in dataclasses.fields(DATASETS[name][1])} - {"seed", "size"}
            raise TaskError(
                f"task.options = {config.options}: refused by {name}: {type(error).__name__}: {error}",
                f"Options of {name}: {', '.join(sorted(known))}.",
            ) from error

    try:
        told = told_of(draws, config.splits, rounds, making)
        splits, seen, drawn = fill(
            config, rounds, once(lambda split: islice(told(split), BLOCK)), patience=1_000
        )
        # No repeat so far means far more questions than the splits take; some tasks need 0.2 seconds for one.
        if drawn > len(seen):
            seen.update(item.messages for item in islice(draws("probe"), PROBE))
            drawn += PROBE
    finally:
        for stream in streams.values():
            stream.save()
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

    splits, seen, drawn = fill(config, rounds, once(draws), patience=1_000)
    scorer = getattr(module, "score", None)
    where = f"task.name = {name!r}"
    own = own_scorer(by_record(scorer), where) if config.scorer is None and scorer else None
    return Dealt(splits, len(seen), drawn, own)

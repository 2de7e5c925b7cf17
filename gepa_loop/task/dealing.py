"""How items are dealt out to splits that share no question, and no group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, count
from random import Random

from gepa_loop.config.data import SplitSizes
from gepa_loop.config.tables import RECORDS, TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.run.seeds import derive_seed
from gepa_loop.task.records import Item, Messages, short

SPLITS = ("train", "pareto", "race", "select", "test")
FILL_ORDER = ("test", "select", "pareto", "train", "race")
"""The test split comes first, so that no other split's size changes it."""
FRESH = ("select", "race")
"""Splits of which each round has items of its own."""
RACE = 64
"""Items of `race` where no number is asked for and items are made, if there are so many."""

Splits = dict[str, tuple[tuple[Item, ...], ...]]

Draws = Callable[[str], Iterator[Item]]
"""Split -> where its items of the next round come from."""


Making = Callable[[int, int], None]
"""Called with (items made so far, items that are wanted)."""


def silent(made: int, wanted: int) -> None:
    """Nobody watches."""


def told_of(draws: Draws, sizes: SplitSizes, rounds: int, making: Making) -> Draws:
    """Draws of which each item is told."""
    asked = {split: getattr(sizes, split) for split in SPLITS}
    wanted = sum(
        (RACE if size is None else size) * (rounds if split in FRESH else 1) for split, size in asked.items()
    )
    made = count(1)

    def told(split: str) -> Iterator[Item]:
        for item in draws(split):
            # Repeats are made, too.
            making(min(next(made), wanted), wanted)
            yield item

    return told


def fill(
    config: TaskConfig,
    rounds: int,
    draws: Draws,
    patience: float,
    marked: Mapping[str, int] | None = None,
    strict: bool = True,
) -> tuple[Splits, set[Messages], int]:
    """Take each split's items from its draws, no question twice: (splits, questions seen, examples drawn).

    A split gives up after `patience` repeats in a row, but not before 20 draws for each item asked for.

    Args:
        config: Of the task.
        rounds: That need items of `FRESH` of their own.
        draws: Asked once for each split and round.
        patience: Infinite where draws have an end.
        marked: How many records name each split, where they do.
        strict: A split that is not full is an error.

    Raises:
        TaskError: So it is.
    """
    splits: dict[str, list[tuple[Item, ...]]] = {split: [] for split in SPLITS}
    seen: set[Messages] = set()
    drawn = 0
    for split in (*FILL_ORDER, *FRESH * (rounds - 1)):
        asked: int | None = getattr(config.splits, split)
        size = (RACE if patience < math.inf else 0) if asked is None else asked
        chosen: list[Item] = []
        tried = repeats = 0
        for item in draws(split) if size else ():
            tried += 1
            repeats = repeats + 1 if item.messages in seen else 0
            if not repeats:
                seen.add(item.messages)
                chosen.append(item)
            if len(chosen) == size or (repeats >= patience and tried >= 20 * size):
                break
        drawn += tried
        if len(chosen) < size and asked is not None and strict:
            found = f"{config.name} gave {len(seen)} distinct questions in {drawn} examples"
            raise _few(config, split, len(chosen), len(splits[split]), found, marked)
        splits[split].append(tuple(chosen))
    return {split: tuple(rounds_) for split, rounds_ in splits.items()}, seen, drawn


def _few(
    config: TaskConfig, split: str, count: int, number: int, found: str, marked: Mapping[str, int] | None
) -> TaskError:
    """What to say of a split of round `number` for which `count` items were found."""
    whom, lower = (f"round {number}", " or loop.rounds,") if number else ("it", "")
    rest = "none may be in two splits" + (" or decide two rounds" if number else "")
    few = (
        f"task.splits.{split} = {getattr(config.splits, split)}: only {count} questions were found for {whom}"
    )
    if marked is not None:
        counts = ", ".join(f"{marked[name]} of {name!r}" for name in SPLITS)
        return TaskError(
            f"{few}; {config.name} says itself which split each record is of, {counts}, and {rest}",
            f"Lower task.splits.{split}{lower} or mark more records {split!r}. To deal all of them out, name another field in task.fields.split.",
        )
    grouped = f" and no {config.group} either" if config.group is not None else ""
    shares = "; sizes may be shares, as 0.3" if config.kind in RECORDS else ""
    return TaskError(
        f"{few}; {found}, and {rest}{grouped}",
        f"Lower task.splits.{split}{lower} or the other sizes, or choose a task with more questions{shares}.",
    )


def once(streams: Draws) -> Draws:
    """Draws of which each split has one stream, that later rounds go on with."""
    return cache(streams)


def deal_records(
    config: TaskConfig, seed: int, rounds: int, items: Sequence[Item], strict: bool = True
) -> Splits:
    """Shuffle records by seed and deal them out, group by group where there are groups; a record's own split is kept.

    Args:
        config: Of the task.
        seed: Of the shuffle.
        rounds: As for `fill`.
        items: All of them.
        strict: As for `fill`.

    Raises:
        TaskError: As `fill` does; some records name a split and others none, or one that there is not; a record has no
            group, or records of one group name several splits.
    """
    by_hand = _marks(config, items)
    groups = _groups(config, items)
    Random(derive_seed(seed, "task")).shuffle(groups)
    rest = iter(groups)

    def draws(_split: str) -> Iterator[Item]:
        # What a split leaves of its last group nobody takes.
        return chain.from_iterable(rest)

    if by_hand is None:
        return fill(config, rounds, draws, math.inf, strict=strict)[0]
    if config.group is not None:
        _refuse_parted(config.group, groups, by_hand)

    def marked(split: str) -> Iterator[Item]:
        return (item for group in groups for item in group if by_hand[item.id] == split)

    return fill(config, rounds, once(marked), math.inf, Counter(by_hand.values()), strict)[0]


def _marks(config: TaskConfig, items: Sequence[Item]) -> dict[str, str] | None:
    """The split that each item says itself, by its id; None where none says any."""
    field = config.fields.split
    marks = {item.id: item.entry.get(field) or None for item in items}
    if not any(marks.values()):
        return None
    for id, split in marks.items():
        if split not in SPLITS:
            raise TaskError(
                f"{config.name}, {id}: {field} is {split!r}",
                f"Give every record one of {', '.join(SPLITS)}, or give none a {field}; where the field means something else, set task.fields.split to another name.",
            )
    return {id: str(split) for id, split in marks.items()}


def _groups(config: TaskConfig, items: Sequence[Item]) -> list[list[Item]]:
    """Items that belong together, in the order in which they come; each alone where nothing says so."""
    if config.group is None:
        return [[item] for item in items]
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.read_field(config.group), []).append(item)
    return list(groups.values())


def _refuse_parted(field: str, groups: Sequence[Sequence[Item]], by_hand: Mapping[str, str]) -> None:
    for group in groups:
        named = sorted({by_hand[item.id] for item in group})
        if len(named) > 1:
            raise TaskError(
                f"task.group = {field!r}: records of {short(group[0].read_field(field))!r} say that they are of {' and '.join(named)}",
                "Records of one group are to be in one split.",
            )

"""How items are dealt out to splits that share no question, and no group: of records also none that differs in case and white space
alone."""

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
from gepa_loop.task.marked import marks, refuse_parted, strays
from gepa_loop.task.records import Item, Messages, alike
from gepa_loop.task.splits import FILL_ORDER
from gepa_loop.task.splits import FRESH as FRESH
from gepa_loop.task.splits import SPLITS as SPLITS

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
    owed: int | None = None,
) -> tuple[Splits, set[Messages], int]:
    """Take each split's items from its draws, no question twice: (splits, questions seen, examples drawn).

    A split gives up after `patience` repeats in a row, but not before 20 draws for each item asked for.

    Args:
        config: Of the task.
        rounds: That need items of `FRESH` of their own.
        draws: Asked once for each split and round.
        patience: Infinite where draws have an end.
        marked: How many records name each split, where they do.
        owed: In how many of the rounds a split that is not full is an error; None is in all.

    Raises:
        TaskError: One is not full.
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
        if len(chosen) < size and asked is not None and (owed is None or len(splits[split]) < owed):
            found = f"{config.name} gave {len(seen)} distinct questions in {drawn} examples"
            raise _few(config, split, len(chosen), len(splits[split]), found, marked)
        splits[split].append(tuple(chosen))
    return {split: tuple(rounds_) for split, rounds_ in splits.items()}, seen, drawn


def _few(
    config: TaskConfig, split: str, count: int, number: int, found: str, marked: Mapping[str, int] | None
) -> TaskError:
    """What to say of a split of round `number` for which `count` items were found."""
    # Rounds count from 0 wherever they are shown.
    whom = f"round {number}, the run's {_ordinal(number + 1)}" if number else "it"
    lower = " or loop.rounds," if number else ""

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


def _ordinal(number: int) -> str:
    first = ("first", "second", "third", "fourth", "fifth")
    return first[number - 1] if number <= len(first) else f"number {number}"


def once(streams: Draws) -> Draws:
    """Draws of which each split has one stream, that later rounds go on with."""
    return cache(streams)


def deal_records(
    config: TaskConfig, seed: int, rounds: int, items: Sequence[Item], owed: int | None = None
) -> Splits:
    """Shuffle records by seed and deal them out, group by group where there are groups; a record's own split is kept.

    Records whose questions differ in case and white space alone are a group, too.

    Args:
        config: Of the task.
        seed: Of the shuffle.
        rounds: As for `fill`.
        items: All of them.
        owed: As for `fill`.

    Raises:
        TaskError: As `fill` does; some records name a split and others none, or one that there is not; a record has no
            group, or records of one group name several splits.
    """
    by_hand = marks(config, items)
    if by_hand is not None and config.group is not None:
        refuse_parted(config.group, items, by_hand)
    groups = _groups(config, items, by_hand or {})
    Random(derive_seed(seed, "task")).shuffle(groups)
    if by_hand is None:
        return fill(config, rounds, _whole(groups), math.inf, owed=owed)[0]
    away = {item.id for item, _ in strays(items, by_hand)}
    kept = [[item for item in group if item.id not in away] for group in groups]
    marked = {split: _whole([g for g in kept if g and by_hand[g[0].id] == split]) for split in SPLITS}
    counts = Counter(by_hand.values())
    return fill(config, rounds, lambda split: marked[split](split), math.inf, counts, owed)[0]


def deal_rounds(config: TaskConfig, seed: int, rounds: int, items: Sequence[Item]) -> tuple[Splits, int]:
    """`deal_records`, and for how many rounds there are items in all.

    Raises:
        TaskError: As `deal_records` does.
    """
    sizes = {split: getattr(config.splits, split) or 0 for split in FRESH}
    enough = max(rounds, 1 + len(items) // sum(sizes.values()))
    dealt = deal_records(config, seed, enough, items, rounds)
    most = next(
        (n for n in range(enough) if any(len(dealt[split][n]) < size for split, size in sizes.items())),
        enough,
    )
    return {split: parts[:rounds] for split, parts in dealt.items()}, most


def _whole(groups: Sequence[Sequence[Item]]) -> Draws:
    """Draws that go from group to group: what a split or a round leaves of its last one nobody takes."""
    rest = iter(groups)
    return lambda _split: chain.from_iterable(rest)


def _groups(config: TaskConfig, items: Sequence[Item], by_hand: Mapping[str, str]) -> list[list[Item]]:
    """Items that belong together, in the order in which they come: by `task.group`, and those whose questions are the same up to case
    and white space, unless they say that they are of several splits. Each is alone where nothing says so, and so are those that
    are equal, of which one is taken."""
    questions = [alike(item.messages) for item in items]
    written: dict[Messages, set[Messages]] = {}
    for question, item in zip(questions, items, strict=True):
        written.setdefault(question, set()).add(item.messages)
    # The place of the first item of each item's group, or of one before it on the way there.
    before = list(range(len(items)))

    def root(place: int) -> int:
        while before[place] != place:
            before[place] = place = before[before[place]]
        return place

    places: dict[object, int] = {}
    for place, item in enumerate(items):
        bonds: list[object] = [] if config.group is None else [item.read_field(config.group)]
        if len(written[questions[place]]) > 1:
            bonds.append((questions[place], by_hand.get(item.id)))
        for bond in bonds:
            one, other = sorted((root(places.setdefault(bond, place)), root(place)))
            before[other] = one
    groups: dict[int, list[Item]] = {}
    for place, item in enumerate(items):
        groups.setdefault(root(place), []).append(item)
    return list(groups.values())

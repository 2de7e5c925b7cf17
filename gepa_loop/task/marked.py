"""Records that say themselves which split they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.task.records import Item, Messages, alike, short
from gepa_loop.task.splits import FILL_ORDER, SPLITS

SHOWN = 3
"""Pairs of records that a sentence names."""


def marks(config: TaskConfig, items: Sequence[Item]) -> dict[str, str] | None:
    """The split that each item says itself, by its id; None where none says any.

    Raises:
        TaskError: Some name one and others none, or one that there is not.
    """
    field = config.fields.split
    found = {item.id: item.entry.get(field) or None for item in items}
    if not any(found.values()):
        return None
    for id, split in found.items():
        if split not in SPLITS:
            raise TaskError(
                f"{config.name}, {id}: {field} is {split!r}",
                f"Give every record one of {', '.join(SPLITS)}, or give none a {field}; where the field means something else, set task.fields.split to another name.",
            )
    return {id: str(split) for id, split in found.items()}


def strays(items: Sequence[Item], by_hand: Mapping[str, str]) -> list[tuple[Item, Item]]:
    """Records that ask what one of another split asks, up to case and white space, each with that one.

    As the splits are filled one after the other, the question is of the one that comes first.
    """
    first: dict[Messages, Item] = {}
    for split in FILL_ORDER:
        for item in items:
            if by_hand[item.id] == split:
                first.setdefault(alike(item.messages), item)
    pairs = ((item, first[alike(item.messages)]) for item in items)
    return [(item, one) for item, one in pairs if by_hand[item.id] != by_hand[one.id]]


def refuse_parted(field: str, items: Sequence[Item], by_hand: Mapping[str, str]) -> None:
    """Refuse groups whose records are of several splits.

    Raises:
        TaskError: Names the first group of this kind.
    """
    named: dict[str, set[str]] = {}
    for item in items:
        named.setdefault(item.read_field(field), set()).add(by_hand[item.id])
    for group, splits in named.items():
        if len(splits) > 1:
            raise TaskError(
                f"task.group = {field!r}: records of {short(group)!r} say that they are of {' and '.join(sorted(splits))}",
                "Records of one group are to be in one split.",
            )


def left_out(
    config: TaskConfig, items: Sequence[Item], splits: Mapping[str, Sequence[Sequence[Item]]]
) -> tuple[str, ...]:
    """A sentence for each split of which records are in no round, though they say that they are of it; none where none do.

    Args:
        config: Of the task.
        items: All of them.
        splits: What was dealt out: split -> the items of each round.
    """
    by_hand = marks(config, items)
    return () if by_hand is None else tuple(_left_out(items, by_hand, splits))


def _left_out(
    items: Sequence[Item], by_hand: Mapping[str, str], splits: Mapping[str, Sequence[Sequence[Item]]]
) -> Iterator[str]:
    away = strays(items, by_hand)
    if away:
        shown = "; ".join(
            f"{item.id} of {by_hand[item.id]}, {one.id} of {by_hand[one.id]}" for item, one in away[:SHOWN]
        )
        yield (
            f"{_records(len(away))} left out, as {'it asks' if len(away) == 1 else 'they ask'} what one of another split asks, "
            f"case and white space aside: {shown}"
        )
    gone = {item.id for item, _ in away}
    for split in SPLITS:
        asked = {item.messages for item in items if by_hand[item.id] == split and item.id not in gone}
        used = {item.messages for part in splits[split] for item in part}
        if asked > used:
            rounds = len(splits[split])
            more = f"--set task.splits.{split}={max(1, len(asked) // rounds)}"
            each = f" in each of {rounds} rounds" if rounds > 1 else ""
            yield (
                f"{_records(len(asked - used))} left out of {len(asked):,} that say they are of {split}, of which "
                f"{len(splits[split][0]):,} are taken{each}; {more} takes {'as many as it can' if len(asked) % rounds else 'all'}"
            )


def _records(count: int) -> str:
    return "1 record is" if count == 1 else f"{count:,} records are"

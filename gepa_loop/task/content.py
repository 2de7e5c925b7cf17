"""What a run knows of a task's items: a change of any makes it another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gepa_loop.outside.known import known_fields
from gepa_loop.run.identity import fingerprint
from gepa_loop.task.records import Item


def content(
    splits: Mapping[str, Sequence[Item]], records: Sequence[Item]
) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Items by their ids and marks, and the fields of records that no mark is over, as no later process would know them again.

    Args:
        splits: Items of round 0.
        records: All that they were dealt out from, where there is an end of them. Whatever field a scorer or a teacher may read is in
            their marks; items that are made are functions of the seed, the options and a version, which a run knows besides.
    """
    found = {
        split: [[item.id, fingerprint([item.messages, item.answer])] for item in items]
        for split, items in splits.items()
    }
    unknown: dict[str, None] = {}
    if records:
        found["records"] = []
    for item in records:
        fields, others = known_fields(item.entry)
        unknown |= dict.fromkeys(others)
        found["records"].append([item.id, fingerprint([item.messages, item.answer, fields])])
    return found, list(unknown)

"""Which field's equal values belong together, and whether its groups can stay whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gepa_loop.config.data import FieldsConfig, SplitSizes
from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.start.guess import Ask, Meaning
from gepa_loop.start.names import GROUPS, is_name_of
from gepa_loop.start.sizes import NAMED, WHOLE
from gepa_loop.start.survey import Field, Survey
from gepa_loop.task.dealing import deal_records
from gepa_loop.task.records import Item, short

FULL = 0.5
"""Share of a split's size that must be left for it: a large group takes more than its split has room for, and the rest of it is lost."""


def choose_group(
    found: Survey, meaning: Meaning, items: Sequence[Item], ask: Ask
) -> tuple[str | None, str | None]:
    """The field whose equal values stay in one split, and why a likely one is not proposed.

    Args:
        found: The data.
        meaning: Of their fields.
        items: Of the mapped records.
        ask: Who decides.

    Raises:
        ConfigError: Groups of the field that was chosen cannot stay whole.
    """
    # Who marks splits by hand has seen to it.
    free = [] if meaning.by_hand else [one for one in found.fields if one.name not in meaning.taken]
    likely = next((one.name for one in free if _is_group(one, len(found.rows))), None)
    fault = None if likely is None else group_fault(items, meaning.fields, likely)
    proposed = likely if fault is None else None
    group = ask("group", proposed, [one.name for one in found.fields])
    if group is None:
        return None, None if fault is None else f"{likely} is not kept whole: {fault}"
    if group != proposed and not meaning.by_hand:
        said = fault if group == likely else group_fault(items, meaning.fields, group)
        if said is not None:
            raise ConfigError(
                f"--group {group}: {said}",
                "Mend the field, choose another one, or leave --group out.",
            )
    return group, None


def group_fault(items: Sequence[Item], fields: FieldsConfig, group: str) -> str | None:
    """Why the groups of a field cannot stay whole; None where they can."""
    if group in (fields.question, fields.answer):
        return f"it is the {'question' if group == fields.question else 'answer'} itself"
    values, blank = [], []
    for item in items:
        try:
            values.append(item.read_field(group))
        except TaskError:
            blank.append(item.id)
    if blank:
        shown = ", ".join(blank[:NAMED]) + (" and others" if len(blank) > NAMED else "")
        return f"{len(blank):,} of {len(items):,} records have no text or number in it: {shown}"
    sizes = SplitSizes.model_validate(WHOLE).counted(len({item.messages for item in items}))
    config = TaskConfig(kind="jsonl", name="data", group=group, splits=sizes, fields=fields)
    dealt = deal_records(config, 0, 1, items, owed=0)
    empty = [split for split in WHOLE if len(dealt[split][0]) < FULL * getattr(sizes, split)]
    if not empty:
        return None
    value, count = Counter(values).most_common(1)[0]
    return f"too little would be left for {', '.join(empty)}, as {short(value, 40)!r} alone has {count:,} of {len(items):,} records"


def _is_group(one: Field, rows: int) -> bool:
    return (
        is_name_of(one.leaf, GROUPS)
        and 10 <= one.distinct < 0.95 * rows
        and one.filled == rows
        and one.words <= 6
    )

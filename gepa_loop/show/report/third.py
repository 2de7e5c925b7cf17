"""The third number of a page: after how many calls a student has paid for what it took."""

from __future__ import annotations

from collections.abc import Iterator

from gepa_loop.cost.records import CostsRecord, WorthRecord
from gepa_loop.run.files import read_json
from gepa_loop.show.costs import minutes, paid_text, reading_text
from gepa_loop.show.report.read import Told
from gepa_loop.show.report.tiles import Tile
from gepa_loop.stages.costs import FILE


def cost_and_break_even(told: Told) -> Tile | None:
    """What `_third.html.j2` shows beside the other two; None of a run that has no costs.json.

    Raises:
        RunDirectoryError: It is not as it was written.
    """
    file = told.path / FILE
    if not file.exists():
        return None
    costs = read_json(file, CostsRecord)
    whole = minutes(sum(costs["seconds"].values()))
    took = f"it took {whole} minutes on {costs['device']}{paid_text(costs['usd'])}"
    worth = costs["worth"]
    if worth is None:
        return Tile("minutes that it took", whole, "", (took,))
    calls = worth["anew"]["break_even"]
    if calls is None:
        return Tile("minutes that it took", whole, "", (took, *_notes(worth)))
    return Tile("calls until its tokens have paid for it", f"{calls:,}", "", (took, *_notes(worth)))


def _notes(worth: WorthRecord) -> Iterator[str]:
    both = {"where each call reads the prompt": worth["anew"], "with a prefix cache": worth["cached"]}
    for name, one in both.items():
        if text := reading_text(worth, one):
            yield f"{name}: {text}"

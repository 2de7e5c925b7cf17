"""The cells of a sweep in a table, with their learning curves so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gepa_loop.scores.numbers import decimal
from gepa_loop.stages.cells import Cell

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24
"""Characters of a curve; of a longer one each stands for the last of several values."""
STYLES = {"done": "green", "running": "bold", "stopped": "yellow", "owed": "dim"}


def cells_table(cells: Sequence[Cell]) -> Table:
    """A row for each cell and seed: its last check, and the step that was kept. Curves of one column have one scale, so that they
    can be compared."""
    table = Table(box=None, pad_edge=False, header_style="underline")
    for title in ("cell", "seed", "state", "steps", "kept", "held-out", "", "held-out KL", ""):
        table.add_column(
            title, justify="left" if title in ("cell", "state", "") else "right", overflow="fold"
        )
    scores = _scale([value for cell in cells for value in cell.held_out.values()])
    nats = _scale([value for cell in cells for value in cell.kl.values()])
    for cell in cells:
        held_out, kl = list(cell.held_out.values()), list(cell.kl.values())
        table.add_row(
            Text(cell.name),
            str(cell.seed),
            Text(cell.state, STYLES[cell.state]),
            str(cell.steps or ""),
            "" if cell.kept is None else str(cell.kept),
            decimal(held_out[-1]) if held_out else "",
            sparkline(held_out, *scores),
            f"{kl[-1]:.3f}" if kl else "",
            sparkline(kl, *nats),
        )
    return table


def cells_line(cells: Sequence[Cell]) -> str:
    """How many are how far."""
    count = Counter[str](cell.state for cell in cells)
    told = [f"{count[state]} {state}" for state in STYLES if count[state]]
    return f"{len(cells)} students: {', '.join(told)}"


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """Values as bars between `low` and `high`, both of which may be the same."""
    each = -(-len(values) // WIDTH) or 1
    shown = [values[min(start + each, len(values)) - 1] for start in range(0, len(values), each)]
    height = (high - low) or 1.0
    return "".join(BARS[min(int((value - low) / height * len(BARS)), len(BARS) - 1)] for value in shown)


def _scale(values: Sequence[float]) -> tuple[float, float]:
    return min(values, default=0.0), max(values, default=1.0)

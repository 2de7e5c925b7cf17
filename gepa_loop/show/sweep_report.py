"""A sweep as one HTML page that needs no network and no other file: what is claimed of each cell, and its learning curves."""

from __future__ import annotations

import html
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gepa_loop.errors import RunDirectoryError
from gepa_loop.outside.redact import redacted
from gepa_loop.run.files import read_json, read_record, write_text
from gepa_loop.scores.numbers import decimal, p_text
from gepa_loop.scores.over_seeds import LEAST
from gepa_loop.scores.records import OverSeedsRecord
from gepa_loop.show.report.figures import UNSAFE
from gepa_loop.show.report.write import FILE, part, policy, render
from gepa_loop.stages.cells import Cell, Curve, cells_of
from gepa_loop.sweep import CellRecord, SweepRecord

LEVEL = 0.05
HEIGHT = 260
"""Pixels of a figure."""


@dataclass(frozen=True)
class Chart:
    """A figure and its numbers, as the macro `chart` of pages has them."""

    title: str
    about: str
    figure: str
    """JSON that can stand within a page."""
    head: list[str]
    rows: list[list[str]]


def write_sweep_report(run: Path) -> Path:
    """Write report.html into the directory of a finished sweep; returns its path.

    Raises:
        RunDirectoryError: It is not finished, or a file of it cannot be read.
        EnvironmentFault: The page cannot be written.
    """
    from plotly.offline import get_plotlyjs

    if not (run / "result.json").exists():
        raise RunDirectoryError(f"{run} is not finished", f"See `gepa-loop runs cells {run.name}`.")
    result = read_record(run / "result.json", SweepRecord)
    # One that was asked for more since then has further seeds.
    cells = [cell for cell in cells_of(run) if cell.seed in result["seeds"]]
    plotly, script = get_plotlyjs(), part("report/charts.js")
    page = render(
        "report/sweep.html.j2",
        run=run.name,
        result=result,
        verdict=verdict(result),
        rows=[_row(cell) for cell in result["cells"]],
        untrained=_untrained(result),
        charts=charts(result, cells),
        least=LEAST,
        config=redacted(json.dumps(read_json(run / "config.json", dict[str, Any]), indent=2)),
        policy=policy(plotly, script),
        plotly=plotly,
        script=script,
        style=part("report/style.css"),
    )
    write_text(run / FILE, page)
    return run / FILE


def verdict(result: SweepRecord) -> str:
    """What the sweep claims, in a sentence: of cells whose difference is told from 0 over seeds, and of no others."""
    seeds, baseline = len(result["seeds"]), result["baseline"]
    if seeds < LEAST:
        return f"Nothing is claimed: {seeds} training {'seed' if seeds == 1 else 'seeds'} cannot tell recipes apart"
    found = [
        f"{cell['cell']} is {'better' if gap['mean'] > 0 else 'worse'} than {baseline} ({decimal(gap['mean'], '+')}, p {p_text(gap['p'])})"
        for cell in result["cells"]
        if (gap := cell["difference"]) is not None and gap["p"] is not None and gap["p"] < LEVEL
    ]
    return "; ".join(found) or f"No cell can be told from {baseline} by {seeds} training seeds"


def _row(cell: CellRecord) -> list[str]:
    student, gap = cell["student"], cell["difference"]
    against, p = (
        ("", "") if gap is None else (_spread(gap, "+"), "-" if gap["p"] is None else p_text(gap["p"]))
    )
    by_seed = " ".join(decimal(value) for value in student["by_seed"])
    return [cell["cell"], " ".join(cell["sets"]), _spread(student), by_seed, against, p]


def _spread(found: OverSeedsRecord, sign: str = "") -> str:
    mean = decimal(found["mean"], sign)
    if found["ci"] is None:
        return f"{mean} -"
    low, high = found["ci"]
    return f"{mean} [{decimal(low, sign)}, {decimal(high, sign)}]"


def _untrained(result: SweepRecord) -> list[str]:
    several = len(result["untrained"]) > 1
    found = []
    for one in result["untrained"]:
        of = f" ({', '.join(one['cells'])})" if several else ""
        bare, prompted = decimal(one["base"]["mean"]), decimal(one["prompted"]["mean"])
        found.append(f"Before training{of}: {bare} without the prompt, {prompted} with it.")
    return found


def charts(result: SweepRecord, cells: Sequence[Cell]) -> list[Chart]:
    """Two of each cell, each with the mean over seeds, every seed and the baseline's mean; those of one kind have one axis."""
    top = max((value for cell in cells for value in cell.held_out.values()), default=0.0) or 1.0
    most = max((value for cell in cells for value in cell.kl.values()), default=0.0) or 1.0
    base = [cell for cell in cells if cell.name == result["baseline"]]
    found = []
    for name in (one["cell"] for one in result["cells"]):
        own = [cell for cell in cells if cell.name == name]
        for about, curves, of_base, end in (
            ("held-out score", [c.held_out for c in own], [c.held_out for c in base], top),
            ("KL(student || teacher)", [c.kl for c in own], [c.kl for c in base], most),
        ):
            others = None if name == result["baseline"] else mean_curve(of_base)
            found.append(_chart(f"{name}: {about}", [c.seed for c in own], curves, others, end))
    return found


def mean_curve(curves: Sequence[Curve]) -> dict[int, float]:
    """The mean over seeds, at steps that all of them have."""
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {step: statistics.fmean(curve[step] for curve in curves) for step in sorted(steps)}


def _chart(
    title: str, seeds: Sequence[int], curves: Sequence[Curve], baseline: Curve | None, top: float
) -> Chart:
    import plotly.graph_objects as go

    mean = mean_curve(curves)
    traces = [
        _line(f"seed {seed}", curve, "accent", 1.0, "dot") for seed, curve in zip(seeds, curves, strict=True)
    ]
    if baseline is not None:
        traces.append(_line("baseline, mean", baseline, "other", 2.0, "dash"))
    traces.append(_line("mean over seeds", mean, "accent", 3.0, "solid"))
    figure = go.Figure(traces)
    figure.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 52, "r": 12, "t": 12, "b": 44},
        showlegend=True,
        legend={"orientation": "h", "y": -0.34, "x": 0},
        hovermode="closest",
    )
    figure.update_xaxes(title_text="step", rangemode="tozero", zeroline=False, automargin=True)
    figure.update_yaxes(range=[-0.03 * top, 1.04 * top], zeroline=False, automargin=True, nticks=6)
    steps = sorted({step for curve in curves for step in curve})
    rows = [
        [str(step), _told(mean.get(step)), *(_told(curve.get(step)) for curve in curves)] for step in steps
    ]
    head = ["step", "mean", *(f"seed {seed}" for seed in seeds)]
    about = f"{title}, by step: the mean over {len(seeds)} seeds, and each of them"
    return Chart(title, about, figure.to_json().translate(UNSAFE), head, rows)


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _line(name: str, curve: Curve, role: str, width: float, dash: str) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=list(curve),
        y=list(curve.values()),
        name=html.escape(name),
        mode="lines+markers" if len(curve) == 1 else "lines",
        line={"dash": dash, "width": width},
        meta={"role": role},
        text=[_told(value) for value in curve.values()],
        hovertemplate="step %{x}: %{text}<extra>%{fullData.name}</extra>",
    )

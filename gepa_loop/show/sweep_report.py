"""A sweep as one HTML page that needs no network and no other file: what is claimed of each cell, and its learning curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from gepa_loop.errors import RunDirectoryError
from gepa_loop.outside.redact import redacted
from gepa_loop.run.files import read_json, read_record, write_text
from gepa_loop.scores.numbers import decimal, p_sentence, p_text
from gepa_loop.scores.over_seeds import LEAST
from gepa_loop.scores.records import OverSeedsRecord
from gepa_loop.show.report.charts import Chart
from gepa_loop.show.report.figures import (
    Points,
    Role,
    nats,
    nats_figure,
    nats_line,
    score_figure,
    score_line,
    thin_line,
)
from gepa_loop.show.report.write import FILE, part, policy, render
from gepa_loop.stages.cells import Cell, Curve, cells_of
from gepa_loop.stages.grid import is_sweep, left_out
from gepa_loop.sweep import CellRecord, SweepRecord


def has_sweep_page(run: Path) -> bool:
    """Whether a run is a finished sweep, as far as its files tell."""
    return is_sweep(run) and (run / "result.json").exists()


def write_sweep_report(run: Path) -> Path:
    """Write report.html into the directory of a finished sweep; returns its path.

    Raises:
        RunDirectoryError: It is not finished, or a file of it cannot be read.
        EnvironmentFault: The page cannot be written.
    """
    write_text(run / FILE, sweep_page(run))
    return run / FILE


def sweep_page(run: Path) -> str:
    """The page of a sweep.

    Raises:
        RunDirectoryError: It is not finished, or a file of it cannot be read.
    """
    from plotly.offline import get_plotlyjs

    name = run.resolve().name
    if not has_sweep_page(run):
        raise RunDirectoryError(f"{run} is not finished", f"See `gepa-loop runs cells {name}`.")
    result = read_record(run / "result.json", SweepRecord)
    # One that was asked for more since then has further seeds.
    cells = [cell for cell in cells_of(run) if cell.seed in result["seeds"]]
    plotly, script = get_plotlyjs(), sweep_script()
    text = render(
        "report/sweep.html.j2",
        run=name,
        result=result,
        verdict=verdict(result, level_of(run)),
        rows=[_row(cell) for cell in result["cells"]],
        untrained=_untrained(result),
        owed=left_out(run, result),
        charts=charts(result, cells),
        least=LEAST,
        config=redacted(json.dumps(_config(run), indent=2)),
        policy=policy(plotly, script),
        plotly=plotly,
        script=script,
        style=part("report/style.css"),
    )
    # What is half of a surrogate pair cannot be written.
    return text.encode("utf-8", "replace").decode()


def sweep_script() -> str:
    """What a sweep's page runs besides plotly.js: its charts' colours."""
    return part("report/charts.js")


def level_of(run: Path) -> float:
    """The level at which a sweep claims that a cell differs: `loop.alpha` of its configuration.

    Raises:
        RunDirectoryError: The configuration is not as it was written.
    """
    return float(_config(run)["loop"]["alpha"])


def _config(run: Path) -> dict[str, Any]:
    return read_json(run / "config.json", dict[str, Any])


def verdict(result: SweepRecord, level: float) -> str:
    """What the sweep claims, in a sentence: of cells whose difference is told from 0 over seeds at a level, and of no others."""
    seeds, baseline = len(result["seeds"]), result["baseline"]
    if seeds < LEAST:
        return f"Nothing is claimed: {seeds} training {'seed' if seeds == 1 else 'seeds'} cannot tell recipes apart"
    found = [
        f"{cell['cell']} is {'better' if gap['mean'] > 0 else 'worse'} than {baseline} ({decimal(gap['mean'], '+')}, {p_sentence(gap['p'])})"
        for cell in result["cells"]
        if (gap := cell["difference"]) is not None and gap["p"] is not None and gap["p"] < level
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


@dataclass(frozen=True)
class _Kind:
    """A quantity that has curves."""

    name: str
    of: Callable[[Cell], Curve]
    line: Callable[[str, Points, Role, int], Any]
    say: Callable[[float], str]
    figure: Callable[..., str]
    """From its lines, and with `most` the largest value of all cells."""


KINDS = (
    _Kind(
        "held-out score",
        attrgetter("held_out"),
        score_line,
        decimal,
        partial(score_figure, title="held-out score"),
    ),
    _Kind("KL(student || teacher) of held-out replies", attrgetter("kl"), nats_line, nats, nats_figure),
)


def charts(result: SweepRecord, cells: Sequence[Cell]) -> list[Chart]:
    """Two of each cell, each with the mean over seeds, every seed and the baseline's mean; those of one kind have one axis."""
    most = [max((v for cell in cells for v in kind.of(cell).values()), default=0.0) for kind in KINDS]
    base = [cell for cell in cells if cell.name == result["baseline"]]
    return [
        _chart(
            f"{name}: {kind.name}",
            kind,
            [cell for cell in cells if cell.name == name],
            [] if name == result["baseline"] else base,
            largest,
        )
        for name in (one["cell"] for one in result["cells"])
        for kind, largest in zip(KINDS, most, strict=True)
    ]


def mean_curve(curves: Sequence[Curve]) -> dict[int, float]:
    """The mean over seeds, at steps that all of them have."""
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {step: statistics.fmean(curve[step] for curve in curves) for step in sorted(steps)}


def _chart(title: str, kind: _Kind, own: Sequence[Cell], baseline: Sequence[Cell], largest: float) -> Chart:
    curves = [kind.of(cell) for cell in own]
    mean = mean_curve(curves)
    traces = [thin_line(f"seed {cell.seed}", _points(kind.of(cell)), "accent", kind.say) for cell in own]
    if baseline:
        others = mean_curve([kind.of(cell) for cell in baseline])
        traces.append(kind.line("baseline, mean", _points(others), "other", 1))
    traces.append(kind.line("mean over seeds", _points(mean), "accent", 0))
    steps = sorted({step for curve in curves for step in curve})
    rows = tuple(
        (str(step), *(kind.say(curve[step]) if step in curve else "" for curve in (mean, *curves)))
        for step in steps
    )
    about = f"{title}, by step: the mean over {len(own)} seeds, and each of them"
    head = ("step", "mean", *(f"seed {cell.seed}" for cell in own))
    return Chart(title, about, kind.figure(traces, most=largest), head, rows)


def _points(curve: Curve) -> Points:
    return list(curve.items())

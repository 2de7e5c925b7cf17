"""A finished run as one HTML page that needs no network and no other file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal, TypedDict

from gepa_loop.distill.records import ChoiceRecord, DistilledRecord, MetricsRow
from gepa_loop.optimize.records import CandidateRow, FrontRow, SearchRecord
from gepa_loop.run.files import read_json, read_jsonl, read_record, write_text
from gepa_loop.run.records import EventRow
from gepa_loop.scores.ledger import read_looks
from gepa_loop.scores.numbers import p_sentence
from gepa_loop.scores.outcome import ground
from gepa_loop.scores.records import EstimateRecord, RatioRecord
from gepa_loop.scores.results import DecisionRecord, LoopRecord, RoundResult

WIDTH, HEIGHT, MARGIN = 420, 120, 24
"""Of a chart, in pixels."""
CHARTED: tuple[Literal["held_out_score", "reverse_kl"], ...] = ("held_out_score", "reverse_kl")


def write_report(run: Path) -> Path:
    """Write report.html into a run directory that holds a result.json; returns its path.

    Raises:
        RunDirectoryError: A file of the run cannot be read.
        EnvironmentFault: The page cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    source = (resources.files("gepa_loop.show") / "report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["score"] = _score
    environment.filters["interval"] = _interval
    environment.filters["p"] = p_sentence
    result = read_record(run / "result.json", LoopRecord)
    page = environment.from_string(source).render(
        name=run.name,
        result=result,
        looks=read_looks(run),
        prompt=(run / result["prompt"]).read_text("utf-8"),
        facts=read_jsonl(run / "events.jsonl", EventRow)[0],
        ground=ground(result["rounds"]),
        rounds=[
            _round(run / f"round_{r['round']:02d}", r) | {"ground": ground(result["rounds"], r["round"])}
            for r in result["rounds"]
        ],
        config=(run / "config.json").read_text("utf-8"),
    )
    write_text(run / "report.html", page)
    return run / "report.html"


def _round(folder: Path, summary: RoundResult) -> dict[str, object]:
    read_record(folder / "optimize" / "result.json", SearchRecord)
    front = {row["id"]: row for row in read_jsonl(folder / "optimize" / "front.jsonl", FrontRow)}
    proposed = read_jsonl(folder / "optimize" / "candidates.jsonl", CandidateRow)
    decision = read_json(folder / "decision.json", DecisionRecord)
    candidates = [
        {
            **c,
            "text": front[c["id"]]["text"],
            "pareto_mean": front[c["id"]]["pareto_mean"],
            "chart": None if c["student"] is None else _chart(folder / "distill" / c["id"]),
        }
        for c in summary["candidates"]
    ]
    return {
        **decision,
        "test": summary["test"],
        "internalisation": summary["internalisation"],
        "candidates": candidates,
        "proposed": proposed,
    }


class Line(TypedDict):
    """A line of a chart, in pixels, and the value of its highest point."""

    points: str
    dots: list[tuple[float, float]]
    top: float


class Chart(TypedDict):
    """What a page draws of a distillation."""

    lines: dict[str, Line]
    kept: ChoiceRecord
    steps: int
    width: int
    height: int
    margin: int


def _chart(folder: Path) -> Chart:
    """Points of a distillation's held-out score and KL by step, each scaled to its own largest value."""
    kept = read_record(folder / "result.json", DistilledRecord)["choice"]
    metrics = read_jsonl(folder / "metrics.jsonl", MetricsRow)
    last = metrics[-1]["step"]
    lines: dict[str, Line] = {}
    for key in CHARTED:
        known = [(row["step"], value) for row in metrics if (value := row.get(key)) is not None]
        top = max((value for _, value in known), default=0.0) or 1.0
        points = [
            (
                round(MARGIN + (WIDTH - 2 * MARGIN) * step / last, 1),
                round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / top, 1),
            )
            for step, value in known
        ]
        lines[key] = {"points": " ".join(f"{x},{y}" for x, y in points), "dots": points, "top": top}
    return {"lines": lines, "kept": kept, "steps": last, "width": WIDTH, "height": HEIGHT, "margin": MARGIN}


def _score(value: float) -> str:
    return f"{value:z.3f}"


def _interval(estimate: EstimateRecord | RatioRecord) -> str:
    low, high = estimate["ci"]
    return f"[{low:z.3f}, {high:z.3f}]"

"""How our step grows with its sizes: one size at a time around a case of the benchmark, as results/growth.json and growth.svg.

Every point is a process of its own and is written when it is done, so an interrupted run goes on where it stopped. Drawing
reads the file only: `python -m benchmarks.growth --draw`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case
from benchmarks.step import PHASES, ROOT, device_name, measure, versions

PLACE = ROOT / "benchmarks" / "results" / "growth.json"


@dataclass(frozen=True)
class Series:
    """Values of one size, and what is changed besides to make room for them."""

    size: str
    title: str
    values: tuple[int, ...]
    besides: tuple[tuple[str, int], ...] = ()

    def override(self, value: int) -> dict[str, int]:
        return {**dict(self.besides), self.size: value}


# The longest completions of 64 rollouts would take minutes a step; all points of a line must have the same rollouts.
SERIES = (
    Series("rollouts", "rollouts", (16, 64, 256, 1024)),
    Series("new", "horizon in tokens, 16 rollouts", (64, 512, 2048, 8192), (("rollouts", 16),)),
    Series("context", "teacher's context in tokens", (0, 1024, 4096, 16384)),
    Series("rank", "LoRA rank", (4, 16, 64, 256)),
)
SMALL = (
    Series("rollouts", "rollouts", (4, 8, 16)),
    Series("new", "horizon in tokens, 8 rollouts", (8, 16, 32), (("rollouts", 8),)),
    Series("context", "teacher's context in tokens", (0, 64, 256)),
    Series("rank", "LoRA rank", (4, 16, 64)),
)
"""For a CPU."""


def sizes_of(case: Case, override: dict[str, Any]) -> dict[str, Any]:
    found = dataclasses.asdict(dataclasses.replace(case, **override))
    return {name: value for name, value in found.items() if name not in ("name", "device")}


def run(case: Case, chosen: list[Series], steps: int, warmup: int, place: Path) -> None:
    """Measure the points that the file does not hold yet; those that failed before are tried again."""
    kept = json.loads(place.read_text())["points"] if place.exists() else []
    points = {json.dumps(point["sizes"]): point for point in kept if "error" not in point}
    for series in chosen:
        for value in series.values:
            override = series.override(value)
            sizes = sizes_of(case, override)
            if json.dumps(sizes) in points:
                continue
            print(f"{case.name}: {override} ...", end=" ", flush=True)
            found = measure("benchmarks.ours", case, steps, warmup, json.dumps(override))
            point: dict[str, Any] = {"sizes": sizes, "date": datetime.date.today().isoformat()}
            if isinstance(found, str):
                point["error"] = found
                print(found, flush=True)
            else:
                point |= {name: found[name] for name in ("seconds", "steps", "peak_gib")}
                print(f"{found['seconds']['step']:.3f} s, {found['peak_gib']:.2f} GiB", flush=True)
            points[json.dumps(sizes)] = point
            write(place, case, list(points.values()), steps, warmup)


def write(place: Path, case: Case, points: list[dict[str, Any]], steps: int, warmup: int) -> None:
    whole = {
        "case": case.name,
        "points": points,
        "device": device_name(case),
        "versions": versions(),
        "command": f"python -m benchmarks.growth --case {case.name} --steps {steps} --warmup {warmup}",
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(whole, indent=2) + "\n")
    partial.replace(place)


COLOURS = {
    "step": "#000000",
    "generate": "#0072b2",
    "teacher": "#d55e00",
    "forward": "#009e73",
    "loss": "#cc79a7",
    "backward": "#56b4e9",
    "optimizer": "#e69f00",
}
"""Okabe and Ito's, which the colour-blind can tell apart."""
MEMORY = "#8a8a8a"


def draw(place: Path, picture: Path) -> None:
    """One panel for each size: seconds of the step and its phases, and peak memory, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg" if picture.suffix == ".svg" else "agg")
    matplotlib.rcParams.update({"svg.hashsalt": "growth", "font.size": 10, "axes.titlesize": 11})
    import matplotlib.pyplot as plt

    whole = json.loads(place.read_text())
    case = CASES[whole["case"]]
    points = {json.dumps(point["sizes"]): point for point in whole["points"]}
    figure, panels = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained", sharey=True)
    peaks = [point["peak_gib"] for point in points.values() if "peak_gib" in point]
    handles: dict[str, Any] = {}
    for panel, series in zip(panels.flat, series_of(case), strict=True):
        found = [points.get(json.dumps(sizes_of(case, series.override(v)))) for v in series.values]
        memory = draw_panel(panel, series, found, handles)
        memory.set_ylim(
            2 ** math.floor(math.log2(min(peaks) / 1.5)), 2 ** math.ceil(math.log2(max(peaks) * 1.5))
        )
        if panel in panels[:, 0]:
            panel.set_ylabel("seconds")
            memory.tick_params(labelright=False)
        else:
            memory.set_ylabel("peak GiB", color=MEMORY)
    figure.suptitle(
        f"One training step around case {case.name}: {case.shape}, {case.rollouts} rollouts of {case.new} tokens, "
        f"prompt {case.prompt:,}, teacher's context {case.context:,}, LoRA rank {case.rank}, {case.dtype}\n{whole['device']}",
        fontsize=11,
    )
    handles = {"whole step": handles.pop("whole step"), **handles}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False)
    date = {"Date": None} if picture.suffix == ".svg" else {}
    figure.savefig(picture, metadata=date, dpi=110)


def series_of(case: Case) -> tuple[Series, ...]:
    return SERIES if case.device == "cuda" else SMALL


def draw_panel(
    panel: Any, series: Series, found: list[dict[str, Any] | None], handles: dict[str, Any]
) -> Any:
    """One size's lines; `handles` gets what the legend shows. Returns the axis of memory."""
    places = positions(series.values)
    ran = [(x, point) for x, point in zip(places, found, strict=True) if point and "seconds" in point]
    memory = panel.twinx()
    memory.set_yscale("log", base=2)
    memory.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    memory.tick_params(axis="y", colors=MEMORY)
    panel.set_zorder(memory.get_zorder() + 1)
    panel.patch.set_visible(False)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_title(series.title)
    panel.set_xticks(places, [f"{value:,}" for value in series.values])
    panel.set_xlim(places[0] - 0.3, places[-1] + 0.3)
    for side in (panel, memory):
        side.spines["top"].set_visible(False)
    for x, point in zip(places, found, strict=True):
        if not point or "seconds" not in point:
            panel.text(
                x,
                0.5,
                "did not run" if point else "not measured",
                rotation=90,
                ha="center",
                va="center",
                color=MEMORY,
                transform=panel.get_xaxis_transform(),
            )
    if not ran:
        return memory
    xs = [x for x, _ in ran]
    for phase in (*PHASES, "step"):
        seconds = [point["seconds"][phase] for _, point in ran]
        width, size = (2.4, 5) if phase == "step" else (1.4, 3.5)
        (handles["whole step" if phase == "step" else phase],) = panel.plot(
            xs, seconds, color=COLOURS[phase], linewidth=width, marker="o", markersize=size
        )
    if series.size in ("rollouts", "new"):
        first, last = ran[0][1]["seconds"]["step"], 2.0 ** (xs[-1] - xs[0])
        (handles["proportional"],) = panel.plot(
            [xs[0], xs[-1]], [first, first * last], color="#000000", linewidth=0.8, linestyle=(0, (1, 3))
        )
    peaks = [point["peak_gib"] for _, point in ran]
    (handles["peak GiB (right)"],) = memory.plot(
        xs, peaks, color=MEMORY, linewidth=1.2, linestyle=(0, (5, 3)), marker="s", markersize=3.5
    )
    return memory


def positions(values: tuple[int, ...]) -> list[float]:
    """Where values lie on a logarithmic axis; 0 lies one step of 4 before the first that is not."""
    first = min(value for value in values if value)
    return [math.log2(value or first / 4) for value in values]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="A", help=f"one of {', '.join(CASES)}")
    parser.add_argument("--series", default="rollouts,new,context,rank", help="sizes to vary, with commas")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--points", type=Path, default=PLACE, help="the file of points, read and written")
    parser.add_argument("--picture", type=Path, default=ROOT / "benchmarks" / "growth.svg")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured")
    given = parser.parse_args()
    if given.draw:
        draw(given.points, given.picture)
        return 0
    case, wanted = CASES[given.case], given.series.split(",")
    chosen = [series for series in series_of(case) if series.size in wanted]
    run(case, chosen, given.steps, given.warmup, given.points)
    points = json.loads(given.points.read_text())["points"]
    return int(any("error" in point for point in points))


if __name__ == "__main__":
    sys.exit(main())

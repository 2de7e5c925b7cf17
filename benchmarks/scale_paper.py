"""What `benchmarks.scale` measured on two GPUs, beside what the schedule of `gepa-loop plan` makes of one GPU's; and the same on paper for 1 to 64.

python -m benchmarks.scale_paper          the table
python -m benchmarks.scale_paper --draw   and scale.svg

What is measured later goes into results/scale.json; null there stands for what was not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.step import ROOT
from gepa_loop.cost.schedule import Machines, Sharing, Turn
from gepa_loop.start.scheduled import COUNTS

PLACE = ROOT / "benchmarks" / "results" / "scale.json"
PICTURE = ROOT / "benchmarks" / "scale.svg"
UNKNOWN = "not measured yet"


@dataclass(frozen=True)
class Line:
    """Something that was timed."""

    what: str
    workers: int
    measured: float | None
    predicted: float | None
    """None where what it is predicted from is not measured."""

    def __str__(self) -> str:
        measured, predicted = (
            UNKNOWN if s is None else f"{s:.2f} s" for s in (self.measured, self.predicted)
        )
        gap = ""
        if self.measured is not None and self.predicted is not None:
            gap = f"{self.predicted / self.measured - 1:+.1%}"
        return f"{self.what:<44} {self.workers:>7} {measured:>17} {predicted:>17} {gap:>7}"


def gpus(workers: int) -> Machines:
    return Machines(max(1, workers), on_gpu=True)


def compared(found: dict[str, Any]) -> Iterator[Line]:
    """All that has a figure for 1 or 2 workers, or will have."""
    sampling = found["sampling"]["workers"]
    for rows, seconds in sampling["0"].items():
        for workers in (1, 2):
            own = sampling[str(workers)] or {}
            predicted = gpus(workers).asked((int(rows),), seconds / int(rows))
            yield Line(f"sampling: 4B, {rows} rows of 1,024", workers, own.get(rows), predicted)
    own = sum(found["step"]["workers"]["1"].values())
    # The worker has a GPU beside the command's, as one of two workers has.
    yield Line("a step of one student: 4B, C, stale", 1, own, step_of(found, stale=1)(1, 2))
    # As many students that share their steps on one device as on each of two: half of its time, whatever their steps are made of.
    none, one = (found["overhead"]["workers"][str(n)] for n in (0, 1))
    seconds = {n: found["students"]["workers"][str(n)] for n in (1, 2)}
    for what in ("train", "score"):
        means = (mean(run[what] for run in runs) for runs in (one, none))
        yield Line(f"8 students, 0.5B, tickets: {what}, from none", 1, *means)
        yield Line(f"8 students, 0.5B, tickets: {what}, from one", 2, seconds[2][what], seconds[1][what] / 2)


def step_of(found: dict[str, Any], stale: int = 0) -> Callable[[int, int], float]:
    """Seconds of a step of so many students of case C with so many workers, from that of one student."""
    phases, rows = found["step"]["workers"]["0"], found["step"]["rollouts"]
    turn = Turn(rows, phases["generate"], sum(phases.values()) - phases["generate"])
    sharing = Sharing(measured=1, at_once=256 // rows, stale=stale)
    return lambda students, workers: sharing.seconds(students, turn, gpus(workers))


def scored(found: dict[str, Any]) -> Callable[[int, int], float]:
    """Seconds of so many calls of 128 rows, asked for at once, from that of one."""
    each = found["sampling"]["workers"]["0"]["128"] / 128
    return lambda calls, workers: gpus(workers).asked((128,) * calls, each)


def curves(found: dict[str, Any]) -> dict[str, list[float]]:
    """Name -> how many times as fast as on one GPU, for each of `COUNTS`."""
    step, stale, score = step_of(found), step_of(found, stale=1), scored(found)

    def faster(seconds: Callable[[int, int], float], count: int) -> list[float]:
        return [seconds(count, 1) / seconds(count, workers) for workers in COUNTS]

    return {
        "64 calls of 128 rows": faster(score, 64),
        "1 call of 128 rows": faster(score, 1),
        "64 students' steps": faster(step, 64),
        "8 students' steps": faster(step, 8),
        "1 student's steps": faster(step, 1),
        "1 student's steps, stale": faster(stale, 1),
    }


COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7")
"""Okabe and Ito's, which the colour-blind can tell apart."""


def draw(found: dict[str, Any], picture: Path) -> None:
    """Speed by GPUs, both axes logarithmic: dashed on paper, and a point for what was measured."""
    import matplotlib

    matplotlib.use("svg" if picture.suffix == ".svg" else "agg")
    matplotlib.rcParams.update({"svg.hashsalt": "scale", "font.size": 10, "axes.titlesize": 11})
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 5.6), layout="constrained")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.plot(COUNTS, COUNTS, color="#8a8a8a", linewidth=0.8, linestyle=(0, (1, 3)), label="proportional")
    for (name, speeds), colour in zip(curves(found).items(), COLOURS, strict=True):
        panel.plot(
            COUNTS, speeds, color=colour, linewidth=1.6, linestyle=(0, (5, 3)), label=f"{name}, on paper"
        )
    call, one, eight = (found[what]["workers"] for what in ("sampling", "step", "students"))
    points = (
        (call["0"]["128"] / call["2"]["128"], COLOURS[1], "1 call of 128 rows, measured"),
        (eight["1"]["train"] / eight["2"]["train"], COLOURS[3], "8 students, 0.5B, tickets, measured"),
        (sum(one["0"].values()) / sum(one["1"].values()), COLOURS[5], "1 student's steps, stale, measured"),
    )
    for speed, colour, label in points:
        panel.plot([2], [speed], color=colour, marker="o", linestyle="none", label=label)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xticks(COUNTS)
    panel.set_xlabel("GPUs, a worker each")
    panel.set_ylabel("times as fast as one")
    panel.grid(color="#e4e4e4", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.set_title(
        "4B: calls of 1,024 tokens, steps of 32 rollouts of 2,048 (case C)\n"
        "from the seconds of one GPU; the points were measured on two of one host"
    )
    panel.legend(frameon=False)
    date = {"Date": None} if picture.suffix == ".svg" else {}
    figure.savefig(picture, metadata=date, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=Path, default=PLACE, help="the file of measurements")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--draw", action="store_true")
    given = parser.parse_args()
    found = json.loads(given.points.read_text())
    print(f"{'what':<44} {'workers':>7} {'measured':>17} {'predicted':>17}")
    for line in compared(found):
        print(line)
    print(f"\n{'times as fast as one GPU, on paper':<44} {' '.join(f'{count:>5}' for count in COUNTS)}")
    for name, speeds in curves(found).items():
        print(f"{name:<44} {' '.join(f'{speed:>5.2f}' for speed in speeds)}")
    if given.draw:
        draw(found, given.picture)


if __name__ == "__main__":
    main()

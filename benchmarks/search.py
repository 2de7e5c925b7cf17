"""Our search against stock `dspy.GEPA`, with the same model, proposer and budget of rollouts.

`--what gain`: the preset `sums`; what the chosen prompts score on `test`. `--what null`: every prompt is equally good; how
often a side reports a winner all the same. Results go to results/search-<what>.json and, as tables, to docs/results.md by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.candidate import SCORINGS
from benchmarks.search_gain import gain, gains
from benchmarks.search_null import false_winners, null
from benchmarks.search_ours import SIDES, STOCK, VARIANTS, configure
from benchmarks.step import device_name, versions
from gepa_loop.lab import _version as version
from gepa_loop.lab import open_lab

ROOT = Path(__file__).parent.parent
EVERY = 200
"""Searches of `null` after which a line is printed."""
COLUMNS = ("trial", "winner", "reported", "true", "rollouts", "proposals", "accepted", "cpu_seconds")
"""What is kept of each of them."""


def gain_table(summary: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Table:
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    names = ("", "test", "by seed", "less the stock's", "reports", "on average too high", "winners")
    table = make_table(*names, "best mean's test", "rollouts", "proposals", "accepted", "s", "CPU s")
    for name, one in summary.items():
        own = [row for row in rows if row["side"] == name]
        table.add_row(
            name,
            f"{one['test']:.3f}",
            " ".join(f"{row['test']:.3f}{'*' if row['winner'] else ''}" for row in own),
            "" if name == STOCK else shown(one["against_stock"]),
            f"{one['reported']:.3f}",
            f"{one['optimism']:+.3f}",
            f"{one['winners']} of {len(seeds)}",
            f"{one['test_of_best_mean']:.3f}",
            *(f"{one[key]:.0f}" for key in ("rollouts", "proposals", "accepted", "seconds", "cpu_seconds")),
        )
    first = next(iter(summary.values()))
    table.caption = f"* a winner is reported; the seed prompt's test: {first['test_of_seed_prompt']:.3f}"
    return table


def null_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    names = (
        "",
        "trials",
        "winners",
        "rate",
        "95 %",
        "distilled",
        "winner's mean too high",
        "reported mean too high",
    )
    table = make_table(*names, "rollouts", "most", "proposals", "accepted", "CPU s")
    for name, one in summary.items():
        low, high = one["ci"]
        table.add_row(
            name,
            str(one["trials"]),
            str(one["winners"]),
            f"{one['rate']:.3f}",
            f"[{low:.3f}, {high:.3f}]",
            "" if one["distilled"] is None else f"{one['distilled']:.3f}",
            shown(one["optimism_of_winners"]) if one["winners"] else "",
            shown(one["optimism"]),
            *(f"{one[key]:.0f}" for key in ("rollouts", "most_rollouts", "proposals", "accepted")),
            f"{one['cpu_seconds']:.2f}",
        )
    return table


def make_table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    return table


def shown(found: Mapping[str, Any]) -> str:
    """A mean with its interval."""
    low, high = found["ci"] or (found["mean"], found["mean"])
    return f"{found['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("gain", "null"), default="gain")
    parser.add_argument("--sides", choices=("all", "ours", "stock"), default="all")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="gain: of task, GEPA and proposer, with commas")
    parser.add_argument("--trials", type=int, default=300, help="null: of each side")
    parser.add_argument(
        "--budget", type=int, default=980, help="rollouts, the choice among finalists included"
    )
    parser.add_argument("--threads", type=int, default=8, help="gain: DSPy's")
    parser.add_argument("--keep", type=Path, help="folder for our searches' files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    console = Console(width=220 if not sys.stdout.isatty() else None)
    place = given.out / f"search-{given.what}.json"
    sides = {"all": SIDES, "ours": tuple(VARIANTS), "stock": (STOCK,)}[given.sides]
    kept = [] if given.sides == "all" else others(place, given.budget, sides)
    begun, worked, load = time.time(), time.process_time(), os.getloadavg()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        if given.what == "gain":
            opened = open_lab(configure(given.budget, 0))
            model = opened.facts()[:2]
            seeds = [int(seed) for seed in given.seeds.split(",")]
            found = gain(opened, sides, seeds, given.budget, given.threads, folder)
        else:
            model = ["none: a coin for each item"]
            found = null(sides, given.trials, given.budget, folder)
        for row in found:
            rows.append(row)
            if given.what == "gain" or len(rows) % EVERY == 0:
                console.print(f"{len(rows)}: {row['side']}, {row['reported']:.3f}, {row['seconds']:.1f} s")
    rows += kept
    summary = gains(rows) if given.what == "gain" else false_winners(rows)
    console.print(gain_table(summary, rows) if given.what == "gain" else null_table(summary))
    threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
    result = {
        "what": given.what,
        "model": model,
        "budget": given.budget,
        "dspy_threads": "1" if given.what == "null" else f"{given.threads}, requests of all threads together",
        "summary": summary,
        "rows": rows if given.what == "gain" else by_side(rows),
        "kept_from_before": sorted({row["side"] for row in kept}),
        "seconds": time.time() - begun,
        "cpu_seconds": time.process_time() - worked,
        "load": {"before": load, "after": os.getloadavg()},
        "device": device_name(SCORINGS["E-cpu"]),  # type: ignore[arg-type]
        "versions": {**versions(), **{name: version(name) for name in ("dspy", "gepa")}},
        "date": datetime.date.today().isoformat(),
        "command": f"{threads}python -m benchmarks.search {shlex.join(sys.argv[1:])}",
    }
    given.out.mkdir(parents=True, exist_ok=True)
    place.write_text(compact(result) + "\n")
    return 0


def others(place: Path, budget: int, sides: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the sides that are not measured now, from the file that is there."""
    if not place.exists():
        raise SystemExit(f"{place} is missing, which has the other sides' rows; use --sides all")
    before = json.loads(place.read_text())
    if before["budget"] != budget:
        raise SystemExit(f"{place} is of a budget of {before['budget']}, not {budget}; use --sides all")
    rows = before["rows"] if before["what"] == "gain" else by_trial(before["rows"])
    return [row for row in rows if row["side"] not in sides]


def compact(result: Mapping[str, Any]) -> str:
    """JSON with one line for each row."""
    rows = ",\n".join("    " + json.dumps(rounded(row)) for row in result["rows"])
    text = json.dumps({**result, "rows": "ROWS"}, indent=2)
    return text.replace('"ROWS"', f"[\n{rows}\n  ]")


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def by_side(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The trials of `null`, each side's in one row of lists."""
    return [
        {"side": side, **{key: [_number(row[key]) for row in rows if row["side"] == side] for key in COLUMNS}}
        for side in dict.fromkeys(row["side"] for row in rows)
    ]


def by_trial(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `by_side` made lists of."""
    return [
        {"side": row["side"], **dict(zip(COLUMNS, values, strict=True))}
        for row in rows
        for values in zip(*(row[key] for key in COLUMNS), strict=True)
    ]


def _number(value: float) -> float:
    return int(value) if isinstance(value, bool) else round(value, 4)


if __name__ == "__main__":
    sys.exit(main())

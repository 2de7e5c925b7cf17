"""How long a search waits for its reflection model: one proposal an iteration against several, as many in all.

The model (slow_model.py) is on loopback and takes `--delay` seconds a reply. Each side makes exactly `--total` proposals, as
every reply is billed at what a proposal may cost at most and `optimize.max_usd` pays for so many. Both sides run in one process
after a search of each that is not timed. Results go to results/proposals.json and, as a table, to docs/results.md by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.search_ours import Clock
from benchmarks.slow_model import NAME, SlowModel, slow_model
from benchmarks.step import device_name, versions
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import proposal_rollouts
from gepa_loop.errors import GepaLoopError
from gepa_loop.lab import Lab, open_lab, seed_prompt
from gepa_loop.run.files import read_jsonl
from gepa_loop.search.gepa import optimize
from gepa_loop.search.plan import dearest_proposal
from gepa_loop.search.programs import Aids
from gepa_loop.search.records import CandidateRow, EvaluationRow, ProposalRow
from gepa_loop.stages.search import open_proposer

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Timed:
    """A search of `total` proposals."""

    proposals: int
    """An iteration."""
    seconds: float
    waiting: float
    """Of them, for the reflection model."""
    sampling: float
    """Of them, for completions and their scores."""
    rollouts: int
    total: int
    accepted: int

    def row(self) -> dict[str, Any]:
        return dict(vars(self))


def timed(lab: Lab, server: SlowModel, proposals: int, total: int, delay: float) -> Timed:
    """Run one search, from nothing."""
    config, prompt = lab.config, seed_prompt(lab.config.optimize)
    proposer = open_proposer(lab, 0)
    quote = dearest_proposal(config.optimize, lab.rollouts, proposer, prompt)
    assert quote is not None and quote.usd is not None, "litellm knows the model's price"
    server.answers(delay, (quote.input_tokens, quote.output_tokens))
    settings, splits = config.optimize, config.task.splits
    enough = splits.pareto * settings.samples + total * proposal_rollouts(settings, splits)
    caps = {"max_usd": (total + 0.5) * quote.usd, "max_rollouts": enough, "proposals": proposals}
    optimized = settings.model_copy(update={**caps, "patience": total + 1, "max_minutes": 9999.0})
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        found = optimize(
            config.model_copy(update={"optimize": optimized}),
            lab.rollouts,
            Aids(proposer, quote_usd=quote.usd),
            prompt,
            Path(folder),
            config.seed,
        )
        seconds = clock.seconds()["seconds"]
        decided = read_jsonl(Path(folder) / "candidates.jsonl", CandidateRow)
        replies = read_jsonl(Path(folder) / "gepa" / "proposals.jsonl", ProposalRow)
        sampled = read_jsonl(Path(folder) / "gepa" / "evaluations.jsonl", EvaluationRow)
    if found.spent.proposals != total:
        raise GepaLoopError(
            f"{found.spent.proposals} proposals instead of {total}: stopped by {found.stop.reason}"
        )
    return Timed(
        proposals,
        seconds,
        sum(row["seconds"] for row in replies),
        sum(row["seconds"] for row in sampled),
        found.spent.rollouts,
        total,
        sum(row["status"] == "accepted" for row in decided[1:]),
    )


def opened(preset: str, sets: Sequence[str], at_once: int) -> Lab:
    """A lab whose searches ask the slow model, for so many proposals at a time."""
    own = [f"optimize.reflection.model={NAME}", f"optimize.reflection.parallel={at_once}"]
    # What `timed` sets is out of its way.
    return open_lab(load_config(preset, [*own, "optimize.max_usd=1e6", *sets], env={}))


def both(lab: Lab, at_once: int, total: int, delay: float) -> Iterator[Timed]:
    """One proposal an iteration, then `at_once`, after a search of each that nobody waits for."""
    with slow_model() as server:
        for proposals in (1, at_once):
            timed(lab, server, proposals, at_once, 0.0)
        for proposals in (1, at_once):
            yield timed(lab, server, proposals, total, delay)


def shown(sides: Sequence[Timed]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in (
        "proposals an iteration",
        "seconds",
        "waiting",
        "sampling",
        "rollouts",
        "proposals",
        "accepted",
    ):
        table.add_column(column, justify="right")
    for side in sides:
        counts = (side.rollouts, side.total, side.accepted)
        table.add_row(
            str(side.proposals),
            *(f"{value:.1f}" for value in (side.seconds, side.waiting, side.sampling)),
            *map(str, counts),
        )
    table.caption = f"{sides[0].seconds / sides[1].seconds:.2f} times less wall time"
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", default="sums", help="a preset or a TOML file; `smoke` to try it on a CPU"
    )
    parser.add_argument("--set", action="append", default=[], help="as of gepa-loop: model.name=FOLDER")
    parser.add_argument(
        "--delay", type=float, default=10.0, help="seconds that the reflection model takes a reply"
    )
    parser.add_argument("--at-once", type=int, default=8, help="proposals an iteration of the second side")
    parser.add_argument("--total", type=int, default=24, help="proposals of each side")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    console = Console(width=120 if not sys.stdout.isatty() else None)
    lab, sides = opened(given.config, given.set, given.at_once), []
    for side in both(lab, given.at_once, given.total, given.delay):
        console.print(f"{side.proposals} an iteration: {side.seconds:.1f} s")
        sides.append(side)
    console.print(shown(sides))
    result = {
        "model": lab.config.model.name,
        "delay": given.delay,
        "sides": [side.row() for side in sides],
        "ratio": sides[0].seconds / sides[1].seconds,
        "device": device_name(SimpleNamespace(device=lab.base.device.type)),  # type: ignore[arg-type]
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "command": f"python -m benchmarks.proposals {shlex.join(sys.argv[1:])}",
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "proposals.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Times scoring one GEPA candidate, ours and stock DSPy's in turn, with the same sampler (`make bench`, `make bench-gpu`).

Each side is a process of its own, one after the other. All read the same tokens, greedily, and must give the same
completions in float32, or the comparison is void. Results go to results/<case>-<peer>.json and, as tables, to docs/results.md
by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.candidate import SCORINGS, Scoring
from benchmarks.cases import HEADS, SHAPES
from benchmarks.step import device_name, device_rates, versions
from gepa_loop.errors import GepaLoopError
from gepa_loop.lab import _version as version

ROOT = Path(__file__).parent.parent
OURS = ["benchmarks.candidate_ours"]
DSPY = "benchmarks.candidate_dspy"
PEERS = {
    "dspy": [DSPY],
    "dspy-gather-8": [DSPY, "--gather"],
    "dspy-gather-32": [DSPY, "--gather", "--threads", "32"],
    "dspy-gather-all": [DSPY, "--gather", "--threads", "200"],
}
"""Module and arguments; without `--threads` DSPy's default, 8."""
ALIKE = 0.99
"""Share of completions that must be equal in float32: a tie of two logits may fall either way in another batch."""


def measure(side: list[str], case: Scoring, given: argparse.Namespace) -> dict[str, Any] | str:
    """What a process of a side printed, or why it could not."""
    module, *arguments = side
    argv = [sys.executable, "-m", module, *arguments, "--case", case.name, "--override", given.override]
    argv += ["--repeats", str(given.repeats), "--warmup", str(given.warmup)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=env)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return last[:300]


def floor(case: Scoring, ours: dict[str, Any], rates: dict[str, float]) -> dict[str, float]:
    """Seconds that no program can beat with these weights and completions.

    What all prompts begin with is read once, the rest of each prompt once; all rows are decoded together, every weight is
    read once a token, and what is shared is one past for all rows.
    """
    _, sizes = SHAPES[case.shape]
    heads, kv_heads, width = HEADS[case.shape]
    hidden, inner, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    body = layers * hidden * (2 * heads * width + 2 * kv_heads * width + 3 * inner)
    head = hidden * sizes["vocab_size"]
    item = 2 if case.dtype == "bfloat16" else 4
    past = layers * 2 * kv_heads * width * item
    shared, rest = ours["prompts"]["shared"], ours["prompts"]["rest"]
    tokens = ours["timed"]["tokens"]
    steps = max(tokens)
    own = rest / len(tokens) + sum(tokens) / len(tokens) / 2
    read = steps * ((body + head) * item + past * shared) + sum(tokens) * past * own
    flops = rates["flops_per_second"]
    return {
        "prompts": 2 * body * (shared + rest) / flops,
        "decode": max(read / rates["bytes_per_second"], 2 * (body + head) * sum(tokens) / flops),
    }


def alike(ours: dict[str, Any], theirs: dict[str, Any], which: str) -> float:
    """Share of items with the same completion and score."""
    pairs = [
        list(zip(side[which]["completions"], side[which]["scores"], strict=True)) for side in (ours, theirs)
    ]
    return statistics.fmean(a == b for a, b in zip(*pairs, strict=True))


def compare(case: Scoring, peers: list[str], given: argparse.Namespace, console: Console) -> bool:
    """Measure ours and each peer, print the table and write the results; whether all could be compared."""
    rates = device_rates(case)  # type: ignore[arg-type]
    if case.device == "cuda":
        torch.cuda.empty_cache()
    ours = measure(OURS, case, given)
    if isinstance(ours, str):
        raise GepaLoopError(f"case {case.name}: ours failed: {ours}")
    least = floor(case, ours, rates)
    sizes = {k: v for k, v in dataclasses.asdict(case).items() if k not in ("name", "device")}
    sizes |= {
        "shared_prompt_tokens": ours["prompts"]["shared"],
        "completion_tokens": sum(ours["timed"]["tokens"]),
    }
    table = Table(title=f"case {case.name}: {sizes}", title_justify="left", box=SIMPLE_HEAD)
    for column in ("", "seconds", "of each candidate", "CPU s", "items/s", "GiB", "ratio", "score", "alike"):
        table.add_column(column, justify="left" if not column else "right")

    def row(side: dict[str, Any], *more: str) -> None:
        repeats = ", ".join(f"{s:.3f}" for s in side["repeats"])
        score = sum(side["exact"]["scores"]) / case.items
        speed, peak = f"{case.items / side['seconds']:,.0f}", f"{side['peak_gib']:.2f}"
        cells = f"{side['seconds']:.3f}", repeats, f"{side['cpu_seconds']:.2f}", speed, peak
        table.add_row(side["name"], *cells, more[0], f"{score:.3f}", more[1])

    row(ours, "", "")
    complete = True
    for peer in peers:
        theirs = measure(PEERS[peer], case, given)
        if isinstance(theirs, str):
            table.add_row(f"{peer}: could not run: {theirs}")
            complete = False
            continue
        ratio, same = theirs["seconds"] / ours["seconds"], alike(ours, theirs, "exact")
        row(theirs, f"{ratio:.1f}x", f"{same:.3f}")
        if same < ALIKE:
            table.add_row(f"{peer}: only {same:.1%} of its completions are ours: the comparison is void")
            complete = False
            continue
        result = {
            "case": case.name,
            "sizes": sizes,
            "peer": theirs["name"],
            "seconds_per_step": {"ours": ours["seconds"], "peer": theirs["seconds"]},
            "ratio": ratio,
            # Of all threads: what other programs on the machine do changes it little, unlike the time on the clock.
            "cpu_seconds": {"ours": ours["cpu_seconds"], "peer": theirs["cpu_seconds"]},
            "peak_gib": {"ours": ours["peak_gib"], "peer": theirs["peak_gib"]},
            "floor_seconds": sum(least.values()),
            "floor": least,
            "steps": {"ours": ours["repeats"], "peer": theirs["repeats"]},
            "score": {"ours": _mean(ours), "peer": _mean(theirs)},
            "completions_alike": {"float32": same, case.dtype: alike(ours, theirs, "timed")},
            "rates": rates,
            "device": device_name(case),  # type: ignore[arg-type]
            "versions": {**versions(), **{name: version(name) for name in ("dspy", "gepa")}},
            "date": datetime.date.today().isoformat(),
            "command": f"python -m benchmarks.optimize --case {case.name} --peers {peer} --repeats {given.repeats} --warmup {given.warmup}"
            + ("" if given.override == "{}" else f" --override '{given.override}'"),
        }
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{case.name}-{peer}.json").write_text(json.dumps(result, indent=2) + "\n")
    table.add_row("floor", f"{sum(least.values()):.3f}")
    console.print(table)
    return complete


def _mean(side: dict[str, Any]) -> float:
    scores = side["exact"]["scores"]
    return float(sum(scores) / len(scores))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="E-cpu", help=f"one of {', '.join(SCORINGS)}; several with commas")
    parser.add_argument(
        "--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}, with commas; or none"
    )
    parser.add_argument("--repeats", type=int, default=3, help="candidates that are timed, each once")
    parser.add_argument("--warmup", type=int, default=1, help="candidates that are scored before")
    parser.add_argument("--override", default="{}", help="sizes as JSON, to try something")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    console = Console(width=180 if not sys.stdout.isatty() else None)
    failed = False
    for name in given.case.split(","):
        case = dataclasses.replace(SCORINGS[name], **json.loads(given.override))
        if case.device == "cuda" and not torch.cuda.is_available():
            console.print(f"case {name}: no GPU that torch can use")
            failed = True
            continue
        peers = [] if given.peers == "none" else given.peers.split(",")
        failed |= not compare(case, peers, given, console)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""How a run's work goes with workers: students of a round, one student's steps, and sampling alone.

python -m benchmarks.scale make FOLDER --case C                 a model of random weights and a config for it
python -m benchmarks.scale students CONFIG --workers 2 --count 8
python -m benchmarks.scale steps CONFIG --workers 1 --set distill.stale=1
python -m benchmarks.scale sampling CONFIG --workers 2 --rows 64

Each prints one JSON object. All is done `--repeats` times and the last time is told: before it, kernels are compiled and graphs captured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import CASES, make_model, make_texts, make_tokenizer
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, open_lab, seed_prompt
from gepa_loop.run.files import read_jsonl
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.statistics import item_scores
from gepa_loop.stages.distillation import Below, end_candidate, finish_candidates
from gepa_loop.stages.score import scores, scoring
from gepa_loop.task.prompts import NO_PROMPT, Candidate, candidate
from gepa_loop.task.sources import settle
from gepa_loop.training.records import MetricsRow
from gepa_loop.workers.opening import opened_workers

PATIENCE = 600.0
"""Seconds in which all workers must have opened."""


class Silent:
    """An observer that hears nothing."""

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        pass

    def progress(self, done: int, total: int, **facts: Any) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, flush=True)


def items() -> list[dict[str, str]]:
    """Questions of the case whose model is measured: the task of the config that `make` writes."""
    case = CASES["C"]
    return [
        {"question": text, "answer": "x"}
        for n in range(16)
        for text in make_texts(replace(case, prompt=case.prompt - n))[1]
    ]


def make(folder: Path, name: str) -> None:
    """Write a model of random weights, a prompt and a config."""
    case = CASES[name]
    make_model(case).save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    (folder / "prompt.txt").write_text(make_texts(case)[0], "utf-8")
    lines = [
        f'model = {{ name = "{folder / "model"}", dtype = "{case.dtype}" }}',
        f"lora = {{ rank = {case.rank}, alpha = {2 * case.rank} }}",
        'task = { kind = "python", name = "benchmarks.scale:items", extract = "whole", splits = { train = 64, pareto = 4, select = 16, test = 16 } }',
        f"sampling = {{ max_tokens = {case.new}, batch = 256 }}",
        f'optimize = {{ seed_prompt_file = "{folder / "prompt.txt"}" }}',
        f"distill = {{ steps = 5, rollouts = {case.rollouts}, group = {case.group}, check_every = 5, warm_start = 0, average = 0 }}",
        "evaluate = { temperature = 0 }",
    ]
    (folder / "config.toml").write_text("\n".join(lines) + "\n", "utf-8")


@contextmanager
def working(config: Config) -> Iterator[tuple[Lab, dict[str, float]]]:
    """The lab with its workers, once all of them can work; and the seconds until then."""
    began = time.monotonic()
    with opened_workers(config, None, trains=True, idle=False) as workers:
        lab = open_lab(config).for_training()
        ready = time.monotonic() - began
        if workers is not None:
            lab = workers.share(lab, {}, print)
            few = lab.task.splits["train"][:1]
            while workers.crew.open < workers.crew.places:
                lab.rollouts.completions(
                    NO_PROMPT, few, 1, Sampling(1.0, 4), "x"
                )  # raises what keeps all from it
                time.sleep(0.5)
                if time.monotonic() - began > PATIENCE:
                    raise SystemExit(f"{workers.crew.open} of {workers.crew.places} workers have opened")
        yield lab, {"loading": ready, "open": time.monotonic() - began}


def variants(config: Config, count: int) -> list[Candidate]:
    """The config's prompt, and others that differ in their last sentence."""
    text = seed_prompt(config.optimize).text
    return [candidate(f"{text}\nThis is version {n}.", "variant") for n in range(count)]


def students(lab: Lab, count: int) -> dict[str, float]:
    """Seconds to train students to their end and to score them on `select`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, view = Path(scratch), Silent()
        bare = item_scores(scores(lab, "pareto", NO_PROMPT, None, folder / "bare.jsonl", view))
        all_ = {folder / one.id: one for one in variants(lab.config, count)}
        below, began = Below(None, bare), time.monotonic()
        finish_candidates(lab, all_, view, below)
        ended = {path: end_candidate(lab, one, path, view, below) for path, one in all_.items()}
        trained = time.monotonic()
        asked = [
            scoring(lab, "select", NO_PROMPT, one.adapter, path.with_suffix(".jsonl"))
            for path, one in ended.items()
        ]
        means = [
            sum(own.values()) / len(own) for own in (item_scores(one.rows(view.progress)) for one in asked)
        ]
        done = time.monotonic()
    return {"train": trained - began, "score": done - trained, "both": done - began, "best": max(means)}


def steps(lab: Lab) -> dict[str, float]:
    """Seconds of one student's steps, without its first two and those with a check."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, view = Path(scratch), Silent()
        bare = {item.id: 0.0 for item in lab.task.splits["pareto"]}
        [one] = variants(lab.config, 1)
        rows: list[MetricsRow] = []
        began = time.monotonic()
        try:
            finish_candidates(lab, {folder / one.id: one}, view, Below(None, bare))
        finally:
            whole = time.monotonic() - began
            rows = read_jsonl(folder / one.id / "metrics.jsonl", MetricsRow)
    plain = [row for row in rows[2:] if "held_out_score" not in row]
    laps = {key: median(row["seconds"][key] for row in plain) for key in plain[0]["seconds"]}
    return {
        **laps,
        "step": sum(laps.values()),
        "whole": whole,
        "peak_gib": max(row["peak_memory_gib"] for row in rows),
    }


def sampling(lab: Lab, rows: int, tokens: int) -> dict[str, float]:
    """Seconds of one call of so many rows, and of one of twice as many."""
    train, found = lab.task.splits["train"], {}
    for count in (rows, 2 * rows):
        asked = [train[n % len(train)] for n in range(count)]
        began = time.monotonic()
        lab.rollouts.completions(NO_PROMPT, asked, 1, Sampling(1.0, tokens), "x")
        found[f"{count} rows"] = time.monotonic() - began
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "students", "steps", "sampling"))
    parser.add_argument("config", help="a config, or the folder of `make`")
    parser.add_argument("--case", default="C")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--count", type=int, default=8, help="students")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(argv)
    if given.what == "make":
        make(Path(given.config).resolve(), given.case)
        return
    config = load_config(given.config, [*given.set, f"cluster.workers={given.workers}"])
    config = settle(config, None)
    measure: dict[str, Callable[[Lab], dict[str, float]]] = {
        "students": lambda lab: students(lab, given.count),
        "steps": steps,
        "sampling": lambda lab: sampling(lab, given.rows, given.tokens),
    }
    with working(config) as (lab, opening):
        found = [measure[given.what](lab) for _ in range(given.repeats)]
    said = {key: round(value, 3) for key, value in {**opening, **found[-1]}.items()}
    print(json.dumps({"what": given.what, "workers": given.workers, "set": given.set, **said}), flush=True)


if __name__ == "__main__":
    main()

"""What students keep of a prompt that knows something: our default recipe beside the peers' (`python -m benchmarks.retention`).

Every side has the same model, items, rollouts a step, longest completion and LoRA. Ours, plain SFT on the teacher's samples and
OPCD's recipe run in our trainer; TRL's trainers run in processes of their own (retention_trl.py) for `--seconds` of training, at
their defaults and at the best of a small grid, which is chosen on `select` with a seed of its own. All students are scored by
`gepa-loop` on `test`. The same command goes on with a folder where it stopped. Results go to results/retention.json and, as a table, to docs/results.md by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.step import versions
from gepa_loop.run.files import read_jsonl
from gepa_loop.scores.statistics import internalisation, item_scores
from gepa_loop.training.records import MetricsRow

ROOT = Path(__file__).parent.parent
WAYS = {"greedy": "_greedy", "sampled": ""}
GEPA_LOOP = [sys.executable, "-m", "gepa_loop"]


@dataclass(frozen=True)
class Side:
    """A way to distill: settings of ours, or a trainer of TRL's with arguments of its config."""

    name: str
    settings: tuple[str, ...] = ()
    trl: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict, hash=False)


OURS = (
    Side("ours, default"),
    Side(
        "SFT on the teacher's samples",
        ("objective.type=sft", "distill.warm_start=0"),
    ),
    Side(
        "OPCD's recipe",
        (
            "distill.warm_start=0",
            "distill.steps=50",
            "distill.rollouts=128",
            "distill.group=1",
            "distill.lr=5e-6",
            "distill.micro_tokens=2048",  # 128 prompts of their own in one pass take half of a card
            "objective.top_k=256",
        ),
    ),
)
SDFT = Side("SDFTTrainer, defaults", trl="sdft")
DISTILLATION = Side("DistillationTrainer, defaults", trl="distillation")
STUDENTS = {"distillation_mode": "full_logits", "distillation_alpha": 1.0, "distillation_is_clip": None}
TEACHERS = {**STUDENTS, "distillation_alpha": 0.0, "generate_from_teacher": True}
GRIDS: Mapping[Side, Sequence[tuple[str, Mapping[str, Any]]]] = {
    side: [
        (f"{how}, lr {lr:g}", {**own, "learning_rate": lr, "gradient_checkpointing": False})
        for how, own in ways
        for lr in (3e-4, 1e-3)
    ]
    for side, ways in (
        (SDFT, [("reverse KL, student's", STUDENTS), ("forward KL, teacher's", TEACHERS)]),
        (DISTILLATION, [("reverse KL", {"beta": 1.0}), ("forward KL", {"beta": 0.0})]),
    )
}


@dataclass(frozen=True)
class Bench:
    """What all cells share."""

    model: str
    seconds: float
    folder: Path
    """Of adapters, runs and logs."""
    settings: tuple[str, ...]

    def sets(self, seed: int, *more: str) -> list[str]:
        given = (f"model.name={self.model}", f"seed={seed}", *self.settings, *more)
        return [part for one in given for part in ("--set", one)]

    def call(self, argv: Sequence[str], log: str) -> str:
        """Run a process in the folder and return its output; its failure ends the benchmark."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(argv, capture_output=True, text=True, cwd=self.folder, env=env)
        (self.folder / f"{log}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise SystemExit(f"{shlex.join(argv)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def distill(self, side: Side, task: str, seed: int, name: str) -> tuple[Path, dict[str, Any]]:
        """A student's adapter, and what its making took."""
        prompt = ROOT / "prompts" / task / "good.txt"
        if side.trl is None:
            run = self.folder / "runs" / name
            if not (run / "result.json").exists():
                argv = [*GEPA_LOOP, "distill", "--config", task, "--prompt", str(prompt), "--run-name", name]
                self.call([*argv, *self.sets(seed, *side.settings)], name)
            (folder,) = (run / "distill").iterdir()
            rows = read_jsonl(folder / "metrics.jsonl", MetricsRow)
            steps = sum(sum(row["seconds"].values()) for row in rows)
            return folder / "adapter", {"steps": len(rows), "seconds": steps}
        out, done = self.folder / f"{name}-adapter", self.folder / f"{name}.json"
        argv = [sys.executable, "-m", "benchmarks.retention_trl", "--kind", side.trl, "--config", task]
        argv += ["--prompt", str(prompt), "--seconds", str(self.seconds), "--own", json.dumps(side.own)]
        argv += ["--out", str(out), *self.sets(seed)]
        if done.exists() and (before := json.loads(done.read_text()))["argv"] == argv:
            return out, before["took"]
        took = json.loads(printed(self.call(argv, name))[-1])
        done.write_text(json.dumps({"argv": argv, "took": took}))
        return out, took

    def scores(
        self, adapter: Path, task: str, seed: int, split: str, name: str
    ) -> dict[str, dict[str, float]]:
        """Each item's score on a split, by way."""
        run = self.folder / "runs" / f"{name}-{split}"
        if not (run / "result.json").exists():
            argv = [*GEPA_LOOP, "evaluate", "--config", task, "--adapter", str(adapter), "--split", split]
            self.call([*argv, "--run-name", run.name, *self.sets(seed)], run.name)
        folder = run / "evaluate"
        (path,) = (one for one in folder.glob("*.jsonl") if not one.stem.endswith("_greedy"))
        return by_way(path)

    def tuned(self, tasks: Sequence[str], seed: int, jobs: int) -> dict[str, list[Side]]:
        """By task, each trainer with the best of its grid by the mean of both scores on `select`."""

        def one(cell: tuple[str, Side, str, Mapping[str, Any]]) -> float:
            task, side, how, own = cell
            name = "-".join(
                ("tune", side.trl or "", task, how.replace(" ", "_").replace(",", "").replace("'", ""))
            )
            adapter, _ = self.distill(Side(how, trl=side.trl, own=own), task, seed, name)
            found = self.scores(adapter, task, seed, "select", name)
            value = sum(sum(scores.values()) / len(scores) for scores in found.values()) / len(found)
            print(f"{task}, {side.trl}, {how}: {value:.3f}", flush=True)
            return value

        cells = [
            (task, side, how, own) for task in tasks for side, ways in GRIDS.items() for how, own in ways
        ]
        values = spread(one, cells, jobs)
        best: dict[str, list[Side]] = {task: [] for task in tasks}
        for task, side in dict.fromkeys((task, side) for task, side, *_ in cells):
            mine = [
                (v, how, own)
                for v, (t, s, how, own) in zip(values, cells, strict=True)
                if (t, s) == (task, side)
            ]
            _, how, own = max(mine, key=lambda found: found[0])
            name = f"{side.name.partition(',')[0]}, best of {len(mine)}"
            best[task].append(Side(name, trl=side.trl, own={**own, "how": how}))
        return best

    def cell(self, side: Side, task: str, seed: int) -> dict[str, Any]:
        """A student of a side, beside the prompted and the bare model of our own run with the same seed."""
        name = f"{slug(side.name)}-{task}-{seed}"
        how = side.own.get("how")
        own = {key: value for key, value in side.own.items() if key != "how"}
        adapter, took = self.distill(Side(side.name, side.settings, side.trl, own), task, seed, name)
        ours = self.folder / "runs" / name / "test" / "student.jsonl"
        found = by_way(ours) if side.trl is None else self.scores(adapter, task, seed, "test", name)
        row = {"side": side.name, "task": task, "seed": seed, "how": how, **took}
        means = {f"student_{way}": sum(own.values()) / len(own) for way, own in found.items()}
        print(json.dumps(rounded({**row, **means})), flush=True)
        return {**row, **means, "scores": found}


def by_way(path: Path) -> dict[str, dict[str, float]]:
    """Item scores of a subject's two files of rows."""
    return {
        way: item_scores(read_jsonl(path.with_name(f"{path.stem}{suffix}.jsonl")))
        for way, suffix in WAYS.items()
    }


def with_shares(rows: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Rows without single items, with the share of the prompt's effect."""
    found = []
    for row in rows:
        test = folder / "runs" / f"{slug(OURS[0].name)}-{row['task']}-{row['seed']}" / "test"
        base, prompted = by_way(test / "base.jsonl"), by_way(test / "prompted.jsonl")
        own = {key: value for key, value in row.items() if key != "scores"}
        for way, scores in row["scores"].items():
            ratio = internalisation(scores, base[way], prompted[way], row["seed"])
            own[f"share_{way}"] = None if ratio is None else ratio.mean
            own[f"share_{way}_ci"] = None if ratio is None else list(ratio.ci)
            own[f"prompted_{way}"] = sum(prompted[way].values()) / len(prompted[way])
        found.append(own)
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row a task and side: means over seeds, and the seeds."""
    names = (
        "task",
        "side",
        "steps",
        "seconds",
        "student, greedy / sampled",
        "share, greedy",
        "share, sampled",
    )
    shown = Table(*names, box=SIMPLE_HEAD)
    for task, side in dict.fromkeys((row["task"], row["side"]) for row in rows):
        own = [row for row in rows if (row["task"], row["side"]) == (task, side)]

        def mean(key: str, own: Sequence[Mapping[str, Any]] = own) -> float:
            return sum(row[key] or 0.0 for row in own) / len(own)

        def seeds(key: str, own: Sequence[Mapping[str, Any]] = own) -> str:
            return f"{mean(key):.3f} ({' '.join(f'{row[key] or 0:.3f}' for row in own)})"

        how = f" ({own[0]['how']})" if own[0]["how"] else ""
        shown.add_row(
            task,
            side + how,
            f"{mean('steps'):.0f}",
            f"{mean('seconds'):.0f}",
            f"{mean('student_greedy'):.3f} / {mean('student_sampled'):.3f}",
            seeds("share_greedy"),
            seeds("share_sampled"),
        )
    return shown


def spread(work: Callable[[Any], Any], cells: Iterable[Any], jobs: int) -> list[Any]:
    """Results of cells that run side by side."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(work, cells))


def printed(output: str) -> list[str]:
    """The lines of results in what a peer printed."""
    return [line for line in output.splitlines() if line.startswith('{"steps"')]


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--tasks", default="router,extract")
    parser.add_argument("--seeds", default="300,301,302")
    parser.add_argument("--tune", type=int, default=50, help="seed that the grids are chosen with")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="of TRL's training: no less than ours takes"
    )
    parser.add_argument("--jobs", type=int, default=3, help="cells side by side on the device, ours too")
    parser.add_argument("--set", action="append", default=[], help="settings of all cells")
    parser.add_argument("--folder", type=Path, default=Path("runs-retention"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "retention.json")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.model, given.seconds, given.folder.resolve(), tuple(given.set))
    seeds = [int(seed) for seed in given.seeds.split(",")]
    tuned = bench.tuned(given.tasks.split(","), given.tune, given.jobs)
    cells = [
        (side, task, seed)
        for task, (sdft, distillation) in tuned.items()
        for side in (*OURS, SDFT, sdft, DISTILLATION, distillation)
        for seed in seeds
    ]
    rows = with_shares(spread(lambda cell: bench.cell(*cell), cells, given.jobs), bench.folder)
    Console(width=200).print(table(rows))
    result = {
        "rows": [rounded(row) for row in rows],
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "command": f"python -m benchmarks.retention {shlex.join(sys.argv[1:])}",
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

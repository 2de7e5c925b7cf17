"""Damaged run directories: the same results, or a refusal that names the file; never another result, never a traceback."""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ladder import SETS
from observers import Silent

from gepa_loop.config.load import load_config
from gepa_loop.errors import RunDirectoryError
from gepa_loop.lab import Lab, open_lab, seed_prompt
from gepa_loop.rounds import run_loop
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import write_json
from gepa_loop.show.report.write import write_report
from gepa_loop.stages.observer import Observer

SMALL = [
    "seed=6",
    "task.splits={train=32, pareto=8, select=32, test=8}",
    "optimize.max_rollouts=40",
    "distill.check_every=2",
    "distill.rollouts=64",
    "distill.steps=6",
    "distill.lr=3e-2",
    "loop.alpha=0.5",
]
"""Over the ladder task, with a seed whose student gains in six steps (p = .005): there is an adapter to lose."""


class Watcher(Silent):
    """Copies the run directory as it is when a moment has come, as a kill would leave it."""

    def __init__(self, root: Path, moments: Mapping[str, Callable[[], bool]], to: Path) -> None:
        self.root, self.owed, self.to = root, dict(moments), to

    def stage(self, name: str, **_: Any) -> None:
        self._look()

    def progress(self, done: int, total: int, **_: Any) -> None:
        self._look()

    def _look(self) -> None:
        for name in [name for name, came in self.owed.items() if came()]:
            del self.owed[name]
            shutil.copytree(self.root, self.to / name)


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(load_config("smoke", [*SETS, *SMALL], env={})).for_training()


def outcome(lab: Lab, root: Path, watcher: Observer | None = None) -> dict[str, bytes]:
    """Run the loop over what lies there; the files that hold its results."""
    with open_run(root, lab.identity(command="loop")) as run:
        write_json(run.path / "config.json", lab.config.model_dump(mode="json"))
        run.event("start", **lab.data_facts())
        run_loop(lab, seed_prompt(lab.config.optimize), run, watcher or Silent())
        write_report(run.path)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for pattern in (
            "result.json",
            "*/decision.json",
            "**/*select*.jsonl",
            "**/*prompted.jsonl",
            "test/*",
            "**/adapter/*",
        )
        for path in root.glob(pattern)
    }


@pytest.fixture(scope="module")
def states(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The run directory `done`, and what kills left: `search`, `distill`, `evaluate`; with the results of the whole."""
    to = tmp_path_factory.mktemp("states")
    root = to / "done"
    moments = {
        "search": lambda: (
            len((root / "round_00/optimize/candidates.jsonl").read_text().splitlines()) > 2
            if (root / "round_00/optimize/candidates.jsonl").exists()
            else False
        ),
        "distill": lambda: any(root.glob("round_00/distill/*/checkpoints/step_000002/state.json")),
        "evaluate": lambda: any(root.glob("test/base.jsonl")),
    }
    watcher = Watcher(root, moments, to)
    results = outcome(lab, root, watcher)
    assert not watcher.owed and b'"adapter": "round_00/' in results["result.json"]
    return to, results


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def lose_a_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def lose_the_end(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(lines[: rng.randrange(len(lines))])


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def swap_values(data: bytes, rng: random.Random) -> bytes:
    """Zeros and ones change places: scores, steps, flags."""
    return data.translate(bytes.maketrans(b"01", b"10"))


KINDS = (truncate, flip, empty, lose_a_line, lose_the_end, swap_lines, swap_values, None)
"""What happens to a file; None deletes it."""


def cases(root: Path, seed: int) -> Iterator[tuple[Path, Any]]:
    """Every file with one kind of damage each; which, the seed says."""
    rng = random.Random(seed)
    files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.name != ".lock")
    kinds = [KINDS[(n + seed) % len(KINDS)] for n in range(len(files))]
    rng.shuffle(kinds)
    yield from zip(files, kinds, strict=True)


def ending(lab: Lab, whole: Path, file: Path, kind: Any, seed: int) -> str | dict[str, bytes]:
    """What comes of a run with one damaged file: its results, or why it is refused."""
    root = whole.with_name("damaged")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(whole, root)
    data = (root / file).read_bytes()
    if kind is None:
        (root / file).unlink()
    elif data:
        (root / file).write_bytes(kind(data, random.Random(f"{seed} {file}")))
    try:
        return outcome(lab, root)
    except RunDirectoryError as error:
        return str(error)


def rows(results: dict[str, bytes]) -> dict[str, bytes]:
    """The score files among results."""
    return {name: data for name, data in results.items() if name.endswith(".jsonl")}


@pytest.mark.parametrize("state", ["done", "search", "distill", "evaluate"])
def test_a_damaged_file_is_named_or_changes_nothing(
    lab: Lab, states: tuple[Path, dict[str, bytes]], state: str
) -> None:
    (to, expected), refused, seed = states, 0, 0
    for file, kind in cases(to / state, seed):
        found = ending(lab, to / state, file, kind, seed)
        what = f"{state}, seed {seed}: {file}, {kind and kind.__name__}"
        refused += isinstance(found, str)
        if isinstance(found, str):
            assert file.name in found, f"{what}: {found}"
        else:
            left = rows(expected) if state == "done" else {}  # a finished run reads no scores again
            assert {**found, **left} == expected, what
    assert refused > 2

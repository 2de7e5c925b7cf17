"""The command with workers of a real Ray: the same result with any number of them, whatever becomes of them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ladder
import pytest
from processes import descendants, start

SETS = [
    *ladder.SETS,
    "task.splits={train=32, pareto=8, race=8, select=32, test=8}",
    # What is proposed is hardly ever better, and two of it have students.
    "optimize.max_rollouts=160",
    "optimize.accept=gepa",
    "optimize.minibatch=1",
    "optimize.max_front=4",
    "distill.check_every=2",
    "distill.rollouts=32",
    "distill.steps=6",
    "loop.front=4",
]
"""Two students: one worker trains both, two or four train one each."""
COMMAND = ["loop", "--config", "smoke", "--run-name", "r", *(word for one in SETS for word in ("--set", one))]


def ended(cwd: Path, *more: str) -> tuple[int, str, str]:
    cwd.mkdir(exist_ok=True)
    process = start(cwd, *COMMAND, *more)
    out, err = process.communicate()
    return process.returncode, out, err


def result(cwd: Path) -> bytes:
    return (cwd / "runs" / "r" / "result.json").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    code, _, err = ended(folder)
    assert code == 0, err
    decided = json.loads(result(folder))
    assert sum(one["student"] is not None for one in decided["rounds"][0]["candidates"]) == 2, "two students"
    return folder


def while_running(
    cwd: Path, then: Callable[[subprocess.Popen[str]], None], *more: str
) -> tuple[int, str, str]:
    """Start it, and do something as soon as both students are on their way."""
    cwd.mkdir(exist_ok=True)
    process = start(cwd, *COMMAND, *more)
    students = cwd / "runs" / "r" / "round_00" / "distill"
    while process.poll() is None and len([*students.glob("*/metrics.jsonl")]) < 2:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    then(process)
    out, err = process.communicate()
    return process.returncode, out, err


def workers_in(cwd: Path) -> list[int]:
    """Processes of the actors of a command that was started there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            home = os.readlink(folder / "cwd")
        except OSError:
            continue
        if name.startswith(b"ray::Hand") and home == str(cwd):
            found.append(int(folder.name))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 4])
def test_the_result_is_the_same_with_any_number(alone: Path, tmp_path: Path, workers: int) -> None:
    code, out, err = ended(tmp_path, "--workers", str(workers))
    assert code == 0, err
    assert result(tmp_path) == result(alone)
    [line] = [line for line in out.splitlines() if line.startswith("workers ")]
    said = (out + err).replace(line, "").lower().replace("array", "")
    assert line.startswith(f"workers {workers} on this machine") and "ray" not in said, "Ray says nothing"
    if workers == 1:  # else the last may come when nobody asks any more
        assert "the worker is there" in out
    rows = [json.loads(line) for line in (tmp_path / "runs" / "r" / "stages.jsonl").read_text().splitlines()]
    assert {row["gpus"] for row in rows} == {workers}


@pytest.mark.timeout(600)
def test_workers_that_are_killed_cost_their_pieces(alone: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(process: subprocess.Popen[str]) -> None:
        killed.extend(workers_in(tmp_path))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    code, out, err = while_running(tmp_path, kill, "--workers", "2")
    assert code == 0 and len(killed) == 2, err
    assert result(tmp_path) == result(alone)
    assert "its worker died, or the machine of it; it is given out again" in out + err


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "all_", "exit_code"),
    [
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),  # as Slurm sends it: to Ray's processes, too
        (signal.SIGINT, False, 130),
        (signal.SIGINT, True, 130),  # as a terminal does
        (signal.SIGKILL, False, -9),
    ],
)
def test_a_command_that_is_ended_leaves_no_worker_and_goes_on_without(
    alone: Path, tmp_path: Path, number: signal.Signals, all_: bool, exit_code: int
) -> None:
    left: list[int] = []

    def end(process: subprocess.Popen[str]) -> None:
        left.extend(workers_in(tmp_path))
        for pid in descendants(process.pid) if all_ else []:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        process.send_signal(number)

    code, _, err = while_running(tmp_path, end, "--workers", "2")
    assert code == exit_code and len(left) == 2, err
    if number != signal.SIGKILL:
        # With its own handler Ray would abort the process three seconds after the signal.
        assert err.startswith("\nended" if number == signal.SIGTERM else "\ninterrupted"), err
        assert "Continue with:" in err and "--workers 2" in err
    for pid in left:
        with suppress(ProcessLookupError):
            select.select([os.pidfd_open(pid)], [], [])  # they notice that nobody is left
    code, _, err = ended(tmp_path)
    assert code == 0, err
    assert result(tmp_path) == result(alone)

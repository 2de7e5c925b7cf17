"""Jobs on a real Slurm: `make test-slurm`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import HELPERS, ROOT
from real_slurm import cluster, missing, wait_until

from gepa_loop.cli import run
from gepa_loop.jobs.slurm import states
from gepa_loop.run.files import read_json, read_jsonl

pytestmark = pytest.mark.timeout(600)

LOOP = ["loop", "--config", "smoke", "--set", "seed=4"]
LONG = ["--set", "distill.steps=400", "--set", "distill.check_every=5"]


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster, where NEEDS_SLURM=1 asks for it: daemons are started, and every core of the machine is the node's."""
    if os.environ.get("NEEDS_SLURM") != "1":
        pytest.skip("starts Slurm's daemons: NEEDS_SLURM=1, or make test-slurm")
    if absent := missing():
        pytest.fail(f"{', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge")
    with pytest.MonkeyPatch.context() as patch, cluster(tmp_path_factory.mktemp("slurm")) as conf:
        patch.setenv("SLURM_CONF", str(conf))
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HELPERS), str(ROOT))))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield conf


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "50% of it"  # Slurm reads a % in the name of a log
    folder.mkdir()
    (folder / "p.txt").write_text("Answer with one number.\n")
    monkeypatch.chdir(folder)
    return folder


def _said(cwd: Path, *words: str) -> dict[str, Any]:
    """What a command says with --json."""
    file = cwd.parent / "said.json"
    assert run([*words, "--json", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _submit(cwd: Path, *words: str) -> str:
    return str(_said(cwd, "submit", *words)["job_id"])


def _states(job: str) -> dict[str, str]:
    return {task: one.state for task, one in states(job, 1)[0].items()}


def _ended(job: str) -> bool:
    found = _states(job)
    return bool(found) and set(found.values()) <= {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}


def _slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def _goes_on(cwd: Path, name: str, job: str) -> None:
    """Wait until a job was put back into the queue, and its run goes on."""
    wait_until(lambda: "Restarts=1" in _slurm("scontrol", "show", "job", job), "a job back in the queue")
    wait_until(lambda: _starts(cwd, name) == 2, "the run going on")


def _trains(cwd: Path, name: str) -> Callable[[], bool]:
    """Whether a run has taken a few steps."""
    return lambda: any(
        len(file.read_bytes().splitlines()) > 10
        for file in (cwd / "runs" / name).glob("round_00/distill/*/metrics.jsonl")
    )


def _starts(cwd: Path, name: str) -> int:
    rows: list[dict[str, Any]] = read_jsonl(cwd / "runs" / name / "events.jsonl")
    return sum(row["event"] == "start" for row in rows)


def _steps(cwd: Path, name: str) -> list[int]:
    files = (cwd / "runs" / name).glob("round_00/distill/*/metrics.jsonl")
    rows: list[dict[str, Any]] = [row for file in files for row in read_jsonl(file)]
    return [row["step"] for row in rows]


def _told(cwd: Path, name: str, job: str) -> list[int]:
    """Tell a run to end as where its time ends, and wait until it has gone on; returns its steps of before.

    All processes of the job's steps are told, Ray's among them, the script is not.
    """
    wait_until(_trains(cwd, name), "some steps")
    _slurm("scancel", "--signal=TERM", job)
    _goes_on(cwd, name, job)
    before = _steps(cwd, name)
    wait_until(lambda: len(_steps(cwd, name)) > len(before), "more steps")
    return before


def _log(cwd: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(["jobs", "logs", name]) == 0
    return capsys.readouterr().out


def test_a_loop(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = _submit(
        cwd, *LOOP, "--run-name", "a b", "--slurm", "time=10,cpus_per_task=1", "--setup", "echo set up"
    )
    wait_until(lambda: _ended(job), "the loop")
    (task,) = _said(cwd, "jobs", "status", "a b")["jobs"][0]["tasks"]
    assert (task["slurm"], task["exit_code"], task["state"]) == ("COMPLETED", "0:0", "done")
    assert read_json(cwd / "runs" / "a b" / "result.json", dict[str, Any])["seed"] == 4
    log = _log(cwd, "a b", capsys)
    assert log.startswith("set up\n") and f"run {Path('runs') / 'a b'}" in log and "report:" in log
    assert _said(cwd, "jobs", "collect", "a b")["over_seeds"]["base"]["by_seed"]


def test_seeds_and_cells(cwd: Path) -> None:
    loops = _submit(cwd, *LOOP, "--array", "seeds=2", "--run-name", "n")
    sweep = [
        "sweep",
        "--config",
        "smoke",
        "--prompt",
        "p.txt",
        "--grid",
        "distill.lr=1e-3,1e-2",
        "--run-name",
        "w",
    ]
    cells = _submit(cwd, *sweep)
    wait_until(lambda: _ended(loops) and _ended(cells), "both arrays")
    assert _states(loops) == {f"{loops}_0": "COMPLETED", f"{loops}_1": "COMPLETED"}
    found = _said(cwd, "jobs", "collect", "n")
    assert (found["seeds"], found["missing"]) == ([4, 5], []) and len(
        found["over_seeds"]["base"]["by_seed"]
    ) == 2
    assert read_json(cwd / "runs" / "n-s5" / "result.json", dict[str, Any])["seed"] == 5
    swept = _said(cwd, "jobs", "collect", "w")["sweep"]
    # What one process makes of the same.
    assert run([*sweep[:-1], "alone", "--quiet"]) == 0
    assert swept == _without_files(cwd / "runs" / "alone") == _without_files(cwd / "runs" / "w")


def _without_files(sweep: Path) -> dict[str, Any]:
    found = read_json(sweep / "result.json", dict[str, Any])
    found.pop("files")
    return found


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_run_that_is_told_to_end_goes_on_by_itself(
    cwd: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    job = _submit(cwd, *LOOP, *LONG, "--workers", workers, "--run-name", "n")
    before = _told(cwd, "n", job)
    log = _log(cwd, "n", capsys)
    assert (
        "ended by SIGTERM; what was finished is saved. Continue with:\n  gepa-loop loop --config smoke" in log
    )
    assert "back into the queue; the run goes on where it stopped" in log and "continuing after step" in log
    steps = _steps(cwd, "n")
    assert steps == sorted(set(steps)) and len(before) > 5

    _slurm("scancel", job)
    wait_until(lambda: _ended(job), "the end")
    assert _states(job) == {job: "CANCELLED"}
    (task,) = _said(cwd, "jobs", "status", "n")["jobs"][0]["tasks"]
    assert task["state"] == "unfinished" and re.search(r"step \d+ of 400", task["outcome"])
    assert _log(cwd, "n", capsys).count("back into the queue") == 1  # whoever cancels means it


@pytest.mark.parametrize("partition", ["debug", "grace"])
def test_a_run_that_is_preempted_goes_on_by_itself(
    cwd: Path, capsys: pytest.CaptureFixture[str], partition: str
) -> None:
    job = _submit(cwd, *LOOP, *LONG, "--run-name", "n", "--slurm", f"partition={partition}")
    wait_until(_trains(cwd, "n"), "some steps")
    other = _slurm(
        "sbatch", "--parsable", "--partition=first", "--exclusive", "--output=/dev/null", "--wrap", "true"
    )
    wait_until(lambda: _ended(other.strip()), "the other job")
    _goes_on(cwd, "n", job)
    log = _log(cwd, "n", capsys)
    assert "ended by SIGTERM; what was finished is saved" in log
    # Without a time of grace Slurm itself puts it back; with one, the job that ended within it.
    assert ("back into the queue; the run goes on" in log) == (partition == "grace")
    _slurm("scancel", job)
    wait_until(lambda: _ended(job), "the end")


CONTAINER = (
    *("podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "run", "--rm", "--network", "host"),
    *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),
)


def test_a_job_in_a_container_is_told_and_goes_on(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("podman") is None or shutil.which("runc") is None:
        pytest.skip("no podman and runc: apt-get install podman runc")
    path = f"PATH={Path(sys.executable).parent}:/usr/bin:/bin"
    # The image is this machine's own files, of which the container has a copy that it can write.
    own = ["-v", f"{cwd}:{cwd}", "-w", str(cwd), "-e", path, "-e", "PYTHONPATH", "--rootfs", "/:O"]
    prefix = shlex.join([*CONTAINER, *own])
    job = _submit(cwd, *LOOP, *LONG, "--run-name", "n", "--prefix", prefix)
    _told(cwd, "n", job)
    log = _log(cwd, "n", capsys)
    assert "ended by SIGTERM; what was finished is saved" in log and "continuing after step" in log
    # podman loses the SIGTERM that follows scancel's SIGCONT at once: it is killed when Slurm has waited long enough.
    _slurm("scancel", job)
    wait_until(lambda: _ended(job), "the end")
    assert _states(job) == {job: "CANCELLED"}

"""The script of a job: what stands in it, and what its shell does."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gepa_loop.errors import ConfigError
from gepa_loop.jobs.script import RESTARTS, Node, Work, script_text

LOOP = ["loop", "--config", "smoke", "--set", "task.name=two words"]
PYTHON = f"{sys.executable} -P -m gepa_loop"


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my runs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _directives(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_what_sbatch_is_told(cwd: Path) -> None:
    options = {
        "partition": "gpu",
        "gpus_per_node": "1",
        "time": "04:00:00",
        "gres_flags": "x",
        "exclusive": True,
    }
    text = script_text(Work("a b", cwd / "100%", LOOP), Node(options))
    assert _directives(text) == {
        "chdir": f"'{cwd}'",
        "exclusive": "",
        "gpus-per-node": "1",
        "gres-flags": "x",
        "job-name": "'a b'",
        "nodes": "1",
        "open-mode": "append",
        "output": f"'{cwd}/100%%/%j_0_log.out'",
        "partition": "gpu",
        "requeue": "",
        "signal": "TERM@60",
        "time": "04:00:00",
    }
    assert f"{PYTHON} loop --config smoke --set 'task.name=two words'\n" in text
    # Without a time of the user's the cluster's counts, and not submitit's five minutes.
    assert "time" not in _directives(script_text(Work("a", cwd, LOOP), Node({})))


def test_no_environment_no_key_no_pickle(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-123456789")
    text = script_text(Work("a", cwd, LOOP), Node({}))
    assert (
        "sk-123456789" not in text
        and "--export" not in text
        and "pickle" not in text
        and "_submit" not in text
    )
    for node, words in ((Node({"comment": "sk-123456789"}), LOOP), (Node({}), [*LOOP, "sk-123456789"])):
        with pytest.raises(ConfigError, match="what SOME_API_KEY holds would stand"):
            script_text(Work("a", cwd, words), node)


def test_a_container_has_its_own_python(cwd: Path) -> None:
    text = script_text(
        Work("a", cwd, LOOP), Node({"cpus_per_task": "8"}, ["apptainer", "exec", "--nv", "my image.sif"])
    )
    assert "--cpus-per-task=8 apptainer exec --nv 'my image.sif' gepa-loop loop --config" in text
    assert sys.executable not in text
    enroot = ["enroot", "start", "image", "sh", "-c", 'cd "/a b" && exec "$@"', "sh"]
    text = script_text(Work("a", cwd, LOOP, [["--run-name", "n"]]), Node({}, enroot))
    start = text.index("enroot start")
    # The words reach it as they were given.
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'enroot() {{ printf "%s\\n" "$@"; }}; set -- --run-name n; {text[start:].splitlines()[0]}',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [*enroot[1:], "gepa-loop", *LOOP, "--run-name", "n"]


def _bin(cwd: Path, state: str, code: int) -> Path:
    """Commands of a node: `srun` prints its arguments and ends with a code, `squeue` says how the job is, `scontrol` notes what it is told."""
    folder = cwd.parent / "bin"
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("srun", f'for word in "$@"; do echo "$word"; done; exit {code}'),
        ("squeue", f'echo "$*" >> asked; echo {state}'),
        ("scontrol", 'echo "$*" >> told'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
    return folder


def _run(
    cwd: Path, text: str, state: str = "RUNNING", code: int = 0, **env: str
) -> tuple[int, list[str], str]:
    """The script's exit code, the words after srun's own, and what scontrol was told."""
    (cwd / "told").unlink(missing_ok=True)
    folder = _bin(cwd, state, code)
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=cwd,
        env={"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "12", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    words = done.stdout.splitlines()
    told = cwd / "told"
    return done.returncode, words[words.index("gepa_loop") + 1 :], told.read_text() if told.exists() else ""


def test_each_task_of_an_array_has_words_of_its_own(cwd: Path) -> None:
    tasks = [["--run-name", "it's", "--set", "seed=0"], ["--cell", "a b=$HOME_seed1"]]
    text = script_text(Work("a", cwd, LOOP, tasks), Node({"array_parallelism": 1}, setup=["X='set here'"]))
    assert _directives(text)["array"] == "0-1%1"
    assert _directives(text)["output"].endswith("%A_%a_0_log.out'")
    for number, task in enumerate(tasks):
        ids = {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": str(number)}
        assert _run(cwd, text, **ids) == (0, [*LOOP, *task], "")


def test_who_goes_back_into_the_queue(cwd: Path) -> None:
    text = script_text(Work("a", cwd, LOOP), Node({}))

    def told(state: str, code: int, **env: str) -> str:
        ended, _, told = _run(cwd, text, state, code, **env)
        assert ended == code
        return told

    # A run that SIGTERM ended while its job goes on: its time ends, or a preemption gives it time.
    assert told("RUNNING", 143) == "requeue 12\n"
    # Of an array its own task: 12 may be the number of the whole array.
    ids = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    assert told("RUNNING", 143, **ids) == "requeue 12_3\n"
    assert (cwd / "asked").read_text().splitlines()[-1] == "-h -j 12_3 -o %T"
    # Cancelled, or put back by Slurm; ended by itself, well or not; for the hundredth time.
    assert told("COMPLETING", 143) == told("CANCELLED", 143) == told("PENDING", 143) == ""
    assert [told("RUNNING", code) for code in (0, 2, 5, 130, 137)] == [""] * 5
    assert told("RUNNING", 143, SLURM_RESTART_COUNT=str(RESTARTS)) == ""
    assert told("RUNNING", 143, SLURM_RESTART_COUNT=str(RESTARTS - 1)) == "requeue 12\n"

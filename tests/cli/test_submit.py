"""`submit`, and `jobs`, with a scripted Slurm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, controller, fake_slurm
from pydantic import TypeAdapter
from recorded import recorded, strict

from gepa_loop.cli import run
from gepa_loop.cli.batch import slurm_options
from gepa_loop.cli.records import jobs
from gepa_loop.jobs.folder import log_of, read_job
from gepa_loop.run.files import write_json

LOOP = ["loop", "--config", "smoke"]
SWEEP = ["sweep", "--config", "smoke", "--prompt", "p.txt", "--grid", "distill.lr=1e-3,1e-2", "--seeds", "2"]

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "p.txt").write_text("Answer with one number.\n")
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = fake_slurm(tmp_path / "slurm", monkeypatch)
    made.says("sbatch", "Submitted batch job 41\n")
    return made


@pytest.fixture
def shell(cwd: Path, slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]) -> Shell:
    """Runs a command; its exit code, standard output and standard error, each in one line."""

    def command(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(list(words))
        said = capfd.readouterr()
        return code, " ".join(said.out.split()), " ".join(said.err.split())

    return command


def _answer(text: str, kind: type[Any], command: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    TypeAdapter(strict(kind)).validate_python(found, strict=True)
    assert found["command"] == command
    return found


def test_a_dry_run_prints_the_script_and_leaves_nothing(
    cwd: Path, shell: Shell, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # it needs no Slurm
    before = sorted(cwd.iterdir())
    words = [*LOOP, "--rounds", "2", "-q", "--slurm", "partition=gpu,time=04:00:00", "--run-name", "n"]
    code, said, _ = shell("submit", *words, "--dry-run")
    assert code == 0 and said.startswith("#!/bin/bash # Parameters #SBATCH") and "--partition=gpu" in said
    assert "-m gepa_loop loop --config smoke --rounds 2 -q --run-name n #" in said
    assert sorted(cwd.iterdir()) == before and slurm.asked == []
    code, said, _ = shell("submit", *words, "--dry-run", "--json", "-")
    found = _answer(said, jobs.SubmittedAnswer, "submit")
    assert (found["job"], found["job_id"], found["runs"]) == ("n", None, ["n"])
    assert found["script"].startswith("#!/bin/bash\n")


def test_an_array_of_seeds(cwd: Path, shell: Shell, slurm: FakeSlurm) -> None:
    code, said, _ = shell(
        "submit", *LOOP, "--set", "seed=5", "--array", "seeds=3", "--run-name", "n", "--json", "-"
    )
    found = _answer(said, jobs.SubmittedAnswer, "submit")
    assert (code, found["job_id"], found["runs"]) == (0, "41", ["n-s5", "n-s6", "n-s7"])
    assert "2) set -- --run-name n-s7 --set seed=7 ;;" in found["script"]
    script = cwd / "runs" / ".jobs" / "n" / "job.sh"
    assert slurm.asked == [f"sbatch {script}"] and script.read_text().split() == found["script"].split()
    record = read_job("n")
    assert record is not None and record["array"] and record["job_ids"] == ["41"]
    assert [one["seed"] for one in record["tasks"]] == [5, 6, 7]
    # A seed that was typed stands before the task's own.
    assert found["script"].index("--set seed=5 ") and record["words"] == [*LOOP[1:], "--set", "seed=5"]
    assert log_of("n", record, 2) == cwd / "runs" / ".jobs" / "n" / "41_2_0_log.out"
    assert recorded(cwd / "runs") == {".jobs/NAME/job.json"}
    assert not list(cwd.glob("runs/*/manifest.json")) and shell("runs")[1].startswith("there are no runs")


def test_a_sweep_is_an_array_of_its_cells(shell: Shell) -> None:
    code, said, _ = shell("submit", *SWEEP, "--run-name", "w", "--dry-run", "--json", "-")
    found = _answer(said, jobs.SubmittedAnswer, "submit")
    cells = [f"lr={lr}_seed{seed}" for seed in (0, 1) for lr in ("1e-3", "1e-2")]
    assert code == 0 and found["runs"] == [f"w/{cell}" for cell in cells]
    for number, cell in enumerate(cells):
        assert f"\n{number}) set -- --run-name w --cell {cell} ;;\n" in found["script"]


def test_a_name_is_made_of_all_that_is_said(shell: Shell, cwd: Path) -> None:
    def name(*words: str) -> str:
        return str(json.loads(shell("submit", *words, "--dry-run", "--json", "-")[1])["job"])

    first = name(*LOOP)
    assert first.startswith("loop-smoke-") and name(*LOOP) == first
    (cwd / "mine.toml").write_text('preset = "smoke"\n')
    mine = name("loop", "--config", "mine.toml")
    (cwd / "mine.toml").write_text('preset = "smoke"\nseed = 3\n')  # what it says, not only what it is called
    assert len({first, name(*LOOP, "--rounds", "2"), mine, name("loop", "--config", "mine.toml")}) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loop", "--config", "nosuch"], "--config nosuch: neither a file nor a preset"),
        ([*LOOP, "--set", "distill.lrr=1"], "unknown key distill.lrr"),
        ([*LOOP, "--nosuch"], "No such option: --nosuch"),
        (["distill", "--config", "smoke"], "Missing option '--prompt'"),
        (["distill", "--config", "smoke", "--prompt", "none.txt"], "none.txt"),
        (["chat", "last"], "submit chat: it makes no run"),
        ([*SWEEP, "--grid", "distill.lrr=1,2"], "unknown key distill.lrr"),
        ([*SWEEP, "--cell", "lr=1e-3_seed0"], "--cell lr=1e-3_seed0: a sweep is submitted with all"),
        ([*SWEEP, "--array", "seeds=2"], "--array seeds=2: a sweep is an array of its cells"),
        (["evaluate", "--config", "smoke", "--split", "nosuch"], "--split nosuch: no such split"),
        ([*LOOP, "--fresh"], "--fresh: a job that goes back into the queue would begin again"),
        ([*LOOP, "--run-name", "a/b"], "--run-name a/b: not a plain folder name"),
        ([*LOOP, "--array", "8"], "--array 8: not of the form seeds=N"),
        ([*LOOP, "--array", "seeds=0"], "--array seeds=0: not of the form"),
        ([*LOOP, "--slurm", "gpu"], "--slurm gpu: 'gpu' is not of the form key=value"),
        ([*LOOP, "--slurm", "time="], "'time=' is not of the form key=value"),
        ([*LOOP, "--slurm", "nodes=2"], "nodes = 2: a run is made on one node"),
        ([*LOOP, "--slurm", "output=x.log"], "output cannot be set: `gepa-loop jobs logs` knows"),
        ([*LOOP, "--slurm", "export=ALL,A_KEY=x"], "export cannot be set"),
        ([*LOOP, "--slurm", "teardown=rm"], "teardown cannot be set: sbatch has no such option"),
        ([*LOOP, "--slurm", "comment=a\nrm"], "cannot stand in a script"),
        ([*LOOP, "--setup", "export HF_TOKEN=hf_1234"], "--setup: HF_TOKEN: a key would stand"),
        ([*LOOP, "--setup", "login --token hf_12"], "--setup: --token: a key would stand"),
        ([*LOOP, "--set", "task.options.api_key=1234"], "submit: task.options.api_key: a key would stand in"),
        ([*LOOP, "--set", 'task.options={api_key="12"}'], "submit: api_key: a key would stand in the script"),
        ([*LOOP, "--set", "task.options.password=$ecret"], "submit: a key or a password would stand in"),
        ([*LOOP, "--prefix", "run -e A_KEY=12 image"], "--prefix: A_KEY: a key would stand in the script"),
        ([*SWEEP, "--set", "cluster.workers=2"], "cluster.workers = 2: workers do not share a sweep"),
        (
            [*LOOP, "--workers", "2", "--slurm", "gpus=h100:1"],
            "--slurm gpus=h100:1: cluster.workers = 2 with 1",
        ),
        ([*LOOP, "--slurm", "signal=USR1@60"], "signal = USR1@60: a run saves itself at SIGTERM"),
        ([*LOOP, "--prefix", "a 'b"], "--prefix a 'b: no closing quotation"),
    ],
)
def test_what_is_wrong_is_found_now(
    cwd: Path, shell: Shell, slurm: FakeSlurm, words: list[str], said: str
) -> None:
    before = sorted(cwd.rglob("*"))
    code, out, err = shell("submit", *words)
    assert code == 2 and out == "", err
    assert said in " ".join(err.replace("│", " ").split())
    assert sorted(cwd.rglob("*")) == before and slurm.asked == []


def test_an_adapter_is_looked_for_now(shell: Shell, slurm: FakeSlurm) -> None:
    code, _, err = shell("submit", "evaluate", "--config", "smoke", "--adapter", "nosuch/adapter")
    assert code == 3 and "nosuch/adapter: no adapter can be read there" in err and slurm.asked == []


def test_options_of_slurm() -> None:
    assert slurm_options(
        ["partition=gpu, gpus=h100:1", "mail-type=END,FAIL,nodelist=n[1-3,5],n7", "exclusive=true"]
    ) == {
        "partition": "gpu",
        "gpus_per_node": "h100:1",
        "mail_type": "END,FAIL",
        "nodelist": "n[1-3,5],n7",
        "exclusive": True,
    }
    assert slurm_options(["nodes=1"]) == {"nodes": "1"} and slurm_options([]) == {}
    assert slurm_options(["signal=B:TERM@120"]) == {"signal": "B:TERM@120"}


def test_a_line_before_it_may_read_a_key(shell: Shell) -> None:
    code, said, _ = shell(
        "submit", *LOOP, "--setup", "export HF_TOKEN=$(cat ~/token)", "--setup", "module load x", "--dry-run"
    )
    assert code == 0 and "# setup export HF_TOKEN=$(cat ~/token) module load x #" in said


def test_what_sbatch_refuses_leaves_no_job(shell: Shell, slurm: FakeSlurm) -> None:
    slurm.says("sbatch", err="sbatch: error: invalid partition specified: nope", code=1)
    code, out, err = shell("submit", *LOOP, "--slurm", "partition=nope", "--run-name", "n")
    assert (code, out) == (3, "") and "invalid partition specified: nope" in err
    assert read_job("n") is None and shell("jobs", "status")[1] == "no job was submitted from this folder"


def test_the_same_again(shell: Shell, slurm: FakeSlurm) -> None:
    assert shell("submit", *LOOP, "--run-name", "n")[0] == 0
    slurm.says("scontrol", controller(41, "RUNNING"))
    code, _, err = shell("submit", *LOOP, "--run-name", "n")
    assert code == 6 and "job n waits or runs already, as 41" in err and "scancel 41" in err
    slurm.says("scontrol", err="Unable to contact slurm controller", code=1)
    code, _, err = shell("submit", *LOOP, "--run-name", "n")
    assert code == 3 and "job n may wait or run already, as 41" in err and "Unable to contact" in err
    slurm.says("scontrol", controller(41, "TIMEOUT"))
    slurm.says("sbatch", "Submitted batch job 52\n")
    assert shell("submit", *LOOP, "--run-name", "n")[:2] == (
        0,
        "job 52: n script: runs/.jobs/n/job.sh next: gepa-loop jobs status n",
    )
    record = read_job("n")
    assert record is not None and record["job_ids"] == ["41", "52"]


def _looped(cwd: Path, name: str, student: float | None) -> None:
    """A finished loop, as far as its numbers go."""
    card = {"n": 4, "mean": 0.25, "ci": [0, 1]}
    gap = None if student is None else {"mean": student - 0.25, "ci": [0, 1], "p": 1}
    prompted = {"mean": 0.5, "ci": [0, 1], "p": 1}
    cards = {
        "base": card,
        "prompted": {**card, "mean": 0.75},
        "student": None if student is None else {**card, "mean": student},
        "prompted_minus_base": prompted,
        "student_minus_base": gap,
        "student_minus_prompted": None if student is None else {**prompted, "mean": student - 0.75},
    }
    folder = cwd / "runs" / name
    write_json(folder / "manifest.json", {"birth": "b", "identity": {"command": "loop"}})
    write_json(folder / "result.json", {"test": cards, "adapter": None if student is None else "a"})


def test_how_far_and_what_over_seeds(cwd: Path, shell: Shell, slurm: FakeSlurm) -> None:
    assert shell("submit", *LOOP, "--array", "seeds=4", "--run-name", "n")[0] == 0
    waiting = controller(41, "PENDING", ArrayJobId=41, ArrayTaskId="1-3%4", Reason="Priority")
    slurm.says("scontrol", controller(42, "COMPLETED", ArrayJobId=41, ArrayTaskId=0) + waiting)
    code, _, err = shell("jobs", "collect", "n")
    assert code == 6 and "job n: no run is finished" in err
    _looped(cwd, "n-s0", 0.5)
    code, said, _ = shell("jobs", "status", "n", "--json", "-")
    tasks = _answer(said, jobs.JobsAnswer, "jobs status")["jobs"][0]["tasks"]
    assert tasks[0] == {
        "task": 0,
        "job_id": "41_0",
        "slurm": "COMPLETED",
        "reason": "",
        "exit_code": "0:0",
        "path": str(cwd / "runs" / "n-s0"),
        "state": "done",
        "outcome": "bare .250, prompted .750, student .500",
    }
    assert [(one["slurm"], one["reason"], one["state"]) for one in tasks[1:]] == [
        ("PENDING", "Priority", "not begun")
    ] * 3
    said = shell("jobs", "status", "n")[1]
    assert "3 41_3 PENDING (Priority) n-s3 not begun" in said and said.endswith("next: gepa-loop jobs logs n")
    assert shell("jobs", "status")[1] == "n: 1 COMPLETED, 3 PENDING; 1 done, 3 not begun"

    for seed, student in ((1, 0.75), (2, 1.0)):
        _looped(cwd, f"n-s{seed}", student)
    found = _answer(shell("jobs", "collect", "n", "--json", "-")[1], jobs.CollectedAnswer, "jobs collect")
    assert found["missing"] == ["n-s1", "n-s2", "n-s3"], "what they found before they were submitted again"
    ends = [controller(43, "FAILED", ArrayJobId=41, ArrayTaskId=1), waiting.replace("1-3%4", "3")]
    slurm.says(
        "scontrol",
        "".join([controller(41 + n, "COMPLETED", ArrayJobId=41, ArrayTaskId=n) for n in (0, 2)] + ends),
    )
    code, said, err = shell("jobs", "collect", "n", "--json", "-")
    found = _answer(said, jobs.CollectedAnswer, "jobs collect")
    assert (code, found["seeds"], found["missing"]) == (0, [0, 1, 2], ["n-s3"])
    assert "warning: 1 of 4 runs are not finished and not counted: n-s3" in err
    gain = found["over_seeds"]["student - base"]
    # By hand: .25, .5 and .75; t(.975, 2) = 4.3027, sd = .25.
    assert gain["mean"] == pytest.approx(0.5) and gain["by_seed"] == pytest.approx([0.25, 0.5, 0.75])
    assert gain["ci"] == pytest.approx([0.5 - 4.3027 * 0.25 / 3**0.5, 1.0], abs=1e-4)
    assert gain["p"] == pytest.approx(0.0742, abs=1e-4) and found["over_seeds"]["base"]["ci"] is None
    # One without a student is counted where it has something, and not where it has not.
    _looped(cwd, "n-s3", None)
    said = shell("jobs", "status", "n")[1]
    assert "PENDING" in said and said.endswith("next: gepa-loop jobs logs n"), "n-s3 is to go on"
    slurm.says("scontrol", err="Invalid job id specified", code=1)
    said = shell("jobs", "collect", "n")[1]
    assert "loop over 4 seeds" in said and "student (3 of 4 seeds have one)" in said and "warning" not in said
    for command in ("scontrol", "sacct"):
        slurm.says(command, err="Unable to contact slurm controller", code=1)
    said = shell("jobs", "collect", "n")[1]
    assert (
        "Unable to contact slurm controller; a run that is to go on is counted" in said and "4 seeds" in said
    )


def test_a_job_that_slurm_forgot(cwd: Path, shell: Shell, slurm: FakeSlurm) -> None:
    assert shell("submit", *LOOP, "--run-name", "n")[0] == 0
    slurm.says("scontrol", err="Invalid job id specified", code=1)
    slurm.says("sacct", err="Slurm accounting storage is disabled", code=1)
    code, said, _ = shell("jobs", "status", "n")
    assert code == 0 and said.startswith("warning: Slurm does not know job 41: Invalid job id specified;")
    assert "0 41 - n not begun" in said
    slurm.says("sbatch", "Submitted batch job 52\n")
    assert shell("submit", *LOOP, "--run-name", "n")[0] == 0, "it has ended long ago"
    _looped(cwd, "n", 0.5)
    said = shell("jobs", "status", "n")[1]
    assert "warning" not in said and said.endswith("next: gepa-loop jobs collect n")


def test_logs(cwd: Path, shell: Shell) -> None:
    assert shell("submit", *LOOP, "--array", "seeds=2", "--run-name", "n")[0] == 0
    code, _, err = shell("jobs", "logs", "n")
    assert code == 2 and "job n has tasks 0 to 1" in err and "--task 0" in err
    code, _, err = shell("jobs", "logs", "n", "--task", "2")
    assert code == 2 and "--task 2: job n has tasks 0 to 1" in err
    code, _, err = shell("jobs", "logs", "n", "--task", "1")
    assert code == 6 and "41_1_0_log.out: nothing was written yet" in err
    (cwd / "runs/.jobs/n/41_1_0_log.out").write_bytes(b"one\x1b[2J [red]two\n\xff\n")
    assert shell("jobs", "logs", "n", "--task", "1")[1] == r"one\x1b[2J [red]two �"
    found = _answer(shell("jobs", "logs", "n", "--task", "1", "--json", "-")[1], jobs.LogAnswer, "jobs logs")
    assert found["path"] == str(cwd / "runs/.jobs/n/41_1_0_log.out")
    code, _, err = shell("jobs", "logs", "nosuch")
    assert code == 2 and "nosuch: no job of this name Jobs: n." in err

"""What Slurm's commands say, from executables that say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, controller, fake_slurm

from gepa_loop.errors import EnvironmentFault
from gepa_loop.jobs.slurm import Told, states, submit

HEAD = "JobID|State|ExitCode|Reason\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return fake_slurm(tmp_path / "slurm", monkeypatch)


def test_a_script_is_handed_over(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("sbatch", "Submitted batch job 41\n")
    assert submit(tmp_path / "a job.sh") == "41"
    assert slurm.asked == [f"sbatch {tmp_path / 'a job.sh'}"]


def test_what_sbatch_refuses_is_said_in_its_words(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("sbatch", err="sbatch: error: invalid partition\n specified: nope\n", code=1)
    with pytest.raises(EnvironmentFault, match="invalid partition specified: nope"):
        submit(tmp_path / "job.sh")
    slurm.says("sbatch", "welcome")
    with pytest.raises(EnvironmentFault, match="named no job: welcome"):
        submit(tmp_path / "job.sh")


def test_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="no Slurm on this machine") as caught:
        submit(tmp_path / "job.sh")
    assert caught.value.exit_code == 3 and "login node" in caught.value.hint
    found, why = states("41", 1)
    assert found == {} and "scontrol" in why and "sacct" in why


def test_tasks_that_wait_together_and_one_that_ended(slurm: FakeSlurm) -> None:
    waiting = controller(4, "PENDING", ArrayJobId=4, ArrayTaskId="1-2,5%3", Reason="Resources")
    ended = controller(5, "FAILED", ArrayJobId=4, ArrayTaskId=0, ExitCode="3:0")
    last = controller(6, "PENDING", ArrayJobId=4, ArrayTaskId="7%3")
    slurm.says("scontrol", waiting + ended + last)
    found, why = states("4", 5)
    held = Told("PENDING", "0:0", "Resources")
    assert found == {
        "4_0": Told("FAILED", "3:0", ""),
        "4_1": held,
        "4_2": held,
        "4_5": held,
        "4_7": Told("PENDING", "0:0", ""),
    }
    assert (why, held.live, found["4_0"].live) == ("", True, False)
    assert slurm.asked == ["scontrol --oneliner show job 4"]  # accounting is not asked without need


def test_what_the_controller_forgot_accounting_knows(slurm: FakeSlurm) -> None:
    slurm.says("scontrol", err="Invalid job id specified", code=1)
    slurm.says("sacct", f"{HEAD}9|CANCELLED by 1000|0:15|None\n")
    assert states("9", 1) == ({"9": Told("CANCELLED", "0:15", "")}, "")
    assert slurm.asked[1].startswith("sacct --jobs=9 --allocations")


def test_tasks_that_the_controller_forgot_while_others_run(slurm: FakeSlurm) -> None:
    slurm.says("scontrol", controller(6, "RUNNING", ArrayJobId=4, ArrayTaskId=1))
    slurm.says("sacct", f"{HEAD}4_0|TIMEOUT|0:0|None\n4_1|PENDING|0:0|None\n")
    assert states("4", 2)[0] == {"4_0": Told("TIMEOUT", "0:0", ""), "4_1": Told("RUNNING", "0:0", "")}


def test_a_cluster_without_accounting(slurm: FakeSlurm) -> None:
    slurm.says("scontrol", err="slurm_load_jobs error: Invalid job id specified\n", code=1)
    slurm.says("sacct", err="Slurm accounting storage is disabled\n", code=1)
    found, why = states("9", 1)
    assert found == {}
    assert why == (
        "Slurm does not know job 9: slurm_load_jobs error: Invalid job id specified; Slurm accounting storage is disabled"
    )

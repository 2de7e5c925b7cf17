"""Slurm's own commands: asked with a time that has an end, and what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.errors import EnvironmentFault, RunDirectoryError
from gepa_loop.jobs.folder import no_submitit

PATIENCE = 30.0
"""Seconds that a command of Slurm's may take."""

WAITING = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED", "RESIZING"),
    *("REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SIGNALING", "STAGE_OUT"),
)
"""States of what is to go on by itself."""


@dataclass(frozen=True)
class Told:
    """What Slurm says of a task."""

    state: str
    """In its word: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ..."""
    exit_code: str
    """`code:signal`."""
    reason: str
    """Why it waits; empty where it does not."""

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in WAITING


def submit(script: Path) -> str:
    """Hand a script to Slurm; returns the job's number.

    Raises:
        EnvironmentFault: There is no Slurm here, or it does not take the job; what it said is in the message.
    """
    try:
        from submitit.core.utils import FailedSubmissionError
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError as error:
        raise no_submitit(error) from None
    if shutil.which("sbatch") is None:
        raise EnvironmentFault(
            "sbatch: there is no Slurm on this machine (no `sbatch` on the PATH)",
            "Type it on the cluster's login node; a dry run prints the script without Slurm.",
        )
    done = _ask(["sbatch", str(script)])
    if isinstance(done, str) or done.returncode != 0:
        said = done if isinstance(done, str) else _words(done)
        raise EnvironmentFault(f"sbatch did not take {script}: {said}", "`sinfo` lists partitions.")
    try:
        return str(SlurmExecutor._get_job_id_from_submission_command(done.stdout))
    except FailedSubmissionError:
        raise EnvironmentFault(
            f"sbatch took {script} and named no job: {_words(done)}", "`squeue --me` lists your jobs."
        ) from None


def states(job: str, tasks: int) -> tuple[dict[str, Told], str]:
    """What Slurm says of the tasks of a job.

    Args:
        job: Its number.
        tasks: How many it has.

    Returns:
        Task (`12`, of an array `12_0`) -> what is said of it, of those that it knows; and why there are none, in words.
    """
    # The controller knows what lives and what ended minutes ago, accounting the rest where a cluster has it.
    shown = _ask(["scontrol", "--oneliner", "show", "job", job])
    found: dict[str, Told] = {}
    if not isinstance(shown, str) and shown.returncode == 0:
        found = _of_controller(shown.stdout)
    if len(found) >= tasks:
        return found, ""
    fields = "--format=JobID,State,ExitCode,Reason"
    counted = _ask(["sacct", f"--jobs={job}", "--allocations", "--parsable2", fields])
    if not isinstance(counted, str) and counted.returncode == 0:
        found = {**_read(counted.stdout), **found}
    if found:
        return found, ""
    said = [one if isinstance(one, str) else _words(one) for one in (shown, counted)]
    return {}, f"Slurm does not know job {job}: {'; '.join(dict.fromkeys(filter(None, said)))}"


GONE = "invalid job id"
"""The controller's word, in lower case, for a job that has ended long ago."""


def is_silent(why: str) -> bool:
    """Whether a Slurm that is here did not say where a job is, by what `states` says; a job that it has forgotten has ended."""
    return bool(why) and GONE not in why.lower() and shutil.which("scontrol") is not None


def check_ended(name: str, job: str, tasks: int) -> None:
    """See that a job neither waits nor runs.

    Raises:
        RunDirectoryError: It does.
        EnvironmentFault: Slurm does not say.
    """
    found, why = states(job, tasks)
    if any(one.live for one in found.values()):
        raise RunDirectoryError(
            f"job {name} waits or runs already, as {job}",
            f"Wait for it (`gepa-loop jobs status {name}`), end it (`scancel {job}`), or choose another --run-name.",
        )
    if not found and GONE not in why.lower():
        raise EnvironmentFault(
            f"job {name} may wait or run already, as {job}: {why}",
            "Try again once Slurm answers, or choose another --run-name.",
        )


def _of_controller(text: str) -> dict[str, Told]:
    """Of `scontrol show job`, a line a task, of tasks of an array that wait together one for all."""
    rows = ["JobID|State|ExitCode|Reason"]
    for line in text.splitlines():
        row: dict[str, str] = dict(re.findall(r"(\w+)=(\S*)", line))
        number, task = row.get("ArrayJobId", row.get("JobId", "")), row.get("ArrayTaskId", "")
        if task:
            number += f"_{task}" if task.isdigit() else f"_[{task}]"
        rows.append("|".join([number, *(row.get(key, "") for key in ("JobState", "ExitCode", "Reason"))]))
    return _read("\n".join(rows))


def _read(table: str) -> dict[str, Told]:
    """Of a table as `sacct --parsable2` prints it."""
    try:
        from submitit.slurm.slurm import SlurmInfoWatcher
    except ImportError as error:
        raise no_submitit(error) from None
    found = {}
    for task, row in SlurmInfoWatcher().read_info(table).items():
        reason = row["Reason"] if row["Reason"] not in ("None", "") else ""
        found[task] = Told(row["State"].partition(" ")[0], row["ExitCode"], reason)  # `CANCELLED by 1000`
    return found


def _ask(words: Sequence[str]) -> subprocess.CompletedProcess[str] | str:
    """What a command says; why it says nothing, where it cannot be run or takes too long."""
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{words[0]} did not answer within {PATIENCE:.0f} seconds"
    except OSError as error:
        return f"{words[0]}: {error.strerror or error}"


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())

"""Where jobs are kept: `runs/.jobs/NAME/` has the record, the script and the logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gepa_loop.errors import ConfigError, EnvironmentFault
from gepa_loop.jobs.records import JobRecord
from gepa_loop.run.files import read_json, write_json

PLACE = Path("runs") / ".jobs"
FILE = "job.json"
SCRIPT = "job.sh"


def job_folder(name: str) -> Path:
    """Of a job by its name, absolute; it need not be there."""
    return Path.cwd() / PLACE / name


def read_job(name: str) -> JobRecord | None:
    """What was submitted under a name from this folder; None where nothing was.

    Raises:
        RunDirectoryError: Its record is not as it was written.
    """
    file = job_folder(name) / FILE
    return read_json(file, JobRecord) if file.exists() else None


def write_job(name: str, record: JobRecord) -> None:
    """Keep it."""
    as_written: Mapping[str, object] = {**record}
    write_json(job_folder(name) / FILE, as_written)


def known_jobs() -> list[str]:
    """The names of all jobs of this folder, the last submitted first."""
    files = sorted(PLACE.glob(f"*/{FILE}"), key=lambda file: (-file.stat().st_mtime, file.parent.name))
    return [file.parent.name for file in files]


def job_of(name: str) -> JobRecord:
    """What was submitted under a name.

    Raises:
        ConfigError: Nothing was.
    """
    if Path(name).name != name or (record := read_job(name)) is None:
        known = ", ".join(known_jobs()) or f"none below {PLACE.resolve()}"
        raise ConfigError(f"{name}: no job of this name", f"Jobs: {known}.")
    return record


def log_of(name: str, record: JobRecord, task: int) -> Path:
    """The log of a task, of its last submission; a job that goes on in the queue goes on in the same file."""
    try:
        from submitit.core.utils import JobPaths
    except ImportError as error:
        raise no_submitit(error) from None
    number = task_id(record, task)
    return Path(JobPaths(job_folder(name), job_id=number, task_id=0).stdout)


def task_id(record: JobRecord, task: int) -> str:
    """What Slurm calls a task of the last submission; empty where that came to nothing."""
    if not record["job_ids"]:
        return ""
    return f"{record['job_ids'][-1]}_{task}" if record["array"] else record["job_ids"][-1]


def no_submitit(error: ImportError) -> EnvironmentFault:
    """What to say where the extra `slurm` is not installed."""
    return EnvironmentFault(f"jobs of a cluster: {error}", "Install it: pip install 'gepa-loop[slurm]'.")

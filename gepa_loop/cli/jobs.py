"""The commands about jobs that were submitted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli import complete
from gepa_loop.cli.answer import STANDARD_OUTPUT, give, head, reader
from gepa_loop.cli.options import JsonOption, say_next, warn
from gepa_loop.errors import ConfigError, RunDirectoryError

if TYPE_CHECKING:
    from gepa_loop.cli.records.jobs import CollectedAnswer, JobsAnswer, LogAnswer, TaskAnswer
    from gepa_loop.jobs.records import JobRecord
    from gepa_loop.show.jobs import TaskLine
    from gepa_loop.show.terminal import Terminal

JobArgument = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job's name, which is its run's.", autocompletion=complete.jobs),
]


def jobs_status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[JOB]", help="A job's name; without it all of this folder.", autocompletion=complete.jobs
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Say how far jobs are: what Slurm says of each task, and what its run's files say."""
    from gepa_loop.jobs.folder import job_of, known_jobs
    from gepa_loop.jobs.slurm import states
    from gepa_loop.show.jobs import job_line, task_lines, tasks_table

    to, unknown = reader(json_file), []
    found: dict[str, list[TaskLine]] = {}
    for one in [name] if name is not None else known_jobs():
        record = job_of(one)
        told, why = states(record["job_ids"][-1], len(record["tasks"]))
        found[one] = task_lines(record, told)
        unknown += [why] if why and any(line.said != "done" for line in found[one]) else []
    answer: JobsAnswer = {
        **head("jobs status"),
        "jobs": [{"job": job, "tasks": [_task(one) for one in lines]} for job, lines in found.items()],
    }
    give(json_file, answer)
    warn(unknown, to)
    if name is None:
        for job, lines in found.items():
            to.print(job_line(job, lines), highlight=False)
        if not found:
            to.print("no job was submitted from this folder", highlight=False)
        return
    to.print(tasks_table(found[name]), soft_wrap=False)
    done = all(line.said == "done" and not (line.told and line.told.live) for line in found[name])
    say_next("jobs", "collect" if done else "logs", name, to=to)


def _task(line: TaskLine) -> TaskAnswer:
    return {
        "task": line.task,
        "job_id": line.job_id,
        "slurm": None if line.told is None else line.told.state,
        "reason": "" if line.told is None else line.told.reason,
        "exit_code": None if line.told is None else line.told.exit_code,
        "path": str(line.path),
        "state": line.said,
        "outcome": line.outcome,
    }


def jobs_logs(
    name: JobArgument,
    task: Annotated[
        int | None, typer.Option("--task", min=0, help="Of an array: the number of the task.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until Ctrl-C.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Print the log of a job."""
    from gepa_loop.jobs.folder import job_of, log_of

    record = job_of(name)
    last = len(record["tasks"]) - 1
    if (task is None and last > 0) or (task or 0) > last:
        asked = "" if task is None else f"--task {task}: "
        raise ConfigError(
            f"{asked}job {name} has tasks 0 to {last}", f"Name one: gepa-loop jobs logs {name} --task 0"
        )
    path = log_of(name, record, task or 0)
    if not (path.exists() or follow):
        raise RunDirectoryError(
            f"{path}: nothing was written yet", f"The job may wait: gepa-loop jobs status {name}"
        )
    answer: LogAnswer = {**head("jobs logs"), "job": name, "task": task or 0, "path": str(path)}
    give(json_file, answer)
    if json_file == STANDARD_OUTPUT:
        return
    if follow:
        # What it says is that a file is not there yet, or no more.
        subprocess.run(["tail", "-n", "+1", "-F", str(path)], stderr=subprocess.DEVNULL, check=False)
        return
    to = reader(json_file)
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            to.print(line.rstrip("\n"), highlight=False)


def jobs_collect(name: JobArgument, json_file: JsonOption = None) -> None:
    """Bring together what the tasks of a job found: a sweep's table and page, or means over seeds."""
    from gepa_loop.jobs.folder import job_of
    from gepa_loop.jobs.gather import gather_sweep, over_runs
    from gepa_loop.session import shown
    from gepa_loop.show.jobs import seeds_table
    from gepa_loop.show.sweep_report import write_sweep_report
    from gepa_loop.show.tables import sweep_table

    record, to = job_of(name), reader(json_file)
    answer: CollectedAnswer = {
        **head("jobs collect"),
        "job": name,
        "run_command": record["run_command"],
        "seeds": [],
        "missing": [],
        "over_seeds": {},
        "sweep": None,
    }
    if record["run_command"] == "sweep":
        path = Path.cwd() / "runs" / record["tasks"][0]["run"]
        result = gather_sweep(path)
        report = write_sweep_report(path)
        answer |= {"seeds": result["seeds"], "sweep": result}
        give(json_file, answer)
        to.print(sweep_table(result))
        to.print(f"report: {shown(report)}", highlight=False)
        say_next("runs", "cells", path.name, to=to)
        return
    done, missing = _finished(name, record, to)
    found = over_runs(record["run_command"], done)
    over = {key: one.as_dict() for key, one in found.items()}
    answer |= {"seeds": sorted(done), "missing": missing, "over_seeds": over}
    give(json_file, answer)
    if missing:
        count = f"{len(missing)} of {len(record['tasks'])} runs are not finished and not counted"
        warn([f"{count}: {', '.join(missing)}"], to)
    to.print(seeds_table(record["run_command"], found, len(done)))
    say_next("runs", to=to)


def _finished(name: str, record: JobRecord, to: Terminal) -> tuple[dict[int, Path], list[str]]:
    """The finished runs of a job by their seeds, and the names of the others: one that is to go on has the result of before."""
    from gepa_loop.jobs.folder import task_id
    from gepa_loop.jobs.gather import result_file
    from gepa_loop.jobs.slurm import is_silent, states

    place, tasks = Path.cwd() / "runs", record["tasks"]
    told, why = states(record["job_ids"][-1], len(tasks))
    if is_silent(why):
        warn([f"{why}; a run that is to go on is counted with what it found before"], to)
    going = {
        number for number in range(len(tasks)) if (one := told.get(task_id(record, number))) and one.live
    }
    # One without a seed of its own stands alone.
    runs = {one["seed"] or 0: place / one["run"] for one in tasks}
    done = {
        seed: run
        for number, (seed, run) in enumerate(runs.items())
        if number not in going and result_file(record["run_command"], run).exists()
    }
    if not done:
        raise RunDirectoryError(
            f"job {name}: no run is finished", f"See how far they are: gepa-loop jobs status {name}"
        )
    return done, [run.name for seed, run in runs.items() if seed not in done]

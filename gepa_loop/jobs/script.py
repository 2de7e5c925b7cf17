"""The script of a job, made with submitit.

submitit itself would send a pickled function and have a process on the node load it from the folder of the logs. Here the job's command is
the command line that a person types, so that nothing is unpickled, and what runs can be read in the script: of submitit it is the part
that knows sbatch which is used, `_make_sbatch_string`, and its names of files.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.errors import ConfigError
from gepa_loop.jobs.folder import no_submitit
from gepa_loop.outside.redact import keys_within

WARNING = "TERM@60"
"""A minute before the time ends, SIGTERM to what `srun` started: the run is saved. (Slurm looks once a minute, so that it may come up to a
minute earlier.)"""

RESTARTS = 100
"""After which a job no longer goes back into the queue by itself: it has too little time to come anywhere."""

# $? is that of srun: 143 of a process that SIGTERM ended. Nobody cancelled the job where it still runs: `scancel` ends this shell as well,
# and so does a preemption after which Slurm itself puts it back into the queue. It has to be put back here where its time ended, or where
# a preemption gave it time to end by itself. A task of an array is named by the array and its number, since SLURM_JOB_ID of one of them
# is that of the whole array.
TEARDOWN = f"""code=$?
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
job=${{job:-$SLURM_JOB_ID}}
if [ $code = 143 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {RESTARTS} ] && [ "$(squeue -h -j "$job" -o %T)" = RUNNING ]; then
  echo "back into the queue; the run goes on where it stopped"
  scontrol requeue "$job"
fi
exit $code"""


@dataclass(frozen=True)
class Node:
    """Where and how a job runs."""

    options: Mapping[str, str | bool]
    """Of sbatch, with underscores; True is one without a value."""
    prefix: Sequence[str] = ()
    """What the command is run by, as a container; without it this Python runs it."""
    setup: Sequence[str] = ()
    """Lines of shell that come before."""


@dataclass(frozen=True)
class Work:
    """What a job does."""

    name: str
    folder: Path
    """Of its logs."""
    words: Sequence[str]
    """The command and what stands behind it."""
    tasks: Sequence[Sequence[str]] = ()
    """What stands behind that in each task of an array; none is no array."""


def script_text(work: Work, node: Node) -> str:
    """The script, which runs in the working directory.

    Raises:
        ConfigError: The value of a variable that holds a key stands in it.
        EnvironmentFault: submitit is not installed.
    """
    try:
        from submitit.slurm.slurm import _make_sbatch_string
    except ImportError as error:
        raise no_submitit(error) from None
    own = inspect.signature(_make_sbatch_string).parameters
    # What submitit would set by itself: five minutes, and an account's key of its own name.
    known = {"time": None, "wckey": None, **{key: value for key, value in node.options.items() if key in own}}
    others = {key: value for key, value in node.options.items() if key not in own}
    srun = ["--open-mode=append"]
    if "cpus_per_task" in node.options:  # since Slurm 22.05 srun does not take it over from sbatch
        srun.append(f"--cpus-per-task={node.options['cpus_per_task']}")
    start = [*node.prefix, "gepa-loop"] if node.prefix else [sys.executable, "-P", "-m", "gepa_loop"]
    command = shlex.join([*start, *work.words])
    text: str = _make_sbatch_string(
        command=f'{command} "$@"' if work.tasks else command,
        folder=str(work.folder).replace("%", "%%"),
        job_name=work.name,
        setup=[*node.setup, *_cases(work.tasks)],
        teardown=TEARDOWN.split("\n"),
        stderr_to_stdout=True,
        map_count=len(work.tasks) or None,
        additional_parameters={"chdir": str(Path.cwd()), "requeue": True, "signal": WARNING, **others},
        srun_args=srun,
        **known,
    )
    if names := keys_within(text, os.environ):
        raise ConfigError(
            f"what {', '.join(names)} holds would stand in the job's script",
            "Leave it in the environment, which a job has from the shell that submits it; a variable that holds no key needs another name.",
        )
    return text + "\n"


def _cases(tasks: Sequence[Sequence[str]]) -> list[str]:
    if not tasks:
        return []
    cases = [f"{number}) set -- {shlex.join(words)} ;;" for number, words in enumerate(tasks)]
    return ["case $SLURM_ARRAY_TASK_ID in", *cases, "esac"]

"""What `submit` is asked for: options of Slurm, tasks of an array, the command that is to run, checked before anything waits for an hour."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gepa_loop.errors import ConfigError
from gepa_loop.jobs.records import COMMANDS, TaskRecord
from gepa_loop.outside.redact import key_in, told

if TYPE_CHECKING:
    from gepa_loop.config.whole import Config

SET_HERE = {
    "array": "--array says it",
    "chdir": "a job runs where it was submitted",
    "error": "`gepa-loop jobs logs` knows where the log is",
    "export": "a job has the environment of the shell that submits it, and a value given here would stand in the script",
    "export_file": "a job has the environment of the shell that submits it",
    "job_name": "it is the run's; see --run-name",
    "ntasks": "one process makes a run",
    "ntasks_per_node": "one process makes a run",
    "open_mode": "a job that goes on appends to its log",
    "output": "`gepa-loop jobs logs` knows where the log is",
    "setup": "see --setup",
    "wrap": "the script is made here",
}
"""Options of sbatch that are not the user's -> why."""

INSIDE = {
    "additional_parameters",
    "folder",
    "command",
    "map_count",
    "num_gpus",
    "srun_args",
    "stderr_to_stdout",
    "teardown",
    "use_srun",
    "signal_delay_s",
}
"""Arguments of submitit's that are no options of sbatch."""

EXAMPLE = "Example: --slurm partition=gpu,gpus=1,time=04:00:00"


def slurm_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """`key=value,key=value` as options of sbatch, their names with underscores; `key=true` is one without a value.

    A comma before a word without `=` belongs to the value, as in `nodelist=n1,n2`.

    Raises:
        ConfigError: One is not of this form, or is not the user's to set.
    """
    found: dict[str, str | bool] = {}
    for text in texts:
        parts: list[str] = []
        for part in text.split(","):
            if parts and "=" not in part:
                parts[-1] += f",{part}"
            else:
                parts.append(part)
        for part in parts:
            key, equals, value = part.partition("=")
            key, value = key.strip().lstrip("-").replace("-", "_"), value.strip()
            if not equals or not value or not re.fullmatch(r"[a-z][a-z0-9_]*", key):
                raise ConfigError(f"--slurm {text}: {part!r} is not of the form key=value", EXAMPLE)
            if not value.isprintable() or "'" in value:
                raise ConfigError(f"--slurm {text}: {value!r} cannot stand in a script", EXAMPLE)
            if key in SET_HERE or key in INSIDE:
                why = SET_HERE.get(key, "sbatch has no such option")
                raise ConfigError(f"--slurm {text}: {key} cannot be set: {why}", EXAMPLE)
            if key == "signal" and not re.fullmatch(r"([BR]:)?(SIG)?TERM@\d+", value, re.IGNORECASE):
                raise ConfigError(
                    f"--slurm {text}: signal = {value}: a run saves itself at SIGTERM",
                    "Example: --slurm signal=TERM@120, two minutes before its time ends",
                )
            if key == "nodes" and value != "1":
                raise ConfigError(
                    f"--slurm {text}: nodes = {value}: a run is made on one node", "Leave it out."
                )
            found["gpus_per_node" if key == "gpus" else key] = True if value == "true" else value
    return found


def check_gpus(options: Mapping[str, str | bool], config: Config) -> None:
    """Raise ConfigError where a job is given fewer GPUs than its workers have."""
    given, wanted = str(options.get("gpus_per_node", "")), config.cluster.gpus
    count = given.rpartition(":")[2]
    if config.cluster.workers and count.isdecimal() and int(count) < wanted:
        raise ConfigError(
            f"--slurm gpus={given}: cluster.workers = {config.cluster.workers} with {config.cluster.gpus_per_worker} GPUs each need {wanted}",
            "Ask for more GPUs, or for fewer workers.",
        )


def setup_lines(lines: Sequence[str]) -> list[str]:
    """Lines of shell for the script; ConfigError where one sets a key, which would stand in it."""
    for line in lines:
        _check_keys("--setup", line)
    return list(lines)


def prefix_words(prefix: str) -> list[str]:
    """The words of a command that begins the job's; ConfigError where one is a key, or a quote is not closed."""
    _check_keys("--prefix", prefix)
    try:
        return shlex.split(prefix)
    except ValueError as error:
        raise ConfigError(
            f"--prefix {prefix}: {str(error)[0].lower()}{str(error)[1:]}", "Close its quotes."
        ) from None


def _check_keys(source: str, text: str) -> None:
    if (name := key_in(text)) is not None:
        raise ConfigError(f"{source}: {name}: a key would stand in the script", KEYS)


KEYS = "Set it in the shell that submits: a job has its environment."


def seeds_of(array: str | None, command: str) -> int | None:
    """How many seeds an array has; None where there is none.

    Raises:
        ConfigError: It is not of the form seeds=N, or a sweep's.
    """
    if array is None:
        return None
    key, _, number = array.partition("=")
    if key.strip() != "seeds" or not number.strip().isdecimal() or int(number) < 1:
        raise ConfigError(f"--array {array}: not of the form seeds=N", "Example: --array seeds=8")
    if command == "sweep":
        raise ConfigError(
            f"--array {array}: a sweep is an array of its cells and seeds as it is",
            f"Say how many seeds each cell has: --seeds {number.strip()}",
        )
    return int(number)


@dataclass(frozen=True)
class Checked:
    """A command that was read and checked as it will be where it runs, as far as that needs no model."""

    command: str
    words: list[str]
    """What stands behind it."""
    config: Config
    source: str
    """What its configuration is called."""
    cells: list[tuple[str, int]]
    """Of a sweep: its cells and seeds."""

    def name(self, given: str | None) -> str:
        """Of its run: what was given, else made of the command, the config and all that it says."""
        from gepa_loop.run.identity import fingerprint
        from gepa_loop.session import run_path

        whole = [self.command, self.words, self.config.model_dump(mode="json"), self.cells]
        return run_path(given or f"{self.command}-{self.source}-{fingerprint(whole)[:6]}").name

    def tasks(self, name: str, seeds: int | None) -> list[TaskRecord]:
        """What each task makes."""
        from gepa_loop.stages.grid import cell_folder

        if self.command == "sweep":
            folders = [(seed, cell_folder(cell, seed)) for cell, seed in self.cells]
            return [
                {"run": name, "seed": seed, "cell": folder, "words": ["--run-name", name, "--cell", folder]}
                for seed, folder in folders
            ]
        if seeds is None:
            return [{"run": name, "seed": None, "cell": None, "words": ["--run-name", name]}]
        first = self.config.seed
        return [
            {
                "run": f"{name}-s{seed}",
                "seed": seed,
                "cell": None,
                "words": ["--run-name", f"{name}-s{seed}", "--set", f"seed={seed}"],
            }
            for seed in range(first, first + seeds)
        ]


def checked(context: typer.Context, command: str, words: Sequence[str]) -> Checked:
    """Read a command line of one of `COMMANDS`, load its configuration and its prompt.

    Raises:
        ConfigError: What that command would raise of its flags, keys, values and prompt; or it cannot be a job.
        click.UsageError: Of its flags.
    """
    if command not in COMMANDS:
        raise ConfigError(f"submit {command}: it makes no run", f"Commands that do: {', '.join(COMMANDS)}.")
    _check_keys("submit", " ".join(words))
    if told(words) != shlex.join(words):
        raise ConfigError("submit: a key or a password would stand in the script", KEYS)
    assert context.parent is not None  # it is the program itself
    group: Any = context.parent.command
    inner = group.get_command(context.parent, command).make_context(
        command, list(words), parent=context.parent
    )
    given: Mapping[str, Any] = inner.params
    if given.get("fresh"):
        raise ConfigError(
            "--fresh: a job that goes back into the queue would begin again each time",
            "Choose another --run-name, or delete the run before with `gepa-loop runs remove`.",
        )
    if given.get("cell"):
        raise ConfigError(f"--cell {given['cell']}: a sweep is submitted with all its cells", "Leave it out.")
    return _loaded(command, list(words), given)


def _loaded(command: str, words: list[str], given: Mapping[str, Any]) -> Checked:
    from gepa_loop.cli.options import with_setting
    from gepa_loop.config.load import load_config
    from gepa_loop.workers.opening import check_workers

    race = given.get("race")
    sets = with_setting(given["sets"], "race.on", None if race is None else str(race.value == "on").lower())
    for key, name in (
        ("track.kind", "track"),
        ("loop.rounds", "rounds"),
        ("distill.questions", "questions"),
        ("cluster.workers", "workers"),
    ):
        sets = with_setting(sets, key, given.get(name))
    source, cells = given["config"], []
    if command == "sweep":
        from gepa_loop.cli.sweeps import grid_of
        from gepa_loop.config.grids import cell_configs, grid_source

        grid = grid_of(given["preset"], given["line"])
        source = grid_source(grid, source)
        cells = list(cell_configs(grid, source, sets, given["seeds"]))
    config = load_config(source, sets)
    check_workers(config, cells=command == "sweep", own=False)
    if command == "evaluate":
        from gepa_loop.serving.finished import student_at
        from gepa_loop.stages.score import check_split, subject

        check_split(given["split"], "--split")
        subject(given["prompt"], student_at(given["adapter"]) if given["adapter"] else None)
    elif given.get("prompt") is not None:
        from gepa_loop.task.prompts import read_prompt

        read_prompt(given["prompt"])
    return Checked(command, words, config, Path(source).stem if source else "default", cells)

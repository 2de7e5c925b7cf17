"""A finished run as a value: its student, the prompt that it was distilled from, and what it scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, GepaLoopError, RunDirectoryError
from gepa_loop.outside.files import found_at, parse_json, read_file
from gepa_loop.run.files import read_json
from gepa_loop.run.find import LAST, run_folder
from gepa_loop.run.identity import read_manifest
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.canary import TEXTS
from gepa_loop.stages.reached import unfinished
from gepa_loop.task.items import load_task
from gepa_loop.task.prompts import Candidate, read_prompt
from gepa_loop.task.records import Messages

LONGER = 4
"""Times `sampling.max_tokens` that a reply may have: a student ends its own, the bare model says more."""

ADAPTER = "adapter_config.json"
"""In a folder that is an adapter."""

LARGEST = 2**26
"""Bytes of the largest result.json."""


@dataclass(frozen=True)
class Finished:
    """A run of `distill` or `loop` that has a student."""

    path: Path
    command: str
    config: Config
    day: str
    """What chat templates take for today."""
    prompt: Candidate
    adapter: Path
    result: Mapping[str, Any]
    """The content of result.json."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def sampling(self, temperature: float | None = None, max_tokens: int | None = None) -> Sampling:
        """How replies are drawn: where nobody says otherwise as the run was decided, and with room for the bare model."""
        return Sampling(
            self.config.evaluate.temperature if temperature is None else temperature,
            LONGER * self.config.sampling.max_tokens if max_tokens is None else max_tokens,
        )


def has_student(folder: Path) -> bool:
    """Whether a run is finished and has a student, as far as its files tell without a look at their checks."""
    file = folder / "result.json"
    if not file.exists():
        return False
    try:
        result = parse_json(read_file(file, LARGEST))
    except (OSError, ValueError):
        return False
    if not isinstance(result, dict):
        return False
    return isinstance(result.get("adapter"), str) or any(folder.glob(f"distill/*/adapter/{ADAPTER}"))


def read_finished(run: str) -> Finished:
    """A run with its student.

    Args:
        run: A name below ./runs, the path of a run directory, or `last`.

    Raises:
        ConfigError: There is no such run.
        RunDirectoryError: It is not finished, has no student, or was written by another version.
    """
    path = run_folder(run, has_student, "Runs with a student")
    identity = read_manifest(path)["identity"]
    command = str(identity.get("command", ""))
    if command not in ("distill", "loop"):
        raise ConfigError(
            f"run {path.name} is one of `{command}`, which makes no student", "`distill` and `loop` do."
        )
    if not (path / "result.json").exists():
        raise unfinished(path)
    result: Mapping[str, Any] = read_json(path / "result.json")
    if command == "loop":
        adapter, prompt = result["adapter"], path / result["prompt"]
        if adapter is None:
            raise RunDirectoryError(
                f"run {path.name} has no student: no round has a winner",
                f"Its report.html says why. `gepa-loop distill --prompt {prompt}` trains a student of its best prompt.",
            )
    else:
        id_ = str(identity["prompts"])
        adapter, prompt = f"distill/{id_}/adapter", path / "prompts" / f"{id_}.txt"
    candidate = read_prompt(prompt)
    if candidate.id != prompt.stem:
        raise RunDirectoryError(
            f"{prompt}: it is not as it was written: its text has the id {candidate.id}",
            "Put the run's prompt back, or run it again with --fresh.",
        )
    return Finished(
        path, command, _config(path), str(identity["model.date"]), candidate, path / adapter, result
    )


def student_at(place: str | Path) -> Path:
    """The folder of an adapter, or where there is none, of the student of a run: a name below ./runs, the path of its folder, or `last`.

    Raises:
        ConfigError: It is a run of a command that makes no student.
        RunDirectoryError: The run is not finished, has no student, or was written by another version.
    """
    folder = Path(place)
    runs = (Path("runs") / folder, folder)
    is_run = str(place) == LAST or any(found_at(one / "manifest.json") for one in runs)
    return read_finished(str(place)).adapter if is_run and not found_at(folder / ADAPTER) else folder


def _config(path: Path) -> Config:
    values: dict[str, Any] = dict(read_json(path / "config.json"))
    for key in ("schema_version", "check"):
        values.pop(key, None)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise RunDirectoryError(
            f"{path / 'config.json'}: written by another version of gepa-loop: {error.errors()[0]['msg']}",
            "Use that version, or run it again.",
        ) from None


def questions_of(finished: Finished) -> tuple[list[Messages], str]:
    """Questions of a run's task, those of `test` first, and why they are others where the task cannot be had any more."""
    try:
        task = load_task(finished.config.task, finished.config.seed, finished.config.loop.rounds)
    except GepaLoopError as error:
        examples = [str(one["question"]) for one in finished.result.get("examples", [])]
        return [
            (("user", text),) for text in examples or TEXTS
        ], f"the task's items cannot be had, so others are asked: {error}"
    return [item.messages for item in task.splits["test"]], ""

"""From what a Python program passes to what a command's flags say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gepa_loop.command import Flags
from gepa_loop.config.document import toml_text
from gepa_loop.errors import ConfigError, PromptError
from gepa_loop.outside.files import found_at, looks_like_path
from gepa_loop.task.own import Task
from gepa_loop.task.prompts import Candidate, candidate, read_prompt

Config = str | Path | Mapping[str, Any] | None
"""A preset's name, the path of a TOML file, or tables as such a file holds them; None is `gepa-loop.toml` of the working directory, else
the preset `demo`."""

Prompt = str | Path
"""A text. A path, or a text that looks like one as `optimize.seed_prompt` has it, is a file."""


def flags_of(
    config: Config, run_name: str | None, fresh: bool, task: Task | str | None, settings: Mapping[str, Any]
) -> Flags:
    """A command's flags.

    Args:
        config: As `Config` says.
        run_name: Of the folder below runs/.
        fresh: Delete an earlier run of this name.
        task: An object, or `file.py:Name`.
        settings: Values by their keys, with two underscores for a dot.

    Raises:
        ConfigError: A value cannot be one of the configuration.
    """
    if isinstance(config, Path):
        config = str(config)
    return Flags(config, [*_of_task(task), *_sets(settings)], run_name, fresh=fresh)


def _of_task(task: Task | str | None) -> list[str]:
    """An object is named for people alone: nobody imports it by that name."""
    if task is None:
        return []
    name = task if isinstance(task, str) else f"{type(task).__module__}:{type(task).__qualname__}"
    return ['task.kind="python"', f"task.name={toml_text(name)}"]


def _sets(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        key = name.replace("__", ".")
        try:
            yield f"{key}={toml_text(str(value) if isinstance(value, Path) else value)}"
        except ValueError as error:
            raise ConfigError(
                f"{name} = {value!r}: {error}", "Leave out what is to have its default."
            ) from None


def object_of(task: Task | str | None) -> Task | None:
    """The object that was passed; a class is not one yet.

    Raises:
        ConfigError: It is neither an object nor a name.
    """
    if task is None or isinstance(task, str):
        return None
    given: object = task
    if not isinstance(given, Task):
        made = " Make one: Name()." if isinstance(given, type) else ""
        raise ConfigError(
            f"task = {given!r}: no object of a class that extends gepa_loop.Task, and no file.py:Name", made
        )
    return given


def prompt_of(prompt: Prompt) -> tuple[str, Candidate]:
    """A prompt, and where it came from.

    Raises:
        PromptError: It is empty, or cannot be read.
    """
    if isinstance(prompt, Path):
        return str(prompt), read_prompt(prompt)
    if not looks_like_path(prompt):
        return "the call", candidate(prompt, "prompt")
    if not found_at(Path(prompt), Path.exists):
        raise PromptError(
            f"prompt = {prompt!r}: there is no such file",
            "A word with a slash or a file extension, and a line that ends in .txt or .md, name a file. If it is meant as a text, end "
            "it with a new line, which is dropped.",
        )
    return prompt, read_prompt(Path(prompt))


def seeded(prompt: Prompt | None) -> dict[str, str]:
    """Settings by which a search starts from a prompt."""
    if prompt is None:
        return {}
    if isinstance(prompt, Path):
        return {"optimize__seed_prompt_file": str(prompt)}
    return {"optimize__seed_prompt": prompt}

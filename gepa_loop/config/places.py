"""File names of a configuration: where they start, and whether the files are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gepa_loop.config.layers import read_text
from gepa_loop.config.tables import FILES, TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError
from gepa_loop.outside.files import found_at, looks_like_path


def resolve_paths(config: Config, cwd: Path, origin: Mapping[str, str]) -> tuple[Config, list[ConfigError]]:
    """Make file names absolute: those of a TOML file start at its folder, others at the working directory. And an error for each file
    that is not there."""
    faults: list[ConfigError] = []

    def place(value: str, key: str) -> Path:
        label = origin.get(key, "")
        return (Path(label).parent if label.endswith(".toml") else cwd) / value

    def absolute(value: str, key: str, there: Callable[[Path], bool] = Path.is_file) -> str:
        path = place(value, key)
        return str(path.resolve()) if found_at(path, there) else value

    optimize = config.optimize
    for name, hint in (
        (
            "seed_prompt",
            "A word with a slash or a file extension, and a line that ends in .txt or .md, name a file. To give one as a text, put "
            "it into a file and name that in optimize.seed_prompt_file, or write a space behind it, which is dropped.",
        ),
        ("seed_prompt_file", "A text goes into optimize.seed_prompt."),
    ):
        value, key = getattr(optimize, name), f"optimize.{name}"
        if value is None or (name == "seed_prompt" and not looks_like_path(value)):
            continue
        if not found_at(path := place(value, key)):
            faults.append(
                ConfigError(f"{origin.get(key, '')}: {key} = {value!r}: there is no such file", hint)
            )
            continue
        optimize = optimize.model_copy(update={"seed_prompt": None, "seed_prompt_file": str(path.resolve())})

    def judged(task: TaskConfig) -> TaskConfig:
        key = "task.judge.rubric"
        if task.judge is None or not looks_like_path(rubric := task.judge.rubric):
            return task
        path = place(rubric, key)
        if not found_at(path):
            hint = (
                "A word with a slash or a file extension, and a line that ends in .txt or .md, name a file."
            )
            faults.append(
                ConfigError(f"{origin.get(key, '')}: {key} = {rubric!r}: there is no such file", hint)
            )
            return task
        if not (text := read_text(path).strip()):
            faults.append(ConfigError(f"{path}: the rubric is empty", "Write into it what a good reply is."))
            return task
        return task.model_copy(update={"judge": task.judge.model_copy(update={"rubric": text})})

    def named(value: str, key: str) -> str:
        """Of `file.py:Name` the file."""
        file, _, name = value.rpartition(":")
        return f"{absolute(file, key)}:{name}" if file.endswith(".py") else value

    def located(task: TaskConfig, key: str) -> TaskConfig:
        if task.scorer is not None:
            task = task.model_copy(update={"scorer": named(task.scorer, f"{key}.scorer")})
        if task.kind == "python":
            return task.model_copy(update={"name": named(task.name, f"{key}.name")})
        there = {**dict.fromkeys(FILES, Path.is_file), "hf": Path.is_dir}.get(task.kind)
        if there is None:
            return task
        return task.model_copy(update={"name": absolute(task.name, f"{key}.name", there)})

    distill = config.distill
    if distill.control is not None:
        distill = distill.model_copy(update={"control": located(distill.control, "distill.control")})
    teacher = config.teacher
    if teacher.kind == "adapter":
        teacher = teacher.model_copy(update={"path": absolute(teacher.path, "teacher.path", Path.is_dir)})
    task = judged(located(config.task, "task"))
    found = {"optimize": optimize, "task": task, "distill": distill, "teacher": teacher}
    return config.model_copy(update=found), faults

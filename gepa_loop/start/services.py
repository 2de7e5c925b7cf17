"""Whether who is asked during a run can be: models behind APIs, and a tracker. Nobody is asked, and no code is run."""

from __future__ import annotations

from collections.abc import Iterator

from gepa_loop.config.whole import Config
from gepa_loop.start.findings import Finding
from gepa_loop.start.reach import find_tracker, need_key


def reflection(config: Config) -> Iterator[Finding]:
    """Who writes prompts; raises as `need_key` does."""
    from gepa_loop.stages.search import proposer_name

    settings = config.optimize.reflection
    name = proposer_name(settings)
    if name == "offline":
        why = "ANTHROPIC_API_KEY is not set: " if settings.model == "auto" else ""
        yield Finding(
            "reflection",
            "note",
            f"{why}prompts are written offline, from section texts and worked examples",
            "A model writes better ones: set the key, or optimize.reflection.model to any litellm model with its key.",
        )
        return
    need_key("optimize.reflection", name)
    yield Finding("reflection", "ok", f"{name}: its key is set; nobody was asked")


def questions(config: Config) -> Iterator[Finding]:
    """Who writes questions for a distillation, where some are to be written.

    Raises:
        ConfigError: There is no reflection model. That it has no key `reflection` says.
    """
    from gepa_loop.stages.questions import named_writer

    wanted = config.distill.questions
    if wanted:
        name = named_writer(config.distill, config.optimize.reflection)
        by = "the model itself" if name == "model" else name
        yield Finding("questions", "ok", f"{wanted:,} for train, to be written by {by}")


def judge(config: Config) -> Iterator[Finding]:
    """Who scores replies; raises as `need_key` does."""
    if config.task.judge is not None:
        need_key("task.judge", config.task.judge.model)
        yield Finding("judge", "ok", f"{config.task.judge.model}: its key is set; nobody was asked")


def tracker(config: Config) -> Iterator[Finding]:
    """Who follows a run; raises as `find_tracker` does."""
    kind = config.track.kind
    if kind is not None:
        file = find_tracker(kind)
        yield Finding("track", "ok", f"{kind} is installed" if file is None else f"{file} would be run")

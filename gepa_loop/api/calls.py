"""The commands that make a run, as functions of a Python program. They take the same way as `gepa-loop`'s own.

All take `config` and settings: a keyword is a key of the configuration with two underscores for each dot, `distill__lr=1e-4`; with no
config `gepa-loop.toml` of the working directory is taken, else the preset `demo`, and the environment (`GEPA_LOOP_DISTILL__LR`) stands between
both. Runs lie below ./runs; the same call continues one wherever it stopped, and reads one that is finished.

All raise `GepaLoopError`, of which `Interrupted` is a KeyboardInterrupt as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gepa_loop.api.guard import errors_of
from gepa_loop.api.run import Run, load
from gepa_loop.api.settings import Config, Prompt, flags_of, object_of, prompt_of, seeded
from gepa_loop.errors import ConfigError
from gepa_loop.program import tell, work
from gepa_loop.show.caller import MUTE, PROGRAM, Caller
from gepa_loop.task.own import Task

Pair = tuple[Prompt | None, "str | Path | Run | None"]
"""A prompt and an adapter, either None."""

ENDED = "interrupted; what was finished is saved. The same call continues."


def optimize(
    config: Config = None,
    *,
    prompt: Prompt | None = None,
    task: Task | str | None = None,
    run_name: str | None = None,
    fresh: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Evolve prompts with GEPA; `.prompt` of the run is the best one.

    Args:
        config: A preset's name, the path of a TOML file, or tables as such a file holds them.
        prompt: Where the search starts, a text or a file; None is the config's.
        task: An object of a class that extends `Task`, or `file.py:Name`; None is the config's.
        run_name: Folder below ./runs; None makes one from the config.
        fresh: Delete an earlier run of this name instead of continuing it.
        quiet: Print nothing.
        settings: Keys of the configuration, as `distill__lr=1e-4`.
    """
    own, caller = object_of(task), _caller(quiet)
    with errors_of(ENDED):
        flags = flags_of(config, run_name, fresh, task, {**seeded(prompt), **settings})
        outcome = work.optimize(flags, own, caller)
        tell.tell_optimized(outcome, caller.results)
    return load(outcome.path)


def distill(
    config: Config = None,
    *,
    prompt: Prompt,
    task: Task | str | None = None,
    run_name: str | None = None,
    fresh: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Distill a prompt into a student, a LoRA adapter; the arguments are those of `optimize`.

    Args:
        prompt: The teacher's, a text or a file.
    """
    own, caller = object_of(task), _caller(quiet)
    with errors_of(ENDED):
        source, chosen = prompt_of(prompt)
        flags = flags_of(config, run_name, fresh, task, settings)
        outcome = work.distill(flags, chosen, source, own, caller)
        tell.tell_distilled(outcome, caller.results)
    return load(outcome.path)


def loop(
    config: Config = None,
    *,
    prompt: Prompt | None = None,
    task: Task | str | None = None,
    run_name: str | None = None,
    fresh: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Search prompts, distill each, keep the best student, and go on from it (`loop__rounds=3`); the arguments are those of `optimize`."""
    own, caller = object_of(task), _caller(quiet)
    with errors_of(ENDED):
        flags = flags_of(config, run_name, fresh, task, {**seeded(prompt), **settings})
        outcome = work.loop(flags, own, caller)
        tell.tell_looped(outcome, caller.results)
    return load(outcome.path)


def evaluate(
    config: Config = None,
    *,
    prompt: Prompt | None = None,
    adapter: str | Path | Run | None = None,
    split: str = "select",
    against: Pair | None = None,
    task: Task | str | None = None,
    run_name: str | None = None,
    fresh: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Score a prompt and an adapter on a split, alone or paired against a second pair; the other arguments are those of `optimize`.

    Args:
        prompt: A text or a file; None is no prompt.
        adapter: An adapter's folder, or a run with a student: it, its name below ./runs, its folder or `last`; None is the bare model.
        split: `train`, `pareto`, `race`, `select` or `test`.
        against: A second prompt and adapter; `(None, None)` is the bare model.
    """
    from gepa_loop.stages.score import check_split

    own, caller = object_of(task), _caller(quiet)
    with errors_of(ENDED):
        check_split(split, "split")
        pairs: Sequence[Pair] = [(prompt, adapter), *([] if against is None else [against])]
        subjects = [_subject(*pair) for pair in pairs]
        flags = flags_of(config, run_name, fresh, task, settings)
        outcome = work.evaluate(flags, subjects, split, own, caller)
        tell.tell_evaluated(outcome, [one.label for one in subjects], caller.results)
    return load(outcome.path)


def _subject(prompt: Prompt | None, adapter: str | Path | Run | None) -> Any:
    from gepa_loop.model.lora.files import read_adapter
    from gepa_loop.serving.finished import student_at
    from gepa_loop.stages.score import Subject

    folder = None if adapter is None else adapter.adapter if isinstance(adapter, Run) else student_at(adapter)
    if folder is None and adapter is not None:
        raise ConfigError(f"adapter = {adapter!r}: this run has no student", "Its report says why.")
    source, chosen = (None, None) if prompt is None else prompt_of(prompt)
    label = f"{folder or 'base'}, {source or 'no prompt'}"
    return Subject(chosen, None if folder is None else read_adapter(folder), label, folder)


def _caller(quiet: bool) -> Caller:
    return MUTE if quiet else PROGRAM

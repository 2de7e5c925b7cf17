"""What a command says to a program: one JSON object, beside or in place of what a person reads."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.errors import ConfigError
from gepa_loop.show.caller import ASIDE, PERSON, Caller
from gepa_loop.show.terminal import Terminal, err, out

if TYPE_CHECKING:
    from gepa_loop.cli.records.begun import FindingAnswer
    from gepa_loop.cli.records.made import DryAnswer, PlanAnswer
    from gepa_loop.cli.records.whole import Answer, RunAnswer
    from gepa_loop.scores.records import LooksRecord
    from gepa_loop.start.doctor import Finding
    from gepa_loop.start.plan import DryRun, Plan

STANDARD_OUTPUT = "-"


def check_target(json_file: str | None) -> str | None:
    """Refuse a file for the object that cannot be written, before anything is made; what else goes on as it is.

    Raises:
        ConfigError: It is a folder, a pipe or a device, or its own folder cannot be made or written.
    """
    if json_file is None or json_file == STANDARD_OUTPUT:
        return json_file
    path = Path(json_file).absolute()
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise ConfigError(f"--json {json_file}: it is {what}", "Name a file, or - for standard output.")
    folder = next(place for place in path.parents if place.exists())
    if not folder.is_dir():
        raise ConfigError(f"--json {json_file}: {folder} is no folder", "Name another file.")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ConfigError(f"--json {json_file}: {folder} cannot be written", "Name another file.")
    return json_file


def spared(argv: Sequence[str]) -> AbstractContextManager[object]:
    """Keeps standard output for the object where it goes there: what a user's own code prints goes aside, as what a person reads does."""
    asked = ("--json", STANDARD_OUTPUT) in itertools.pairwise(argv) or f"--json={STANDARD_OUTPUT}" in argv
    return redirect_stdout(sys.stderr) if asked else nullcontext()


def reader(json_file: str | None) -> Terminal:
    """Where a person reads: standard error where standard output holds the object."""
    return err if json_file == STANDARD_OUTPUT else out


def caller_of(json_file: str | None, quiet: bool, command: str | None = None) -> Caller:
    """The same of a command that makes a run, or would: its dry run writes an object, too, named after `command` where that is another's."""
    caller = ASIDE if json_file == STANDARD_OUTPUT else PERSON
    caller = replace(caller, planned=lambda found: give(json_file, _dry(found, command or found.command)))
    return caller.quiet if quiet else caller


def head(command: str) -> Answer:
    """What every object begins with."""
    from gepa_loop.run.files import SCHEMA_VERSION

    return {"schema_version": SCHEMA_VERSION, "command": command}


def run_head(command: str, path: Path) -> RunAnswer:
    """That of a command that made a run."""
    whole = path.resolve()
    return {**head(command), "run": whole.name, "path": str(whole)}


def give(json_file: str | None, answer: Mapping[str, object]) -> None:
    """Write an object to a file or to standard output; nothing where nobody asks for it.

    Raises:
        EnvironmentFault: The file cannot be written.
    """
    if json_file is None:
        return
    text = json.dumps(answer, indent=2, allow_nan=False, default=str) + "\n"
    if json_file == STANDARD_OUTPUT:
        with open(1, "w", encoding="ascii", closefd=False) as file:
            file.write(text)
        return
    from gepa_loop.run.files import write_text

    write_text(Path(json_file), text)


def _dry(found: DryRun, command: str) -> DryAnswer:
    made = found.plan
    return {
        **run_head(command, found.path),
        "dry_run": found.command,
        "facts": list(found.facts),
        "warnings": list(found.warnings),
        "plan": None if made is None else _plan(made),
    }


def _plan(made: Plan) -> PlanAnswer:
    pace = made.pace
    return {
        "stages": [
            {"stage": s.name, "rollouts": s.rollouts, "tokens": s.tokens, "seconds": s.seconds, "usd": s.usd}
            for s in made.stages
        ],
        "seconds": made.seconds,
        "usd": made.usd,
        "device": made.device,
        "step": None
        if pace is None
        else {
            "seconds": pace.seconds,
            "first": pace.first,
            "peak_gib": pace.peak_gib,
            "source": pace.source,
            "sampling": pace.sampling,
        },
        "workers": made.workers,
        "gpus": made.gpus,
        "on_paper": [
            {"workers": one.workers, "gpus": one.gpus, "seconds": one.seconds, "limit": one.limit}
            for one in made.on_paper
        ],
        "memory_gib": dict(made.memory),
        "notes": list(made.lines),
        "worth": made.worth,
    }


def looks_of(path: Path) -> LooksRecord | None:
    """What a run's looks.json holds."""
    from gepa_loop.run.files import read_json
    from gepa_loop.scores.ledger import LOOKS
    from gepa_loop.scores.records import LooksRecord

    return read_json(path / LOOKS, LooksRecord) if (path / LOOKS).exists() else None


def finding(one: Finding) -> FindingAnswer:
    return {"about": one.about, "state": one.state, "sentence": one.sentence, "hint": one.hint}

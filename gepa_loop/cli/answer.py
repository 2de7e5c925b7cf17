"""What a command says to a program: one JSON object, beside or in place of what a person reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.show.caller import ASIDE, PERSON, Caller
from gepa_loop.show.terminal import Terminal, err, out

if TYPE_CHECKING:
    from gepa_loop.cli.records import Answer, FindingAnswer, RunAnswer
    from gepa_loop.scores.records import LooksRecord
    from gepa_loop.start.doctor import Finding

STANDARD_OUTPUT = "-"


def reader(json_file: str | None) -> Terminal:
    """Where a person reads: standard error where standard output holds the object."""
    return err if json_file == STANDARD_OUTPUT else out


def caller_of(json_file: str | None, quiet: bool) -> Caller:
    """The same of a command that makes a run."""
    caller = ASIDE if json_file == STANDARD_OUTPUT else PERSON
    return caller.quiet if quiet else caller


def head(command: str) -> Answer:
    """What every object begins with."""
    from gepa_loop.run.files import SCHEMA_VERSION

    return {"schema_version": SCHEMA_VERSION, "command": command}


def run_head(command: str, path: Path) -> RunAnswer:
    """That of a command that made a run."""
    return {**head(command), "run": path.name, "path": str(path)}


def give(json_file: str | None, answer: Mapping[str, object]) -> None:
    """Write an object to a file or to standard output; nothing where nobody asks for it.

    Raises:
        EnvironmentFault: The file cannot be written.
    """
    if json_file is None:
        return
    text = json.dumps(answer, indent=2, allow_nan=False, default=str) + "\n"
    if json_file == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    from gepa_loop.run.files import write_text

    write_text(Path(json_file), text)


def looks_of(path: Path) -> LooksRecord | None:
    """What a run's looks.json holds."""
    from gepa_loop.run.files import read_json
    from gepa_loop.scores.ledger import LOOKS
    from gepa_loop.scores.records import LooksRecord

    return read_json(path / LOOKS, LooksRecord) if (path / LOOKS).exists() else None


def finding(one: Finding) -> FindingAnswer:
    return {"about": one.about, "state": one.state, "sentence": one.sentence, "hint": one.hint}

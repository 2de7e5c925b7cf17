"""A Slurm that says what a test has written down: its commands as executables of a folder that is first on the PATH."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import pytest

COMMAND = """#!/bin/sh
echo "{name} $*" >> {folder}/asked
cat {folder}/{name}.out 2> /dev/null
cat {folder}/{name}.err >&2 2> /dev/null
exit $(cat {folder}/{name}.code 2> /dev/null || echo 0)
"""


class FakeSlurm:
    """Its commands say nothing until `says` is called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir(parents=True)
        for name in ("sbatch", "scontrol", "sacct"):
            file = folder / "bin" / name
            file.write_text(COMMAND.format(name=name, folder=shlex.quote(str(folder))))
            file.chmod(stat.S_IRWXU)

    @property
    def path(self) -> str:
        """A PATH on which it is found."""
        return f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    @property
    def asked(self) -> list[str]:
        """Every command that was run, as it was typed."""
        file = self._folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def says(self, name: str, out: str = "", err: str = "", code: int = 0) -> None:
        """What a command answers from now on."""
        for end, text in (("out", out), ("err", err), ("code", str(code))):
            (self._folder / f"{name}.{end}").write_text(text)


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """One that the process finds."""
    made = FakeSlurm(folder)
    monkeypatch.setenv("PATH", made.path)
    return made


def controller(job: int, state: str, **fields: object) -> str:
    """A line of `scontrol --oneliner show job`."""
    said = {"JobId": job, **fields, "JobName": "x", "JobState": state, "Reason": "None", "ExitCode": "0:0"}
    return " ".join(f"{key}={value}" for key, value in {**said, **fields}.items()) + "\n"

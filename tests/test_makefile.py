"""What `make` says to a person who has just installed."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from places import ROOT


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An environment that make takes for a finished one, with a command that says where it stands."""
    folder = tmp_path / "an environment"
    (folder / "bin").mkdir(parents=True)
    for name, text in (("python", "#!/bin/sh\n"), ("gepa-loop", '#!/bin/sh\necho "$0"\n')):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(stat.S_IRWXU)
    (folder / ".base").touch()
    return folder


def install(folder: Path, path: str) -> str:
    done = subprocess.run(
        ["make", "-s", "install", f"VENV={folder}"], cwd=ROOT, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def test_the_line_that_make_says_finds_the_command(installed: Path, tmp_path: Path) -> None:
    link = tmp_path / "venv"
    link.symlink_to(installed)  # make takes no names with spaces
    line = install(link, "/usr/bin:/bin").splitlines()[-1].strip()
    assert line.startswith("export PATH=")
    found = subprocess.run(
        ["sh", "-c", f"{line}; gepa-loop"], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == str(link / "bin" / "gepa-loop")


def test_nothing_is_said_where_the_command_is_found(installed: Path, tmp_path: Path) -> None:
    link = tmp_path / "venv"
    link.symlink_to(installed)
    assert install(link, f"{link}/bin:/usr/bin:/bin") == ""

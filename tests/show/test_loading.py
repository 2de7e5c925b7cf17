"""The line before the first seconds of a command."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gepa_loop.show.loading import say_loading
from gepa_loop.show.terminal import Terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_alone_is_told(terminal: bool) -> None:
    file = io.StringIO()
    say_loading("random:tiny", Terminal(file=file, force_terminal=terminal, no_color=True))
    assert ("loading random:tiny" in file.getvalue()) == terminal


@pytest.mark.parametrize("words", [["check"], ["plan"], ["loop", "--dry-run"], ["chat", "none"], ["doctor"]])
def test_it_is_said_before_anything_heavy_is_imported(words: list[str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    config = [] if words[0] == "chat" else ["--config", "smoke"]
    code = (
        "import sys; from gepa_loop.cli import run\n"
        "class Heavy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers'): print('HEAVY', flush=True); sys.meta_path.remove(self)\n"
        "sys.meta_path.insert(0, Heavy())\n"
        f"run({[*words, *config]!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while b"HEAVY" not in said:
            said += os.read(ours, 1000)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    first = (
        b"config smoke"
        if words == ["doctor"]
        else b"loading run none"
        if config == []
        else b"loading random:tiny"
    )
    assert first in said[: said.index(b"HEAVY")]

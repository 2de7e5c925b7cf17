"""A conversation at a terminal, and how it is left."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gepa_loop.cli import run

SMOKE = ["--config", "smoke", "--set", "distill.steps=2", "--set", "distill.check_every=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("chats")
    (cwd / "p.txt").write_text("Answer with one number.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        sets = ["--set", "task.splits.test=8", "--run-name", "d", "--quiet"]
        assert run(["distill", *SMOKE, "--prompt", "p.txt", *sets]) == 0
    return cwd


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_leaves_by_a_signal_is_told_nothing(place: Path, number: signal.Signals, code: int) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gepa_loop", "chat", "d"],
        cwd=place,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A background job of a shell, as these tests may be, hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    assert process.stderr is not None
    said = b""
    while not said.endswith(b"> "):
        more = os.read(process.stderr.fileno(), 1000)
        assert more, said
        said += more
    process.send_signal(number)
    out, rest = process.communicate(timeout=60)
    os.close(ours)
    # A signal that comes while the mark is being printed has it printed twice.
    assert (process.returncode, out, rest.removeprefix(b"> ")) == (code, b"", b"\n")
    assert b"without a prompt. /new begins a new chat, /quit ends." in said


def test_a_piped_conversation_can_be_read(place: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "gepa_loop",
            "chat",
            "d",
            "--compare",
            "--temperature",
            "0",
            "--max-tokens",
            "2",
        ],
        cwd=place,
        input="3 and 4?\n\n/new\n5 and 6?\n/quit\n",
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(" ")[0] if line[:1] != ">" else line for line in done.stdout.splitlines()]
    turn = ["bare", "prompted", "student", ""]
    assert lines == ["> 3 and 4?", *turn, "> /new", "> 5 and 6?", *turn, "> /quit"]

"""The command as a process that is watched and killed."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anthropic_api import instruction
from places import HELPERS, ROOT

GEPA_LOOP = [sys.executable, "-c", "from gepa_loop.cli import main; main()"]


@contextmanager
def nobody() -> Iterator[None]:
    """Within the block this process is no superuser, who may read and write everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def let_in(folder: Path) -> None:
    """`nobody` may enter a test's folder, which lies below folders of pytest's that only their owner may."""
    for one in (folder, *folder.parents):
        if (
            one.stat().st_uid == os.geteuid() and one.name.startswith(("pytest-", "popen-"))
        ) or one == folder:
            one.chmod(0o755)


def start(cwd: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*GEPA_LOOP, *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(HELPERS), str(ROOT)))},
        # A background job of a shell, as these tests may be, hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def descendants(pid: int) -> list[int]:
    """The processes that a process and those have started."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in brackets, may have blanks in it.
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    own = [child for child, parent in parents.items() if parent == pid]
    return own + [one for child in own for one in descendants(child)]


def killed_when(reached: Callable[[], bool], cwd: Path, *args: str) -> None:
    """Start a command and kill it as soon as `reached`."""
    process = start(cwd, *args)
    while process.poll() is None and not reached():
        time.sleep(0.0005)  # the process is watched, not waited for
    process.send_signal(signal.SIGKILL)
    process.communicate()


def by_request(handler: Any) -> None:
    """A reply that depends on the request alone, so that one that a kill has lost comes again."""
    asked = json.dumps(handler.api.messages[-1]["messages"])
    instruction(f"Say the number after it, variant {zlib.crc32(asked.encode()) % 1000}.")(handler)

"""The Python of the page for engineers runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

from places import ROOT

PAGE = ROOT / "docs" / "how-to" / "engineer.md"


def codes() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(*words: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_the_calls_run(tmp_path: Path) -> None:
    printed = run("-c", codes()[0], folder=tmp_path)
    assert "runs/first/distill/" in printed and "evaluate/" in printed


def test_the_class_is_a_task(tmp_path: Path) -> None:
    (tmp_path / "capitals.py").write_text(codes()[1], "utf-8")
    printed = run("-m", "gepa_loop", "task", "check", "capitals.py:Capitals", folder=tmp_path)
    said = " ".join(printed.split())
    assert "on average its own answer 1.00, an empty reply 0.00, another item's answer 0.00" in said


def test_the_page_has_no_other_python() -> None:
    assert len(codes()) == 2

"""The tutorial's commands, one after the other in one shell, as it shows them, on a random model of two layers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from places import ROOT

from gepa_loop.outside.cache import cache_folder

PAGE = ROOT / "docs" / "tutorial.md"

SMALL = {
    "GEPA_LOOP_MODEL__NAME": "random:tiny",
    "GEPA_LOOP_MODEL__DTYPE": "float32",
    "GEPA_LOOP_MODEL__DEVICE": "cpu",
    "GEPA_LOOP_LORA__RANK": "2",
    "GEPA_LOOP_SAMPLING__MAX_TOKENS": "4",
    "GEPA_LOOP_EVALUATE__SAMPLES": "1",
}
"""Over what `init` writes; the page's own --set is over these."""


def commands() -> str:
    return "".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def test_the_tutorial_runs_from_its_first_command_to_its_last(tmp_path: Path) -> None:
    shell = commands()
    for name in ("init", "doctor", "check", "plan", "distill", "chat", "export", "runs"):
        assert f"gepa-loop {name}" in shell
    done = subprocess.run(
        ["bash", "-euc", shell], cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, **SMALL, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GEPA_LOOP_CACHE": str(cache_folder()),
             "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    desk = tmp_path / "desk"
    assert "wrote gepa-loop.toml" in done.stdout
    (run,) = (path for path in (desk / "runs").iterdir() if path.is_dir())
    assert json.loads((run / "result.json").read_text("utf-8"))["greedy"]["student"]["n"] == 126
    assert {"adapter_model.safetensors", "check.py", "README.md"} <= {
        path.name for path in (desk / "student").rglob("*")
    }
    assert list((desk / "student").rglob("*.gguf"))

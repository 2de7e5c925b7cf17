"""Which files of the user's a module runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gepa_loop.outside.imports import imported_files

FILES = {
    "tasks/__init__.py": "from .scoring import worth",
    "tasks/scoring.py": "import json, os.path\nfrom torch import nn\nfrom gepa_loop.task import own\nfrom . import words as w",
    "tasks/words.py": "from ..beyond import x\nfrom .lists import *",
    "tasks/lists.py": "from tasks import scoring",
    "tasks/apart.py": "",
    "tasks/deep/er/late.py": "def later():\n    import helper\n    from tasks.deep.er.more import VALUE",
    "tasks/deep/er/more.py": "VALUE = 1",
    "helper.py": "LABELS = ['a']\ntry:\n    import nowhere\nexcept ImportError:\n    import torn",
    "torn.py": "def (",
    "json.py": "shadowed by the library's own",
    "apart.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relative(folder: Path, found: dict[str, Path]) -> dict[str, str]:
    return {name: str(file.relative_to(folder)) for name, file in found.items()}


def test_a_package_is_all_that_it_imports(folder: Path) -> None:
    found = relative(folder, imported_files("tasks", folder / "tasks" / "__init__.py"))
    assert found == {
        "": "tasks/__init__.py",
        "tasks": "tasks/__init__.py",
        "tasks.scoring": "tasks/scoring.py",
        "tasks.words": "tasks/words.py",
        "tasks.lists": "tasks/lists.py",
    }
    assert not [name for name in sys.modules if name.startswith("tasks.")], "nothing is run"


def test_folders_without_init_and_imports_inside_functions(folder: Path) -> None:
    found = relative(folder, imported_files("tasks.deep.er.late", folder / "tasks/deep/er/late.py"))
    assert {name: file for name, file in found.items() if not name.startswith("tasks.deep")} == {
        "": "tasks/deep/er/late.py",
        "helper": "helper.py",
        "torn": "torn.py",
        # Its package is run before it.
        "tasks": "tasks/__init__.py",
        "tasks.scoring": "tasks/scoring.py",
        "tasks.words": "tasks/words.py",
        "tasks.lists": "tasks/lists.py",
    }
    assert found["tasks.deep.er.more"] == "tasks/deep/er/more.py"


def test_a_file_finds_its_neighbours_wherever_it_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tick-ets.py").write_text("from helper import LABELS\nimport pytest")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    found = relative(folder, imported_files("", folder / "tick-ets.py"))
    assert found == {"": "tick-ets.py", "helper": "helper.py", "torn": "torn.py"}

"""`init`: nothing is written that does not load."""

from __future__ import annotations

from pathlib import Path

import pytest

from gepa_loop.cli import run
from gepa_loop.config.load import load_config

INIT = ["init", "--yes", "--model", "random:tiny", "--data"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [f"My spade {n} broke.;{('GX4', 'QQ5')[n % 2]};C{n // 4 if n % 50 else ''}" for n in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["body;queue;customer", *rows]) + "\n")
    return tmp_path


def test_a_config_that_does_not_load_is_not_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in (
        (["--set", "task.splits.test=5000"], "task.splits.select = 0.19: nothing is left"),
        (["--set", "distill.lrr=1"], "--set distill.lrr=1: unknown key"),
        (["--set", "task.options.encodings=utf-8"], "options.encodings is there"),
        (["--set", "task.group=customer"], "what is proposed depends on task.group"),
        (["--answer", "nothing"], "--answer nothing: there is no field"),
    ):
        assert run([*INIT, "t.csv", *more]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        assert sorted(path.name for path in here.iterdir()) == ["t.csv"]
    assert run([*INIT, "t.csv"]) == 0
    assert "wrote gepa-loop.toml: it loads, with " in capsys.readouterr().out


def test_a_table_of_a_windows_program(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "w.csv").write_bytes((here / "t.csv").read_text().replace("spade", "thé").encode("cp1252"))
    assert run([*INIT, "w.csv"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "--set task.options.encoding=cp1252" in shown
    assert run([*INIT, "w.csv", "--set", "task.options.encoding=cp1252"]) == 0
    assert load_config(None, env={}, cwd=here).task.options == {"encoding": "cp1252"}
    assert "next: gepa-loop check --prompt FILE\n" in capsys.readouterr().out


def test_a_prompt_that_holds_its_own_test_is_warned_of(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "p.txt").write_text(
        "Say the code.\n\n" + "\n".join(f"My spade {n} broke. GX4" for n in range(100))
    )
    assert run([*INIT, "t.csv", "--prompt", "p.txt"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: p.txt holds questions it will be judged by: " in said and "(the first is csv:" in said
    (here / "p.txt").write_text("Say the code.")
    assert run([*INIT, "t.csv", "--prompt", "p.txt", "--force"]) == 0
    assert "judged by" not in capsys.readouterr().out

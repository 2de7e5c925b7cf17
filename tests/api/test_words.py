"""What a Python program reads where something is wrong: its own words, and a person at a terminal those of the command line."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import gepa_loop
from gepa_loop.api.guard import errors_of
from gepa_loop.api.words import in_python
from gepa_loop.cli import run as command
from gepa_loop.errors import (
    BudgetReached,
    ConfigError,
    EnvironmentFault,
    GepaLoopError,
    RunDirectoryError,
    TaskError,
)
from gepa_loop.run.files import write_json, write_jsonl

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _told(error: type[GepaLoopError], call: Callable[[], object]) -> str:
    """Message and hint as a traceback has them."""
    with pytest.raises(error) as caught:
        call()
    assert caught.value.hint == "" or caught.value.__notes__ == [caught.value.hint]
    return f"{caught.value}\n{caught.value.hint}"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: gepa_loop.distill("smoke", prompt="P", distill__lrr=1e-4),
            "distill__lrr=0.0001: unknown key distill.lrr; the nearest is distill.lr\n",
        ),
        (
            lambda: gepa_loop.loop("smoke", race__on=True, task__extract="all of it"),
            "task__extract='all of it': task.extract = 'all of it': ",
        ),
        (
            lambda: gepa_loop.loop("smoke", lora__targets=["q_proj", 3]),
            "lora__targets=['q_proj', 3]: lora.targets.",
        ),
        (
            lambda: gepa_loop.optimize("smoke", optimize__seed_prompt="Say it.\n--set a=b, 'so'\n", seed=-1),
            "seed=-1: seed = -1: ",
        ),
        (lambda: gepa_loop.loop("nosuch"), "config = 'nosuch': neither a file nor a preset\nPresets: "),
        (
            lambda: gepa_loop.loop("smoke", run_name="a/b"),
            "run_name = 'a/b': not a plain folder name\nIt becomes a folder below runs/.",
        ),
        (
            lambda: gepa_loop.loop("smoke", distill__questions=3),
            "distill.questions = 3: `loop` writes no questions, only `distill` does\n"
            "Set it to 0, or distill one prompt with `gepa_loop.distill`.",
        ),
        (
            lambda: gepa_loop.distill("smoke", prompt="use/--fresh.txt"),
            "prompt = 'use/--fresh.txt': there is no such file\n",
        ),
    ],
)
def test_an_error_of_arguments_and_settings(cwd: Path, call: Callable[[], gepa_loop.Run], said: str) -> None:
    told = _told(ConfigError, call)
    assert told.startswith(said), told
    assert list(cwd.iterdir()) == []


def test_an_error_of_a_task(cwd: Path) -> None:
    def file(name: str, content: bytes) -> Callable[[], gepa_loop.Run]:
        (cwd / name).write_bytes(content)
        kind = name.partition(".")[2]
        return lambda: gepa_loop.optimize("smoke", task__kind=kind, task__name=name, quiet=True)

    odd = file("odd.jsonl", b'{"ask": "a", "say": "b"}\n' * 80)
    assert "Say which is the question: task__fields__question=FIELD; " in _told(TaskError, odd)
    coded = file("coded.csv", b"question,answer\n\xe9,b\n")
    assert "say what it is: task__options__encoding='cp1252' for files" in _told(TaskError, coded)


def test_an_error_of_a_run(cwd: Path) -> None:
    def scored(**settings: object) -> gepa_loop.Run:
        return gepa_loop.evaluate("smoke", prompt="P", run_name="r", quiet=True, **settings)

    run = scored()
    again = "Put them back to continue it, choose another run_name, or start again with fresh=True."
    assert _told(RunDirectoryError, lambda: scored(seed=1)).endswith(f"\n{again}")
    with FileLock(cwd / "runs" / "r" / ".lock"):
        told = _told(RunDirectoryError, scored)
    assert told.endswith("\nWait for it to end, or choose another run_name.")
    (cwd / "runs" / "r" / "result.json").write_text("{}")
    for ask in (lambda: gepa_loop.Run(run.path).result, lambda: gepa_loop.Run(run.path).prompt):
        assert _told(RunDirectoryError, ask).endswith("or start again with fresh=True.")
    (cwd / "runs" / "r" / "manifest.json").write_text("{}")
    assert "choose another run_name" in _told(RunDirectoryError, lambda: gepa_loop.Run(run.path).command)
    assert _told(ConfigError, lambda: gepa_loop.load("nosuch")).endswith("\nFinished runs: r.")
    told = _told(BudgetReached, lambda: gepa_loop.optimize("smoke", quiet=True, optimize__max_minutes=1e-9))
    assert told.endswith("\nRaise it and start again with fresh=True.")


def test_an_error_of_a_finished_run(cwd: Path, distilled: gepa_loop.Run) -> None:
    run = gepa_loop.Run(Path(shutil.copytree(distilled.path, cwd / "copy")))
    (file,) = run.path.glob("prompts/*.txt")
    file.write_text("Another.\n")
    changed = _told(RunDirectoryError, lambda: run.adapter)
    assert changed.endswith("\nPut the run's prompt back, or run it again with fresh=True.")
    scored = next(run.path.glob("test/*.jsonl"))
    scored.write_text("{}\n" + scored.read_text())
    assert _told(RunDirectoryError, run.rows).endswith(", or start again with fresh=True.")
    write_json(cwd / "o" / "manifest.json", {"birth": "0", "identity": {"command": "optimize"}})
    write_jsonl(cwd / "o" / "optimize" / "candidates.jsonl", [{"id": "0011aabb"}])
    earlier = _told(RunDirectoryError, lambda: gepa_loop.Run(cwd / "o").prompt)
    assert earlier.endswith("\nAnother version of gepa-loop wrote it; search again with fresh=True.")


def test_memory_that_ran_out_is_told_with_how_to_mend_it() -> None:
    with pytest.raises(EnvironmentFault) as caught, errors_of("interrupted"):
        raise MemoryError
    assert "sampling.batch" in caught.value.hint and caught.value.__notes__ == [caught.value.hint]


@pytest.mark.parametrize(
    ("line", "python"),
    [
        ("set it: --set distill.lr=1e-4.", "set it: distill__lr=0.0001."),
        ("(--set model.name=...), and", "(model__name=...), and"),
        ('name it: --set optimize.seed_prompt_file="FILE".', 'name it: optimize__seed_prompt_file="FILE".'),
        ("GSM8K's: --set 'task.fields.after=\"####\"'.", "GSM8K's: task__fields__after='####'."),
        ("--set task.options.split='a[:10]'.", "task__options__split='a[:10]'."),
        ("--set task.options={n = 1, on = true}: no", "task__options={'n': 1, 'on': True}: no"),
        ('--set a.b="x: --fresh, y": no', "a__b='x: --fresh, y': no"),
        ('--set a.b="""x\n--fresh""": no', "a__b='x\\n--fresh': no"),
        ("--set a.b=1, --set c=openai/gpt-5: both", "a__b=1, c='openai/gpt-5': both"),
        ("a server with --max-logprobs, no --freshly", "a server with --max-logprobs, no --freshly"),
        ("it says 'use --fresh' and \"--run-name\"", "it says 'use --fresh' and \"--run-name\""),
        ("x:\n  a: 1\n--config f: y.toml: no", "x:\n  a: 1\nconfig = 'f': y.toml: no"),
        ("see `gepa-loop check`, `gepa-loop loop`", "see `gepa-loop check`, `gepa_loop.loop`"),
    ],
)
def test_settings_and_flags_as_a_call_has_them(line: str, python: str) -> None:
    assert in_python(line) == python
    assert in_python(python) == python


def test_a_person_reads_the_words_of_the_command_line(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["loop", "--config", "smoke", "--run-name", "a/b"]) == 2
    assert "--run-name a/b: not a plain folder name" in capsys.readouterr().err
    assert command(["loop", "--config", "smoke", "--set", "loop.rounds=none"]) == 2
    assert "--set loop.rounds=none: " in capsys.readouterr().err


OTHERS = {
    "cli",
    "jobs",
    "show",
    "serving",
    "sweep.py",
    "config/grids.py",
    "stages/grid.py",
    "scores/conditions.py",
    *(
        f"start/{name}.py"
        for name in ("groups", "guess", "lengths", "machine", "proposal", "survey", "write")
    ),
}
"""What no call comes by: commands that are none."""

SERVERS = {"--max-model-len", "--max-logprobs", "--logdir", "--project", "--no-deps"}
"""Flags of other programs."""

COMMAND = re.compile(r"`(?:gepa-loop )?[a-z]+(?: [a-z]+)? --[^`]+`")
"""A line to type where there is no call for it, as `gepa-loop init --data FILE`."""


def test_no_message_that_a_call_can_raise_keeps_a_flag() -> None:
    root, seen = Path(gepa_loop.__file__).parent, 0
    for file in root.rglob("*.py"):
        name = file.relative_to(root)
        if {str(name), name.parts[0]} & OTHERS or str(name) in ("api/words.py", "config/explain.py"):
            continue
        for text in _texts(ast.parse(file.read_text("utf-8"))):
            left = set(FLAG.findall(COMMAND.sub("", in_python(text)))) - SERVERS
            assert not left, f"{name}: {text}"
            seen += bool(FLAG.search(text))
    assert seen > 20


def _texts(node: ast.AST) -> Iterator[str]:
    """Texts of a module but docstrings; what is filled in becomes `k=1`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "k=1" for part in node.values)
    else:
        for inner in ast.iter_child_nodes(node):
            if not (isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant)):
                yield from _texts(inner)

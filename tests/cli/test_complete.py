"""What a shell is offered, asked as bash and zsh ask: a process of its own, with what was typed in its environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer

from gepa_loop.cli import app
from gepa_loop.config.explain import all_keys
from gepa_loop.config.grids import grids
from gepa_loop.config.layers import presets
from gepa_loop.config.reference import all_keys_explained
from gepa_loop.config.track import TRACKERS
from gepa_loop.run.files import write_json, write_jsonl
from gepa_loop.search.records import CandidateRow
from gepa_loop.task.splits import SPLITS

HEAVY = ("torch", "numpy", "scipy", "transformers", "dspy", "litellm", "plotly")

ASKED = f"""
import atexit, sys
atexit.register(lambda: print(*(m for m in {HEAVY} if m in sys.modules), end="", file=sys.stderr))
sys.argv = ["gepa-loop"]
from gepa_loop.__main__ import main
main()
"""


def _answer(cwd: Path, **typed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **typed},
        timeout=60,
    )
    # Standard error is the terminal on which a person is typing.
    assert (done.returncode, done.stderr) == (0, ""), done
    return [line for line in done.stdout.splitlines() if line]


def bash(cwd: Path, line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    return _answer(
        cwd,
        _GEPA_LOOP_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(line.split()) - (not line.endswith(" "))),
    )


def zsh(cwd: Path, line: str) -> list[str]:
    """So zsh; none where it is told to offer files."""
    said = "\n".join(_answer(cwd, _GEPA_LOOP_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line))
    return re.findall(r'"(.*?)"', said)


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each command, one that has no result yet, and some that cannot be read."""
    cwd = tmp_path_factory.mktemp("completed")
    runs = cwd / "runs"
    for name, command in (
        ("o", "optimize"),
        ("d", "distill"),
        ("d2", "distill"),
        ("l", "loop"),
        ("s", "sweep"),
        ("e", "evaluate"),
    ):
        write_json(runs / name / "manifest.json", {"birth": "0", "identity": {"command": command}})
        if name not in ("d2", "o"):
            write_json(runs / name / "result.json", {})
    for name in ("night", "later"):
        write_json(runs / ".jobs" / name / "job.json", {})
    row = {
        **dict.fromkeys(CandidateRow.__annotations__),
        "status": "accepted",
        "text": "T",
        "pareto_mean": 0.5,
    }
    write_jsonl(runs / "o" / "optimize" / "candidates.jsonl", [{**row, "id": "0011aabb"}])
    for number in (0, 2):
        folder = runs / "l" / f"round_{number:02d}" / "optimize"
        write_jsonl(folder / "candidates.jsonl", [{**row, "id": f"{number}{number}ccddee"}])
    for name, content in (("torn", b'{"birth"'), ("other", b"\xff\xfe"), ("list", b"[]")):
        (runs / name).mkdir()
        (runs / name / "manifest.json").write_bytes(content)
    write_json(runs / "strange" / "manifest.json", {"birth": "0"})
    (runs / "looped").mkdir()
    (runs / "looped" / "manifest.json").symlink_to("manifest.json")
    (runs / "file").write_text("no folder")
    for name in ("mine.toml", "conf/other.toml", "conf/notes.txt"):
        (cwd / name).parent.mkdir(exist_ok=True)
        (cwd / name).write_text("")
    return cwd


WHOLE = ["d", "d2", "e", "l", "o", "s"]
GRIDS, PRESETS, KEYS = sorted(grids()), sorted(presets()), all_keys()

OFFERED = [
    ("runs remove ", WHOLE),
    ("runs remove d", ["d", "d2"]),
    ("runs remove d l ", ["d2", "e", "o", "s"]),
    ("loop --run-name ", WHOLE),
    ("chat ", ["d", "l", "last"]),
    ("serve ", ["d", "l", "last"]),
    ("export l", ["l", "last"]),
    ("evaluate --adapter ", ["d", "l", "last"]),
    ("report ", ["d", "l", "last", "s"]),
    ("runs cells ", ["last", "s"]),
    ("prompts list ", ["l", "last", "o"]),
    ("prompts list l --round ", ["0", "2"]),
    ("prompts list o --round ", []),
    ("prompts show o 0", ["0011aabb"]),
    ("prompts show l 0", []),
    ("prompts show l --round 0 0", ["00ccddee"]),
    ("prompts diff l seed 2", ["22ccddee"]),
    ("prompts diff l b", ["best"]),
    ("prompts show torn ", []),
    ("prompts show nosuch --round ", []),
    ("config explain distill.lr", sorted(key for key in KEYS if key.startswith("distill.lr"))),
    ("config explain tea", sorted(key for key in KEYS if key.startswith("tea"))),
    ("loop --config ", sorted(["mine.toml", *PRESETS])),
    ("config show --config m", ["mine.toml", *(name for name in PRESETS if name.startswith("m"))]),
    ("doctor --config conf/", ["conf/other.toml"]),
    ("doctor --config nosuch/", []),
    (f"doctor --config {'long' * 100}/", []),
    ("sweep --preset ", sorted(["mine.toml", *GRIDS])),
    ("sweep --preset conf/o", ["conf/other.toml"]),
    ("sweep --grid distill.lr", [f"{key}=" for key in KEYS if key.startswith("distill.lr")]),
    ("distill --track ", sorted(TRACKERS)),
    ("evaluate --split ", sorted(SPLITS)),
    ("loop --race ", ["off", "on"]),
    ("submit ", sorted(["optimize", "distill", "loop", "evaluate", "sweep"])),
    ("submit loop --run-name d", ["d", "d2"]),
    ("jobs status ", ["later", "night"]),
    ("jobs logs l", ["later"]),
    ("serve d --engine ", ["auto", "torch", "vllm"]),
    ("export d --gguf ", ["bf16", "f16", "f32", "lora", "q8_0"]),
    ("chat d que", []),
]


@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_what_is_known_is_offered_to_bash(cwd: Path, line: str, offered: list[str]) -> None:
    assert sorted(bash(cwd, f"gepa-loop {line}")) == offered


@pytest.mark.parametrize(
    ("line", "offered"), [case for case in OFFERED if case[0].startswith(("runs", "sweep", "prompts d"))]
)
def test_and_to_zsh(cwd: Path, line: str, offered: list[str]) -> None:
    assert sorted(zsh(cwd, f"gepa-loop {line}")) == offered


def test_names_of_candidates_are_offered(cwd: Path) -> None:
    seed, best, name, id_ = bash(cwd, "gepa-loop prompts show o ")
    assert (seed, best, id_) == ("seed", "best", "0011aabb")
    assert re.fullmatch(r"[a-z]+-[a-z]+", name) and bash(cwd, f"gepa-loop prompts show o {name[:-1]}") == [
        name
    ]


def test_a_key_is_offered_with_its_sign_and_the_last_one_with_its_values(cwd: Path) -> None:
    ask = "gepa-loop distill --set"
    every = bash(cwd, f"{ask} ")
    assert set(every) == {f"{key.name}=" for key in all_keys_explained() if key.kind}
    assert len(every) == len(set(every)) and "distill.lr=" in every and "distill=" not in every
    kinds = [f"teacher.kind={kind}" for kind in ("base", "live", "ema", "adapter", "model", "server")]
    assert bash(cwd, f"{ask} teacher.ki") == ["teacher.kind=", *kinds]
    # A shell ends a word that is the only one left with a space.
    assert bash(cwd, f"{ask} loop.rou") == ["loop.rounds=", "loop.rounds=1"]
    assert bash(cwd, f"{ask} race.on") == ["race.on=", "race.on=true", "race.on=false"]
    assert bash(cwd, f"{ask} teacher.privileged_t") == ["teacher.privileged_text="]  # a text of several words
    assert zsh(cwd, f"{ask} teacher.privileged=") == ["teacher.privileged="]
    assert zsh(cwd, f"{ask} optimize.accept=t") == ["optimize.accept=test"]
    # bash takes a word apart at a sign of equality; zsh does not.
    assert zsh(cwd, f"{ask} teacher.kind=m") == ["teacher.kind=model"]
    assert zsh(cwd, f"{ask} distill.lr=3") == zsh(cwd, f"{ask} nosuch.key=") == []
    assert bash(cwd, "gepa-loop init --set teacher.ki") == ["teacher.kind=", *kinds]


def test_another_folder_has_names_of_its_own(cwd: Path, tmp_path: Path) -> None:
    for line in ("runs remove ", "chat ", "runs cells ", "prompts list ", "prompts show o "):
        assert bash(tmp_path, f"gepa-loop {line}") == []
        assert zsh(tmp_path, f"gepa-loop {line}") == []
    assert bash(cwd / "conf", "gepa-loop loop --config ot") == ["other.toml"]
    (tmp_path / "runs").write_text("no folder")
    assert bash(tmp_path, "gepa-loop runs remove ") == []


def test_a_deleted_folder_has_none(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r})\n{ASKED}"
    for line, offered in (("runs remove ", []), ("sweep --preset obj", ["objectives"])):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=gone,
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **os.environ,
                "_GEPA_LOOP_COMPLETE": "complete_zsh",
                "_TYPER_COMPLETE_ARGS": f"gepa-loop {line}",
            },
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        assert re.findall(r'"(.*?)"', done.stdout) == offered
        gone.mkdir()


FREE = {
    "init": {"data", "prompt", "model", "question", "answer", "group", "to", "json_file"},
    "evaluate": {"against", "fail_if"},
    "export": {"to", "base", "to_hub"},
    "chat": {"question"},
    "task check": {"name"},
    "sweep": {"cell"},
    "submit": {"words", "slurm", "array", "prefix", "setup"},
    "view": {"folder", "host"},
    "serve": {"host"},
}
"""What any text can be; files are the shell's own to offer."""

FILES = {"prompt", "json_file", "junit_file"}


def test_every_other_option_has_values_to_offer() -> None:
    checked = 0
    for command, name, kinds, info in _options(app, ""):
        number = kinds <= {int, float, bool}
        known = info.autocompletion is not None or any(issubclass(kind, Enum) for kind in kinds)
        free = name in FREE.get(command, set()) | FILES
        assert known or free or number, f"{command} {name}"
        checked += known
    assert checked > 50


def _options(at: typer.Typer, place: str) -> Iterator[tuple[str, str, set[type], Any]]:
    """Each option and argument of all commands, with its types but for None and lists."""
    for group in at.registered_groups:
        assert group.typer_instance is not None
        yield from _options(group.typer_instance, f"{group.name} ")
    for command in at.registered_commands:
        assert command.callback is not None
        hints = get_type_hints(command.callback, include_extras=True)
        for name, hint in hints.items():
            if get_origin(hint) is Annotated:
                kind, info = get_args(hint)
                yield f"{place}{command.name or command.callback.__name__}", name, _kinds(kind), info


def _kinds(hint: Any) -> set[type]:
    inner = get_args(hint)
    return {kind for one in inner for kind in _kinds(one)} if inner else {hint} - {type(None)}

"""Every command that a page shows can be given: its name, its options, the keys that it sets, the presets and files that it names."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from places import ROOT

from gepa_loop.cli import app
from gepa_loop.config.explain import all_keys
from gepa_loop.config.grids import grids, parse_grid
from gepa_loop.config.layers import presets

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))


def lines() -> Iterator[tuple[str, str]]:
    """(page, line) of the shell's fences, without comments, and what job files run of this program."""
    for page in PAGES:
        for fence in re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^  (gepa-loop .*)", fence, re.MULTILINE):
                yield page.name, line
        for fence in re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for line in fence.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield page.name, shlex.join(words)


LINES = sorted(set(lines()))


def test_there_are_commands() -> None:
    assert len([line for _, line in LINES if line.startswith("gepa-loop ")]) > 25


@pytest.mark.parametrize(("page", "line"), [one for one in LINES if one[1].startswith("gepa-loop ")])
def test_a_command_can_be_given(page: str, line: str) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    # Parses as the program would, which refuses what it does not know, and calls nothing.
    with command.make_context("gepa-loop", words) as context:
        given = context.params
    if line.startswith("gepa-loop submit "):
        submitted = typer.main.get_command(app).commands[given["command"]]
        with submitted.make_context("gepa-loop", list(given["words"])) as context:
            given = context.params
    for one in given.get("sets") or ():
        assert one.partition("=")[0] in all_keys(), one
    if (config := given.get("config")) and not str(config).endswith(".toml"):
        assert config in presets()
    if grid := given.get("preset"):
        assert grid in grids()
    if given.get("line"):
        assert all(
            one.partition("=")[0] in all_keys()
            for own in parse_grid(given["line"]).cells.values()
            for one in own
        )
    for path in (Path(word) for word in words if word.startswith("prompts/")):
        assert (ROOT / str(path).partition(":")[0]).is_file(), path


@pytest.mark.parametrize(("page", "line"), [one for one in LINES if one[1].startswith("make ")])
def test_a_target_exists(page: str, line: str) -> None:
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_table_has_its_head_right_above_its_rule(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    rules = [n for n, line in enumerate(lines) if re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", line)]
    for n in rules:
        assert lines[n - 1].count("|") == lines[n].count("|"), f"{page.name}:{n + 1}"
        assert not lines[n - 2].startswith("|"), f"{page.name}:{n + 1}"

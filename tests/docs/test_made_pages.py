"""The reference that is made from the code."""

import re
from pathlib import Path

import made_pages
import pytest
from places import ROOT

from gepa_loop import errors
from gepa_loop.config.reference import all_keys_explained


def ids(page: str) -> list[str]:
    return re.findall(r'\{ id="([^"]+)" \}', page)


def test_every_key_has_a_heading_of_its_own() -> None:
    found = ids(made_pages.configuration())
    assert len(found) == len(set(found)) == len(all_keys_explained())
    assert {key.name for key in all_keys_explained() if not key.under} <= set(found)
    assert {"objective.divergence-full_kl", "teacher.url-server"} <= set(found)


def test_a_key_says_its_values_default_and_readers() -> None:
    page = made_pages.configuration()
    about = page.split('id="distill.lr" }')[1].split("####")[0]
    assert "Number above 0; by default `0.0003`. Read by distill, loop, sweep." in about
    assert "Highest learning rate." in about
    assert "it must be given" in page.split('id="task.name" }')[1].split("####")[0]


def test_the_tables_are_linked_with_their_readers() -> None:
    page = made_pages.tables()
    assert "| [`distill`](#distill) | " in page and "| distill, loop, sweep |" in page
    assert set(re.findall(r"\(#([a-z]+)\)", page)) <= set(ids(made_pages.configuration()))


def test_every_command_is_there_with_its_options_and_without_what_is_cut() -> None:
    page = made_pages.commands()
    headings = re.findall(r"^#+ `(gepa-loop [a-z ]+)`", page, re.MULTILINE)
    assert {"gepa-loop init", "gepa-loop loop", "gepa-loop prompts diff"} <= set(headings)
    assert page.startswith("## `gepa-loop init`")
    assert "* `--gpu-usd-hour USD`: What an hour of the GPU costs" in page
    assert "--help" not in page and "**Commands**" not in page
    assert not re.search(r"\*\*Options\*\*:\n\n(?!\*)", page)


def test_every_preset_and_grid_is_there_as_it_is() -> None:
    page = made_pages.presets()
    files = [
        *(ROOT / "gepa_loop/config/presets").glob("*.toml"),
        *(ROOT / "gepa_loop/config/sweeps").glob("*.toml"),
    ]
    assert len(files) > 20
    for file in files:
        assert f"### `{file.stem}`\n" in page and file.read_text("utf-8").strip() in page


def test_the_tree_of_errors_has_all_of_them() -> None:
    page = made_pages.error_tree()
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.GepaLoopError)
    ]
    assert len(kinds) > 10
    assert all(kind.__name__ in page for kind in kinds)


def test_a_mark_is_filled_and_an_unknown_one_is_an_error() -> None:
    assert made_pages.filled("a\nElsewhere. <!-- made: errors -->\nb") == f"a\n{made_pages.error_tree()}\nb"
    with pytest.raises(KeyError, match="nothing"):
        made_pages.filled("<!-- made: nothing -->")


def test_all_that_is_made_is_asked_for_by_a_page() -> None:
    pages = [page.read_text("utf-8") for page in Path(ROOT / "docs").rglob("*.md")]
    asked = [mark for page in pages for mark in re.findall(r"<!-- made: (\w+) -->", page)]
    assert sorted(asked) == sorted(made_pages.MADE)

"""The site: links between pages that stand elsewhere in the repository, and a whole build."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from site_hooks import ELSEWHERE, relinked


@pytest.mark.parametrize(
    ("text", "path", "place", "expected"),
    [
        # from a page of docs/ to one that the site has under another name
        ("[x](../../runs/README.md#a)", "docs/how-to/engineer.md", "how-to/engineer.md", "[x](../reference/runs.md#a)"),
        # from such a page to one of docs/
        ("[x](../docs/results.md)", "benchmarks/README.md", "measured/objectives.md", "[x](../results.md)"),
        ("[x](docs/architecture.md)", "CONTRIBUTING.md", "contributing.md", "[x](architecture.md)"),
        # what they have beside them
        ("[x](NOTES.md)", "benchmarks/README.md", "measured/objectives.md", "[x](lab-book.md)"),
        ("![x](../benchmarks/growth.svg)", "docs/results.md", "results.md", "![x](measured/growth.svg)"),
        # code is not in the site
        ("see [step.py](../benchmarks/step.py).", "docs/results.md", "results.md", "see step.py."),
        ("[`a [0, 1]`](#b) and [c](https://d.e/f.md)", "docs/x.md", "x.md", "[`a [0, 1]`](#b) and [c](https://d.e/f.md)"),
    ],
)  # fmt: skip
def test_links_lead_to_where_the_site_has_a_page(text: str, path: str, place: str, expected: str) -> None:
    assert relinked(text, path, place) == expected


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does: a link or an anchor that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 15
    for page in [*pages, *(place for place in ELSEWHERE.values() if place.endswith(".md"))]:
        assert (site / page).with_suffix(".html").exists(), page
    assert not list(site.rglob("*.py")), "the code that makes the site is no part of it"


def test_the_reference_is_filled(site: Path) -> None:
    keys = (site / "reference" / "configuration.html").read_text("utf-8")
    assert 'id="distill.lr"' in keys and "<!-- made" not in keys
    assert 'id="gepa-loop-distill"' in (site / "reference" / "commands.html").read_text("utf-8")
    assert 'id="resultjson-of-loop"' in (site / "reference" / "runs.html").read_text("utf-8")


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="?([^" >]+)', text)
        fetched += re.findall(r'<link[^>]* rel="?(?:stylesheet|preconnect)[^>]* href="?([^" >]+)', text)
        assert fetched
        assert not [one for one in fetched if "//" in one], page.name

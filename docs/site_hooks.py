"""What mkdocs does besides: pages that stand elsewhere in the repository join the site, and its reference is made from the code."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from made_pages import filled

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "runs/README.md": "reference/runs.md",
    "benchmarks/README.md": "measured/objectives.md",
    "benchmarks/NOTES.md": "measured/lab-book.md",
    "benchmarks/PROTOCOL.md": "measured/protocol.md",
    "benchmarks/growth.svg": "measured/growth.svg",
    "benchmarks/scale.svg": "measured/scale.svg",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository outside of docs/, and where the site has them."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere."""
    from mkdocs.structure.files import File

    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_others: object) -> str:
    """Fill what is made from the code, and lead links to where the site has their targets."""
    place = page.file.src_uri
    path = next((path for path, there in ELSEWHERE.items() if there == place), f"docs/{place}")
    return "".join(
        part if part.startswith("```") else relinked(part, path, place)
        for part in re.split(r"(^```.*?^```$)", filled(markdown), flags=re.MULTILINE | re.DOTALL)
    )


def relinked(text: str, path: str, place: str) -> str:
    """A page's text with links for the site; a link to a file that the site does not have, as code is, becomes its words.

    Args:
        text: Markdown.
        path: Of the page in the repository.
        place: Of the page in the site.
    """

    def link(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        name, hash, anchor = target.partition("#")
        if "://" in target or not name:
            return found[0]
        aim = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        there = ELSEWHERE.get(aim, aim.removeprefix("docs/") if aim.startswith("docs/") else None)
        if there is None:
            return words
        return f"{mark}[{words}]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{hash}{anchor})"

    return LINK.sub(link, text)

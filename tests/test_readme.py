"""What the documents say of the repository."""

import re
from pathlib import Path

import runs_readme
from places import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
    ROOT / "runs" / "README.md",
]


def anchors(page: Path) -> set[str]:
    """Those of headings as GitHub makes them, and those that the page sets itself."""
    text = page.read_text("utf-8")
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r'<a name="([^"]+)">', text))


def test_the_architecture_names_every_room_and_nothing_else() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    picture = text.split("## The rooms")[1].split("```")[1]
    named = set(re.findall(r"^(\w+\.py|\w+/) ", picture, re.MULTILINE))
    package = ROOT / "gepa_loop"
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    assert named == rooms


def test_every_function_of_the_walks_is_where_they_say() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    walks = text.split("\n## A prompt's text")[1]
    found = re.findall(r"`([a-z_/]+)\.(?!json|py)([A-Za-z_]+)(?:\.([a-z_]+))?`", walks)
    assert len(found) > 15
    for module, name, method in found:
        code = (ROOT / "gepa_loop" / f"{module}.py").read_text("utf-8")
        assert re.search(rf"^(def|class) {name}\b", code, re.MULTILINE), f"{module}.{name}"
        assert not method or f"def {method}(" in code, f"{module}.{name}.{method}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(path), f"{page.name}: {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 100


def test_the_tables_of_runs_are_made_from_the_records() -> None:
    text = runs_readme.README.read_text("utf-8")
    assert runs_readme.page(text) == text, (
        f"runs/README.md is not as the records say; run {runs_readme.COMMAND}"
    )

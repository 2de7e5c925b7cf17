"""What the README says of the repository."""

import re

from places import ROOT


def test_the_list_of_files_names_every_module_and_nothing_else() -> None:
    listed = (ROOT / "README.md").read_text("utf-8").split("\ngepa_loop/\n")[1].split("\nprompts/ ")[0]
    named = re.findall(r"\b\w+\.py\b", listed)
    # The kernels of the samplers are named as a folder.
    modules = {
        path.name
        for path in (ROOT / "gepa_loop").rglob("*.py")
        if path.name != "__init__.py" and path.parent.name != "kernels"
    }
    assert modules - set(named) == set(), "modules that the README does not name"
    assert set(named) - modules == set(), "names of no module"

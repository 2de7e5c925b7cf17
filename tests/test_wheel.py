"""What an installed package has beside its code: all that stands in the repository's."""

import tomllib
from fnmatch import fnmatch

from places import ROOT

PACKAGE = ROOT / "gepa_loop"


def test_all_files_of_the_package_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    globs = settings["tool"]["setuptools"]["package-data"]["gepa_loop"]
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    data = [path.relative_to(PACKAGE) for path in files if path.suffix != ".py"]
    assert len(data) > 30
    for path in data:
        # setuptools' * stops at a slash, fnmatch's does not.
        fits = [one for one in globs if fnmatch(str(path), one) and one.count("/") == str(path).count("/")]
        assert fits, f"{path} would not be in the wheel: package-data of pyproject.toml"
    for one in globs:
        assert list(PACKAGE.glob(one)), f"{one} of package-data finds nothing"


def test_every_folder_of_code_is_a_package() -> None:
    """setuptools finds none without its __init__.py."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]

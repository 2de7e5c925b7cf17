"""The config file that `gepa-loop init` writes."""

from __future__ import annotations

from pathlib import Path

from gepa_loop.config.document import short_document
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError
from gepa_loop.run.files import write_text
from gepa_loop.start.proposal import Proposal

HEAD = """\
Written by `gepa-loop init`. Whatever is not here is as `gepa-loop config explain` says; change what is wrong.
`gepa-loop check` tries it on ten items, and `gepa-loop doctor` lists all faults."""


def place(path: str, folder: Path) -> str:
    """A file's path as a config in a folder names it: relative where it lies below."""
    whole = Path(path).expanduser().resolve()
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)


def check_target(target: Path, force: bool) -> None:
    """Refuse a file that is there already, unless `force`, and one that does not end in .toml.

    Raises:
        ConfigError: So it is.
    """
    if target.suffix != ".toml":
        raise ConfigError(f"--to {target}: not a name that ends in .toml")
    if target.exists() and not force:
        raise ConfigError(f"{target} is there already", "--force writes over it, --to names another file.")


def write_config(proposal: Proposal, target: Path) -> Config:
    """Write a configuration's file, and load it.

    Raises:
        EnvironmentFault: It cannot be written.
    """
    write_text(target, short_document(proposal.values, proposal.notes, HEAD))
    return load_config(str(target), env={}, cwd=target.parent)

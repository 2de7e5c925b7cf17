"""The config file that `gepa-loop init` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gepa_loop.config.document import short_document
from gepa_loop.config.layers import laid_over, section, set_layer
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError
from gepa_loop.run.files import write_text
from gepa_loop.start.proposal import Proposal

HEAD = """\
Written by `gepa-loop init`. Whatever is not here is as `gepa-loop config explain` says; change what is wrong.
`gepa-loop check` tries it on ten items, and `gepa-loop doctor` lists all faults."""

FLAGS = {
    "task.kind": "--data",
    "task.name": "--data",
    "task.group": "--group",
    "task.fields.question": "--question",
    "task.fields.answer": "--answer",
    "model.name": "--model",
    "optimize.seed_prompt": "--prompt",
    "optimize.seed_prompt_file": "--prompt",
}
"""Keys by which everything else is chosen, and the flags that say them before it is."""


def read_options(sets: Sequence[str]) -> dict[str, Any]:
    """What `--set` says of `task.options`, by which the data are read.

    Raises:
        ConfigError: A pair is not of the form key=value, or its key has a flag of its own.
    """
    layer, keys = set_layer(sets)
    if refused := next((key for key in FLAGS if key in keys), None):
        raise ConfigError(
            f"{keys[refused]}: what is proposed depends on {refused}", f"Say it with {FLAGS[refused]}."
        )
    return dict(section(layer, "task", "options"))


def with_sets(proposal: Proposal, sets: Sequence[str]) -> Proposal:
    """A proposal whose values are as `--set` says, without the reasons that there were for others."""
    layer, keys = set_layer(sets)
    notes = {key: note for key, note in proposal.notes.items() if key not in keys}
    said = [("set", f"{', '.join(sets)}: as --set says")] if sets else []
    return replace(
        proposal, values=laid_over(proposal.values, layer), notes=notes, said=(*proposal.said, *said)
    )


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


def read_config(proposal: Proposal, sets: Sequence[str], folder: Path) -> Config:
    """The configuration that a file in a folder would say, before it is written.

    Args:
        proposal: Without `sets`.
        sets: `key.path=value` pairs over it.
        folder: Where relative paths start.

    Raises:
        ConfigError: It cannot be used; of a pair it names the flag.
    """
    return load_config(proposal.values, sets, env={}, cwd=folder)


def write_config(proposal: Proposal, target: Path) -> None:
    """Write a configuration's file.

    Raises:
        EnvironmentFault: It cannot be written.
    """
    write_text(target, short_document(proposal.values, proposal.notes, HEAD))

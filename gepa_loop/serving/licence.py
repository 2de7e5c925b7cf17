"""The licence of a base model, under which its students are as well."""

from __future__ import annotations

import re
from pathlib import Path

from gepa_loop.model.bundled import SMOLLM, TINY
from gepa_loop.run.files import write_bytes
from gepa_loop.serving.places import is_place

KNOWN = {SMOLLM: "apache-2.0"}
"""Of bundled models, which have no card: as Hugging Face gives it."""
FILES = ("LICENSE", "LICENSE.txt")


def licence_of(name: str) -> str | None:
    """What a base's own model card says, a folder's or the hub's.

    Args:
        name: A folder, an id on the hub, or a bundled model's name.

    Returns:
        None where there is no card, it says nothing, or the hub cannot be asked.
    """
    if name in KNOWN or name == TINY:
        return KNOWN.get(name)
    card = _card(name)
    if card is None:
        return None
    # By hand: of a card whose front is no YAML this line may still be read.
    front = re.match(r"---\s*\n(.*?)\n---", card.read_text("utf-8-sig", errors="replace"), re.DOTALL)
    found = re.search(r"^license: *['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None


def _card(name: str) -> Path | None:
    from httpx import HTTPError
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    folder = Path(name).expanduser()
    if is_place(name) or folder.is_dir():
        file = folder / "README.md"
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(name, "README.md"))
    except (HTTPError, OSError, EntryNotFoundError, HFValidationError):
        return None


def copy_licence(base: str, folder: Path) -> None:
    """Copy the licence's own text where the base is a folder that has it.

    Raises:
        EnvironmentFault: The folder cannot be written.
    """
    for file in FILES:
        source = Path(base).expanduser() / file
        if source.is_file():
            write_bytes(folder / file, source.read_bytes())

"""Whether a model's config can be that of its weights, before any layer is built."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.errors import ModelError
from gepa_loop.outside.files import parse_json, read_file

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DEEPEST = 10_000
"""Layers of the deepest model that is built."""
LONGEST_INDEX = 2**26
"""Bytes of the longest list of a model's tensors."""


def check_depth(name: str, config: PretrainedConfig, place: str) -> None:
    """Refuse a config of more layers than its weights can be of: each would be built, whatever the files hold.

    Args:
        name: The model's, for the message of an error.
        config: Its config.
        place: Its folder, or its id on the hub; weights that are not here yet are not looked at.

    Raises:
        ModelError: Says both numbers.
    """
    layers, tensors = getattr(config, "num_hidden_layers", 0), _tensors(place)
    most = DEEPEST if tensors is None else min(tensors, DEEPEST)
    if not isinstance(layers, int) or layers > most:
        held = "no model has so many" if tensors is None else f"its weights hold {tensors:,} tensors"
        raise ModelError(
            f"model.name = {name!r}: its config.json says num_hidden_layers = {layers!r}, and {held}",
            "Copy or download the model again.",
        )


def _tensors(place: str) -> int | None:
    """How many tensors the weights of a folder, or of a hub model that is here already, hold by their headers."""
    from huggingface_hub import try_to_load_from_cache
    from safetensors import safe_open

    folder = Path(place)
    if not folder.is_dir():
        cached = try_to_load_from_cache(place, "config.json")
        folder = Path(cached).parent if isinstance(cached, str) else folder
    index = folder / "model.safetensors.index.json"
    if index.is_file():  # all of it, also where a download ended after some of the files
        with contextlib.suppress(OSError, ValueError):
            return len(parse_json(read_file(index, LONGEST_INDEX))["weight_map"]) or None
    found = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found += len(list(file.keys()))
    return found or None

"""What an export is to hold, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    to: Path
    merged: bool = False
    gguf: tuple[str, ...] = ()
    """GGUF files: kinds of weights (`gguf_file.KINDS`), or `lora` for the adapter alone."""
    ollama: bool = False
    """A Modelfile for the first GGUF file of weights."""
    base: str | None = None
    """The base's id on the hub, or where it lies, for whoever loads the adapter; None is the run's own."""
    rank: int | None = None
    """Of the exported adapter; None is its own, filled up with zeros to one that vLLM serves, or the largest that it serves."""


@dataclass(frozen=True)
class Exported:
    """What was written, in sentences, and how to go on."""

    said: tuple[str, ...]
    commands: tuple[str, ...]

"""Shell lines by which others serve a student that was exported."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from gepa_loop.sampling.vllm.options import RANKS, served_rank
from gepa_loop.serving.wanted import Wanted


def serve_lines(base: str, rank: int, folder: Path, wanted: Wanted) -> tuple[str, ...]:
    """What to type, each line quoted for a shell.

    Args:
        base: How the adapter's base is named.
        rank: Of the adapter; none by which vLLM serves the adapter where it takes no such rank.
        folder: The export.
        wanted: What it holds.
    """
    found = [["python", folder / "check.py"]]
    if wanted.merged:
        found.insert(0, ["vllm", "serve", folder / "merged"])
    if rank <= RANKS[-1]:
        loads = ["--enable-lora", "--max-lora-rank", served_rank(rank), "--lora-modules", f"student={folder}"]
        found.insert(0, ["vllm", "serve", base, *loads, "--chat-template", folder / "chat_template.jinja"])
    found += [
        ["llama-server", "-m", folder / f"student-{kind}.gguf", "--jinja"]
        for kind in wanted.gguf
        if kind != "lora"
    ]
    lines = [_line(words) for words in found]
    if wanted.ollama:
        create = ["ollama", "create", "student", "-f", folder / "Modelfile"]
        lines.append(f"{_line(create)} && ollama run student")
    return tuple(lines)


def _line(words: Sequence[object]) -> str:
    return shlex.join(map(str, words))

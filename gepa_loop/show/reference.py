"""What `config explain` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gepa_loop.config.reference import REQUIRED, Key


def shown_default(key: Key) -> str:
    """A key's default as TOML has it, or that there is none."""
    if not key.kind:
        return ""
    if key.default is REQUIRED:
        return "required"
    return "none" if key.default is None else json.dumps(key.default, ensure_ascii=False, default=str)


def key_list(keys: Sequence[Key]) -> Table:
    """Every key in a line: its default, and the first sentence of what it means."""
    table = Table(box=None, pad_edge=False, header_style="underline")
    table.add_column("key", overflow="fold")
    table.add_column("default", overflow="ellipsis", max_width=24, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for key in keys:
        style = "" if key.kind else "bold"
        table.add_row(
            Text(key.name, style), Text(shown_default(key)), Text(key.summary, "" if key.kind else "dim")
        )
    return table


def key_page(key: Key) -> Group:
    """One key, or the head of a table."""
    if not key.kind:
        return Group(Text(f"[{key.name}]", "bold"), Padding(Text(key.paragraphs[0]), (0, 0, 1, 2)))
    lines = [Text(f"where {key.under}", "dim")] if key.under else []
    lines += [Text(text) for text in key.paragraphs]
    lines.append(Text(f"read by: {key.readers}", "dim"))
    head = Text.assemble((key.name, "bold"), f"   {key.kind}   default: {shown_default(key)}")
    return Group(head, *(Padding(line, (0, 0, 0, 2)) for line in lines), Text(""))

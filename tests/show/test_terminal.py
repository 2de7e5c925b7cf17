"""What steers a terminal does not reach it, in whatever it stands."""

from __future__ import annotations

import io

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gepa_loop.show.terminal import Terminal

TITLE = "\x1b]0;OWNED\x07"
"""Gives a terminal's window another name."""


def shown(*objects: object, **options: object) -> str:
    file = io.StringIO()
    Terminal(file=file, width=200, **options).print(*objects)  # type: ignore[arg-type]
    return file.getvalue()


def test_control_characters_are_escapes_in_texts_tables_and_what_holds_them() -> None:
    table = Table(TITLE, title=TITLE, caption=Text(TITLE))
    table.add_row(Text(TITLE))
    table.add_row(f"a{TITLE}\u202eb")
    for found in (shown(TITLE), shown(Text(f"x {TITLE}")), shown(table), shown(Panel(Text(TITLE)))):
        assert "OWNED" in found and "\\x1b]0;OWNED" in found
        assert not any(char in found for char in "\x1b\x07\u202e"), found


def test_styles_and_moves_of_the_cursor_are_richs_own() -> None:
    found = shown(Text(f"red{TITLE}", "red"), force_terminal=True, color_system="standard")
    assert found == "\x1b[31mred\\x1b]0;OWNED\x1b[0m\n"
    file = io.StringIO()
    Terminal(file=file, force_terminal=True).show_cursor(False)
    assert file.getvalue() == "\x1b[?25l"

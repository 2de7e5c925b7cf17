"""Two texts compared: side by side on a wide terminal, else as a unified diff."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gepa_loop.outside.redact import escaped

SIDE_BY_SIDE = 100
"""Columns from which a terminal gets the texts side by side."""
CONTEXT = 3
"""Equal lines shown around a change."""
ALIKE = 0.5
"""Share of equal words from which two lines are one line that was changed."""
MOST = 400
"""Words, spaces and signs of lines that are compared word by word, and sentences of a line: the time grows with their third power."""
WORD = re.compile(r"\w+|\s+|[^\w\s]")
SENTENCE = re.compile(r".+?(?:[.!?]\s+|[。！？]|\Z)", re.DOTALL)
STYLES = {"-": "red", "+": "green", "@": "cyan"}


def print_diff(old: str, new: str, titles: tuple[str, str], console: Console) -> None:
    """Print what changed from `old` to `new` under a title for each; signs tell it where there is no colour."""
    before, after = old.split("\n"), new.split("\n")
    if console.is_terminal and console.width >= SIDE_BY_SIDE and old != new:
        console.print(_side_by_side(before, after, titles))
        return
    lines = list(difflib.unified_diff(before, after, *titles, n=CONTEXT, lineterm=""))
    for line in lines or [f"--- {titles[0]}", f"+++ {titles[1]}", "the texts are equal"]:
        if console.is_terminal:
            style = "bold" if line.startswith(("--- ", "+++ ")) else STYLES.get(line[:1], "")
            console.print(Text(line, style))
        else:
            console.file.write(escaped(line) + "\n")


def _side_by_side(before: list[str], after: list[str], titles: tuple[str, str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, expand=True)
    for sign, title in zip("-+", titles, strict=True):
        table.add_column(Text(sign, STYLES[sign]), width=1)
        table.add_column(Text(title), ratio=1, overflow="fold")
    for pair in line_pairs(before, after):
        if pair is None:
            table.add_row("", Text("⋯", "dim"), "", Text("⋯", "dim"))
        else:
            table.add_row(*_row(*pair))
    return table


def line_pairs(
    before: Sequence[str], after: Sequence[str]
) -> Iterator[tuple[str | None, str | None, bool] | None]:
    """Lines that stand beside each other, and whether they are equal, around what changed.

    Of a pair one is None where the other has no counterpart; None instead of a pair is equal lines that are left out.
    """
    matcher = difflib.SequenceMatcher(_blank, before, after, autojunk=False)
    for number, group in enumerate(matcher.get_grouped_opcodes(CONTEXT)):
        if number:
            yield None
        for kind, i, j, k, m in group:
            for left, right in zip_longest(before[i:j], after[k:m]):
                yield left, right, kind == "equal"


def _row(left: str | None, right: str | None, equal: bool) -> Iterator[Text]:
    """Sign and text of a line before, then after; None is a line that is not there."""
    texts = Text(left or ""), Text(right or "")
    if not equal and left is not None and right is not None:
        texts = _words(left, right)
    for sign, line, text in zip("-+", (left, right), texts, strict=True):
        changed = not equal and line is not None
        yield Text(sign if changed else "", STYLES[sign])
        text.style = STYLES[sign] if changed else ""
        yield text


def _words(left: str, right: str) -> tuple[Text, Text]:
    """Both lines, the words that differ marked where the lines are alike."""
    texts = Text(left), Text(right)
    for text, spans in zip(texts, word_spans(left, right), strict=True):
        for start, end in spans:
            text.stylize("bold reverse", start, end)
    return texts


def word_spans(left: str, right: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the words of two lines differ, in each; nowhere where they are not one line that was changed."""
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
    equal = total = 0
    starts = 0, 0
    for pair in _sentences(left, right):
        before, after = (WORD.findall(text) for text in pair)
        total += len(before) + len(after)
        for kind, i, j, k, m in _changes(before, after):
            if kind == "equal":
                equal += 2 * (j - i)
                continue
            for spans, words, begin, start, end in zip(
                found, (before, after), starts, (i, k), (j, m), strict=True
            ):
                at = begin + len("".join(words[:start]))
                spans.append((at, at + len("".join(words[start:end]))))
        starts = starts[0] + len(pair[0]), starts[1] + len(pair[1])
    return found if equal >= ALIKE * total else ([], [])


def _sentences(left: str, right: str) -> Iterator[tuple[str, str]]:
    """Parts of two lines whose words are compared: of short lines all, of long ones sentence by sentence; "" has no counterpart."""
    if max(len(WORD.findall(line)) for line in (left, right)) <= MOST:
        yield left, right
        return
    before, after = SENTENCE.findall(left), SENTENCE.findall(right)
    for _, i, j, k, m in _changes(before, after):
        yield from zip_longest(before[i:j], after[k:m], fillvalue="")


def _changes(before: Sequence[str], after: Sequence[str]) -> Sequence[tuple[str, int, int, int, int]]:
    """difflib's opcodes; of more than `MOST` parts, that all were replaced."""
    if before != after and max(len(before), len(after)) > MOST:
        return [("replace", 0, len(before), 0, len(after))]
    return difflib.SequenceMatcher(_blank, before, after, autojunk=False).get_opcodes()


def _blank(part: str) -> bool:
    """Blank lines and spaces are compared beside what is equal alone: they make any two texts alike, and there are many of them."""
    return not part or part.isspace()

"""What `init`, `check` and `doctor` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.padding import Padding
from rich.prompt import Prompt
from rich.table import Table
from rich.text import Text

from gepa_loop.outside.redact import printable
from gepa_loop.show.terminal import Terminal
from gepa_loop.start.doctor import Finding
from gepa_loop.start.rehearsal import Worth
from gepa_loop.start.survey import Survey
from gepa_loop.start.trial import Tried
from gepa_loop.task.records import Item, short


def survey_table(found: Survey) -> Padding:
    """The fields of the data, one a line."""
    rows = len(found.records)
    table = Table(box=None, pad_edge=False, header_style="underline")
    for name, right in (
        ("field", False),
        ("holds", False),
        ("filled", True),
        ("different", True),
        ("for example", False),
    ):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for field in found.fields:
        filled = "all" if field.filled == rows else f"{field.filled:,}"
        table.add_row(
            Text(printable(field.name)),
            field.kind,
            filled,
            f"{field.distinct:,}",
            Text(printable(field.example), "dim"),
        )
    return Padding(table, (0, 0, 1, 2))


def said_table(said: Sequence[tuple[str, str]]) -> Table:
    """What was found and what is proposed, each sentence beside what it is about."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for about, sentence in said:
        table.add_row(about, Text(printable(sentence)))
    return table


MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "fault": ("fault", "bold red")}


def finding_row(one: Finding) -> Table:
    """A thing that was looked at; what is no more than ok without its hint."""
    row = Table(box=None, pad_edge=False, show_header=False)
    row.add_column(width=5, no_wrap=True)
    row.add_column(width=10, style="bold", no_wrap=True)
    row.add_column(overflow="fold")
    text = Text(printable(one.sentence))
    if one.hint and one.state != "ok":
        text.append(f"\n{printable(one.hint)}", "dim")
    row.add_row(Text(*MARKS[one.state]), one.about, text)
    return row


def tried_lines(one: Tried, scored: bool) -> Iterator[Text]:
    """An item: the question, the expected answer, and both replies with what was read from them."""
    yield Text.assemble((one.item.id, "bold"), "  ", _short(one.item.question, 300))
    if one.item.answer:
        yield _line("expected", one.item.answer, "", "")
    for who, row in (("bare", one.bare), ("prompted", one.prompted)):
        told = []
        if row.finish_reason == "length":
            told.append("cut")
        if scored and row.extracted is None:
            told.append("nothing read")
        elif scored and row.extracted is not None and row.extracted.strip() != row.completion.strip():
            told.append(f"read {_short(row.extracted, 40)!r}")
        style = "green" if row.score >= 1 else "" if row.score > 0 else "red"
        yield _line(who, row.completion, f"{row.score:.2f}" if scored else "", ", ".join(told), style)


def item_lines(items: Sequence[Item], most: int = 3) -> Iterator[Text]:
    """The first items: what is asked, what is expected."""
    for item in items[:most]:
        yield Text.assemble((item.id, "bold"), "  ", _short(item.question, 300))
        yield _line("expected", item.answer or "(no answer)", "", "")


def worth_lines(worths: Sequence[Worth]) -> Iterator[Text]:
    """What each reply is worth, those to one item together, and what the reflection would read of it."""
    item = ""
    for one in worths:
        if one.item != item:
            item = one.item
            yield Text.assemble("\n", (item, "bold"))
        yield Text.assemble(
            (f"  {one.score.value:.2f}  ", ""),
            (f"{one.what:<22} ", "dim"),
            _short(one.reply, 60) or "(nothing)",
            (f"\n        {_short(one.score.feedback, 200)}" if one.score.feedback else "", "dim"),
        )


def _line(who: str, text: str, score: str, told: str, style: str = "") -> Text:
    shown = _short(text, 300) or "(nothing)"
    parts = [(f"  {who:<9} ", "dim"), (f"{score:<4} " if score else "     ", style), (shown, "")]
    return Text.assemble(*parts, (f"  [{told}]" if told else "", "yellow"))


def _short(text: str, most: int) -> str:
    return short(" ".join(printable(text).split()), most)


class AskPerson:
    """Asks a person which field is what; Return takes what is proposed, a minus none."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def __call__(self, what: str, proposed: str | None, known: Sequence[str]) -> str | None:
        shown = (proposed or "-").replace("\n", "\\n")
        while True:
            try:
                said = Prompt.ask(
                    f"  {what}: which field? [dim](- for none)[/dim]", console=self.terminal, default=shown
                )
            except EOFError:
                return proposed
            said = said.strip()
            if said == shown:
                return proposed
            if said == "-":
                return None
            if said in known or (what == "question" and "{" in said):
                return said.replace("\\n", "\n")
            self.terminal.print(f"  there is no field {said!r}", highlight=False)

"""The prompts of a search on the terminal: listed, shown with where they came from, compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gepa_loop.outside.redact import escaped
from gepa_loop.scores.numbers import decimal, gain_text, items_text, p_sentence, p_text, score_text
from gepa_loop.scores.records import DifferenceRecord
from gepa_loop.search.records import CandidateRow, CostRecord, FrontRow, SearchRecord, SpentRecord, Status
from gepa_loop.show.names import named, nickname
from gepa_loop.show.searches import Search, accepted, lineage
from gepa_loop.show.textdiff import print_diff

LEAST, HOW = 80, 16
"""Columns from which a terminal keeps tables within its edge, and those of how a prompt was made that are room enough."""
STYLES: dict[Status, str] = {"accepted": "green", "rejected": "yellow", "refused": "red", "failed": "red"}
FATES: dict[Status, str] = {"accepted": "accepted on a minibatch"}
"""What is more than its word says: a front may have none of those."""
RIGHT = {"#", "tokens", "pareto", "p"}
"""Columns of numbers."""


def print_front(search: Search, console: Console) -> None:
    """The front, best first; before there is one, the accepted candidates so far."""
    if not search.front:
        state = f"no front yet in {search.name}: the search is running or was stopped; "
        state += "accepted so far:" if search.tried else "nothing is recorded so far"
        console.print(Text(state, "bold"))
        if search.tried:
            _print_tried(accepted(search), console)
        _print_ending(search, console)
        return
    items, judged = len(search.tried[0]["pareto_scores"]), search.front[0]["select"]
    if judged is None:
        title = f"pool of {search.name}, best first, by {items} items of pareto that the search has chosen by"
        title += "; students decide"
        names = ["id", "name", "tokens", "pareto", "how it was made"]
    elif search.result is not None and len(search.result["finalists"]) == 1:
        title = f"front of {search.name}, the seed prompt alone: {items} items of pareto, {judged['n']} of select; 95 % intervals"
        names = ["id", "name", "tokens", "pareto", "select", "how it was made"]
    else:
        title = f"front of {search.name}, best first: {items} items of pareto, {judged['n']} of select; 95 % intervals; "
        title += "p after Holm's correction; the first was chosen on these items of select, so its score there is on the high side"
        names = ["id", "name", "tokens", "pareto", "select", "against the seed", "p", "how it was made"]
    console.print(Text(title, "bold"))
    facts = [_front_facts(row, search.result) for row in search.front]
    rows = [[own[name] for name in names] for own in facts]
    if not console.is_terminal or _has_room(names, rows, console.width):
        _print_table(names, rows, console)
    else:
        shorter = [[id_, *rest] for id_, _, *rest, _ in rows]
        _print_table([names[0], *names[2:-1]], shorter, console)
        console.print()
        for id_, name, *_, how in rows:
            console.print(Text(f"{id_}  {name}: {how}"))
    _print_ending(search, console)


def _has_room(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a terminal shows all columns, the last one wrapped where that leaves it `HOW`."""
    *most, how = (max(map(cell_len, column)) for column in zip(names, *rows, strict=True))
    return sum(most) + 2 * len(names) - 1 + min(how, HOW) <= width


def _front_facts(row: FrontRow, result: SearchRecord | None) -> dict[str, str]:
    """What can be told of a prompt, by the column that tells it."""
    judged = row["select"]
    return {
        "id": row["id"],
        "name": nickname(row["id"]),
        "tokens": str(row["tokens"]),
        "pareto": decimal(row["pareto_mean"]),
        "select": "-" if judged is None else score_text(judged),
        "against the seed": _gain(row["against_seed"]),
        "p": "-" if row["adjusted_p"] is None else p_text(row["adjusted_p"]),
        "how it was made": _line(
            f"{row['how']} (winner)" if result and result["winner"] == row["id"] else row["how"]
        ),
    }


def print_all(search: Search, console: Console) -> None:
    """Every proposal in order, with what became of it."""
    console.print(Text(f"all {len(search.tried)} candidates of {search.name}, in order", "bold"))
    _print_tried(search.tried, console)
    _print_ending(search, console)


def print_candidate(search: Search, row: CandidateRow, console: Console) -> None:
    """Where a candidate came from, its scores and costs, and its text, but for control characters as it is."""
    console.print(Text(f"candidate {named(row['id'])} of {search.name}: {row['status']}", "bold"))
    names = ["#", "id", "made from", "tokens", "pareto", "status", "how it was made"]
    steps: list[list[str | Text]] = [
        [str(one["number"]), one["id"], " ".join(one["parents"]) or "-", *_standing(one), _line(one["how"])]
        for one in lineage(search, row)
    ]
    _print_table(names, steps, console)
    console.print()
    for name, fact in _facts(search, row):
        console.print(Text.assemble((f"{name:<12}", "dim"), fact))
    console.print(Text("\ntext", "bold"))
    console.file.write(escaped(row["text"]) + "\n")


def print_comparison(old: CandidateRow, new: CandidateRow, console: Console) -> None:
    """What changed from one candidate's text to another's."""
    print_diff(old["text"], new["text"], (_title(old), _title(new)), console)


def _title(row: CandidateRow) -> str:
    mean = row["status"] if row["pareto_mean"] is None else f"{decimal(row['pareto_mean'])} on pareto"
    return f"{row['id']}  {row['tokens']} tokens, {mean}"


def _facts(search: Search, row: CandidateRow) -> Iterator[tuple[str, str]]:
    if row["reason"]:
        yield "reason", _line(row["reason"])
    if row["pareto_mean"] is not None:
        yield "pareto", f"{decimal(row['pareto_mean'])} on {len(row['pareto_scores'])} items"
    for final in (final for final in search.front if final["id"] == row["id"]):
        if (judged := final["select"]) is not None:
            yield "select", f"{score_text(judged)} on {items_text(judged['n'])}"
        if final["against_seed"] is not None:
            p = (
                ""
                if final["adjusted_p"] is None
                else f", {p_text(final['adjusted_p'])} after Holm's correction"
            )
            yield (
                "",
                f"{gain_text(final['against_seed'])} against the seed, {p_sentence(final['against_seed']['p'])}{p}",
            )
    if row["train_scores"]:
        yield "minibatch", _minibatch(row)
    if row["objectives"]:
        named = (f"{name.replace('_', ' ')} {value:.4g}" for name, value in row["objectives"].items())
        yield "objectives", ", ".join(named)
    yield "cost", f"{_costs(row['cost'])}; the search up to here {_costs(row['spent'])}"


def _minibatch(row: CandidateRow) -> str:
    mine, parents = _means(row["train_scores"]), _means(row["parent_scores"])
    text = f"{decimal(sum(mine.values()) / len(mine))} on {len(mine)} items"
    both = mine.keys() & parents.keys()
    if not both:
        return text
    better, worse = sum(mine[i] > parents[i] for i in both), sum(mine[i] < parents[i] for i in both)
    parent = sum(parents.values()) / len(parents)
    return f"{text}, its parent {decimal(parent)}: {better} better, {worse} worse"


def _means(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {item: sum(samples) / len(samples) for item, samples in scores.items()}


def _print_tried(rows: Sequence[CandidateRow], console: Console) -> None:
    names = ["#", "id", "name", "tokens", "pareto", "status", "how it was made; why it was not accepted"]
    hows = (f"{row['how']}; {row['reason']}" if row["reason"] else row["how"] for row in rows)
    cells: list[list[str | Text]] = [
        [*_called(row), *_standing(row), _line(how)] for row, how in zip(rows, hows, strict=True)
    ]
    _print_table(names, cells, console)


def _called(row: CandidateRow) -> tuple[str, str, str]:
    """Number, id, name."""
    return str(row["number"]), row["id"], nickname(row["id"])


def _standing(row: CandidateRow) -> tuple[str, str, Text]:
    """Tokens, mean on pareto, status."""
    mean = "-" if row["pareto_mean"] is None else decimal(row["pareto_mean"])
    return str(row["tokens"]), mean, Text(row["status"], STYLES.get(row["status"], ""))


def _print_ending(search: Search, console: Console) -> None:
    """What ended the search, what it spent, and its reason in words."""
    if not search.tried:
        return
    result = search.result
    spent = _costs(search.tried[-1]["spent"] if result is None else result["spent"])
    ended = " so far" if result is None else f"; stopped by {result['stopped_by']}\n{result['reason']}"
    made = Counter(row["status"] for row in search.tried[1:])
    fates = ", ".join(f"{made[status]} {FATES.get(status, status)}" for status in STYLES if made[status])
    count = f"{made.total()} proposal{'s' * (made.total() != 1)}"
    console.print(Text(f"\n{count} ({fates or 'none'}), {spent}{ended}"))


def _print_table(names: Sequence[str], rows: Sequence[Sequence[str | Text]], console: Console) -> None:
    """Keeps a terminal's edge by wrapping the last column; elsewhere a row is one line, however long."""
    bounded = console.is_terminal and console.width >= LEAST
    box, gap = (SIMPLE_HEAD, 1) if bounded else (None, 2)
    table = Table(box=box, padding=(0, gap, 0, 0), show_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=name != names[-1])
    for row in rows:
        # A str would be read as markup.
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    if bounded:
        console.print(table)
        return
    for line in console.render_lines(table, console.options.update(max_width=10**6), pad=False):
        console.print(Text("".join(segment.text for segment in line).rstrip()))


def _line(text: str) -> str:
    return " ".join(text.split())


def _gain(gain: DifferenceRecord | None) -> str:
    return "-" if gain is None else gain_text(gain)


def _costs(cost: CostRecord | SpentRecord) -> str:
    usd = f"${cost['usd']:.4f}, " if cost["usd"] else ""
    return f"{cost['rollouts']:,} rollouts, {usd}{cost['seconds']:.0f} s"

"""The tables and lines that a command ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gepa_loop.scores.card import WAYS, Way
from gepa_loop.scores.numbers import (
    decimal,
    gain_text,
    interval_text,
    is_flat,
    items_text,
    p_sentence,
    p_text,
    score_text,
)
from gepa_loop.scores.outcome import ground, no_student
from gepa_loop.scores.over_seeds import LEAST, SAME
from gepa_loop.scores.records import CardRecord, DifferenceRecord, RatioRecord
from gepa_loop.scores.results import LoopRecord

if TYPE_CHECKING:
    from gepa_loop.stages.records import EvaluatedRecord, RetainedRecord, RetentionRecord
    from gepa_loop.sweep import SweepRecord


Subject = Literal["base", "prompted", "student"]
SUBJECTS: tuple[Subject, ...] = ("base", "prompted", "student")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def result_table(result: LoopRecord) -> Table:
    """The end of a run: base, base + prompt and student on `test`, greedily and sampled, and what the student gained."""
    tokens = result["tokens"]
    table = _card_table("test", result["decides"], result["sampled"]["base"], "system")
    names: dict[Subject, str] = {
        "base": "base",
        "prompted": f"{ground(result['rounds'])} + {_asked(result)}",
        "student": "student",
    }
    for key, name in names.items():
        system = str(tokens["prompt"] if key == "prompted" else tokens.get("bare", 0))
        _add_cards(table, name, {way: result[way][key] for way in WAYS}, system)
    _add_gaps(table, "student - base", {way: result[way]["student_minus_base"] for way in WAYS})
    if result["test"]["student"] is None:
        table.caption = Text(f"student: {no_student(result['rounds'])}")
    return table


def _asked(result: LoopRecord) -> str:
    """The prompt of a loop's table: without a winner which one, as that of the best student may be another."""
    return "prompt" if result["adapter"] is not None else f"prompt {PurePath(result['prompt']).stem}"


def retention_table(result: RetentionRecord) -> Table:
    """The end of a distillation: the bare model, the prompted one, the student, and the student with the prompt."""
    table = _card_table("test", result["decides"], result["sampled"]["base"], "system")
    names: dict[Literal["base", "prompted", "student", "student_prompted"], str] = {
        "base": "base",
        "prompted": "base + prompt",
        "student": "student",
        "student_prompted": "student + prompt",
    }
    for key, name in names.items():
        system = result["tokens"]["prompt" if key.endswith("prompted") else "bare"]
        _add_cards(table, name, {way: result[way][key] for way in WAYS}, str(system))
    _add_gaps(table, "student - base", {way: result[way]["student_minus_base"] for way in WAYS})
    return table


def retention_lines(result: RetentionRecord) -> Iterator[str]:
    """How much of the prompt's effect the student has, and what it lost."""
    # Without answers no score is an effect of the prompt: greedily it has all of them by construction.
    for way in () if result["answers"] == "references" else WAYS:
        one = result[way]
        share = one["internalisation"]
        if share is None:
            low, high = one["prompted_minus_base"]["ci"]
            said = (
                f"no teacher gap: the prompt changes the score by {gain_text(one['prompted_minus_base'])}"
                if low <= 0 <= high
                else "no share"
            )
        else:
            said = f"{score_text(share)} of the prompt's effect"
        kept = "" if one["kept"] is None else f"keeps {decimal(one['kept'])} of what it gains, "
        yield (
            f"student, {way}: {said}; by items it {kept}has {decimal(one['beyond'])} beyond it and lost "
            f"{decimal(one['broke'])} of what the base had"
        )
    if result["answers"] == "references":
        yield (
            "scores are the share of replies equal to the prompted model's greedy one, as the task has no answers: "
            f"{agreement(result['sampled'], 'it')}"
        )
    if written := result["train"]["written"]:
        yield f"trained on {result['train']['items']:,} questions, {written:,} of them written for it"


def agreement(sampled: RetainedRecord, reply: str) -> str:
    """How often the student gives the prompted model's greedy reply, where a task has no answers, and what that says of it.

    Args:
        sampled: Scores of sampled replies; greedily the prompted model has all of them.
        reply: What the greedy reply is called.
    """
    own, theirs = sampled["student"]["mean"], sampled["prompted"]["mean"]
    gap = sampled["student_minus_prompted"]
    said = f"so the student falls behind by {decimal(max(0.0, -gap['ci'][0]))} at most (95 %)"
    if not theirs:
        said = "so only the KL compares them"
    elif is_flat(gap):
        said = "on every item alike"
    return f"sampled, the student gives {reply} {decimal(own)} of the time and the prompted model itself {decimal(theirs)}, {said}"


def reply_lines(result: RetentionRecord) -> Iterator[str]:
    """A few questions with the greedy replies of the bare model, the prompted one and the student."""
    for one in result["examples"]:
        yield f"\n{_one_line(one['question'])}"
        for name in SUBJECTS:
            yield f"  {name:<9} {_one_line(one[name])}"


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 150 else f"{flat[:147]}..."


def round_lines(result: LoopRecord) -> Iterator[str]:
    """What each round with a winner gained on `test` over the model it found, and how much of its prompt's gain that is; then why
    there is no further round, where one found nothing."""
    for one in result["rounds"]:
        if one["test"] is not None:
            student = one["test"]["student_minus_base"]
            assert student is not None, "a round that was tested has a winner"
            gain, prompt = gain_text(student), gain_text(one["test"]["prompted_minus_base"])
            p = p_sentence(student["p"])
            found = ground(result["rounds"], one["round"])
            yield (
                f"round {one['round']} on test, against {found}: with the prompt {prompt}, the student without it "
                f"{gain}, {p}{_kept(one['internalisation'], one['test']['prompted_minus_base'])}"
            )
    last = result["rounds"][-1]
    if last["ended"] is not None:
        yield f"no further round after round {last['round']}: {last['ended']}"


def _kept(share: RatioRecord | None, prompt: DifferenceRecord) -> str:
    """How much of a prompt's gain its student has, as the end of a sentence."""
    low, high = prompt["ci"]
    if share is not None:
        return f"; it keeps {score_text(share)} of the prompt's gain"
    return "; what it keeps of the prompt's gain is not known, as that may be 0" if low <= 0 <= high else ""


def compare_table(result: EvaluatedRecord, labels: Sequence[str]) -> Table:
    """Subjects on a split, greedily and sampled, and the first against the second where there are two."""
    table = _card_table(result["split"], result["decides"], result["sampled"]["subjects"][0])
    for number, label in enumerate(labels):
        _add_cards(table, label, {way: result[way]["subjects"][number] for way in WAYS})
    _add_gaps(table, "difference", {way: result[way]["difference"] for way in WAYS})
    return table


def _card_table(split: str, decides: Way, sampled: CardRecord, *more: str) -> Table:
    """A table for `_add_cards`; `sampled` is a card of sampled replies, `more` are further columns."""
    table = _table(
        f"{split}, {items_text(sampled['n'])}; sampled: {sampled['samples']} replies an item; {decides} scores decide"
    )
    table.caption_justify = "left"
    table.add_column(overflow="fold")
    for name in ("", "score", "95 % interval", f"pass@{sampled['samples']}", "reply", "cut", *more):
        table.add_column(name, justify="left" if name in ("", "95 % interval") else "right", overflow="fold")
    return table


def _add_cards(table: Table, name: str, cards: Mapping[Way, CardRecord | None], *more: str) -> None:
    """A subject's rows, where it has cards."""
    for way, card in cards.items():
        if card is not None:
            passed = decimal(card["pass_at_k"]) if card["samples"] > 1 else ""
            rest = (passed, f"{card['tokens']:.1f}", f"{card['cut']:.0%}", *more)
            table.add_row(
                Text(name if way == WAYS[0] else ""),
                way,
                decimal(card["mean"]),
                interval_text(card["ci"]),
                *rest,
            )


def _add_gaps(table: Table, name: str, gaps: Mapping[Way, DifferenceRecord | None]) -> None:
    """Lines below the table: a difference, each way, where there is one."""
    lines = [
        f"{name}, {way}: {gain_text(gap)}, {p_sentence(gap['p'])}, paired by item"
        for way, gap in gaps.items()
        if gap is not None
    ]
    table.caption = Text("\n".join(lines)) if lines else None


def sweep_table(result: SweepRecord) -> Table:
    """The end of a sweep: every cell's student on `select`, against the baseline cell, over seeds."""
    seeds = len(result["seeds"])
    tested = (
        "95 % intervals and p over seeds (t)"
        if seeds >= LEAST
        else f"no interval and no p below {LEAST} seeds"
    )
    table = _table(
        f"{result['grid']}: students without a prompt on {result['split']}, {seeds} seed{'s' * (seeds > 1)}, "
        f"{result['items']} distinct items; {tested}; the base's intervals over items"
    )
    table.add_column("cell", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("interval")
    table.add_column("by seed")
    table.add_column(f"against {result['baseline']}")
    table.add_column("p (Holm)", justify="right")
    several = len(result["untrained"]) > 1
    for one in result["untrained"]:
        of = f" ({', '.join(one['cells'])})" if several else ""
        for name, score in (("base", one["base"]), ("base + prompt", one["prompted"])):
            cells = decimal(score["mean"]), interval_text(score["ci"])
            table.add_row(Text(f"{name}{of}", "dim"), *cells)
    for cell in result["cells"]:
        student, gap = cell["student"], cell["difference"]
        interval = "-" if student["ci"] is None else interval_text(student["ci"])
        by_seed = " ".join(decimal(value) for value in student["by_seed"])
        against = "" if gap is None else decimal(gap["mean"], "+")
        if gap is not None:
            against += " -" if gap["ci"] is None else f" {interval_text(gap['ci'], '+')}"
        p = "" if gap is None else "-" if gap["p"] is None else p_text(gap["p"])
        table.add_row(Text(cell["cell"]), decimal(student["mean"]), interval, by_seed, against, p)
    shown = [
        one for cell in result["cells"] for one in (cell["student"], cell["difference"]) if one is not None
    ]
    if seeds >= LEAST and any(one["ci"] is None for one in shown):
        table.caption, table.caption_justify = f"-: {SAME}", "left"
    return table

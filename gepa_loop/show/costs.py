"""What a plan and a finished run say of minutes, memory, dollars, and of what they are for."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gepa_loop.config.whole import Config
from gepa_loop.cost.pace import Pace
from gepa_loop.cost.records import CostsRecord, ReadingRecord, UsdRecord, WorthRecord
from gepa_loop.cost.schedule import ALONE, MEASURED
from gepa_loop.stages.counts import sweep_stages
from gepa_loop.start.plan import Plan, PlannedStage
from gepa_loop.start.room import COPY
from gepa_loop.task.judge import dollars

UNKNOWN = "?"


def plan_table(made: Plan, gpu_usd_hour: float | None) -> Table:
    """Stages with most rollouts, tokens, minutes and dollars, and their sum."""
    table = Table(
        title="at most", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    shown = ["stage", "rollouts", "tokens to write", "minutes"]
    if made.usd != 0:
        shown.append("US$ of APIs")
    if gpu_usd_hour is not None:
        shown.append(f"US$ of {made.gpus} GPUs" if made.workers else "US$ of the machine")
    for name in shown:
        table.add_column(name, justify="left" if name == "stage" else "right")
    whole = PlannedStage(
        "in all",
        sum(one.rollouts for one in made.stages),
        sum(one.tokens for one in made.stages),
        made.seconds,
        made.usd,
    )
    for one in (*made.stages, whole):
        gpu = one.seconds and gpu_usd_hour and made.gpus * one.seconds / 3600 * gpu_usd_hour
        cells = [
            *([f"{one.rollouts:,}", f"{one.tokens:,}"] if one.rollouts else ["-", "-"]),
            UNKNOWN if one.seconds is None else minutes(one.seconds) if one.seconds else "-",
            *([] if made.usd == 0 else [UNKNOWN if one.usd is None else _money(one.usd)]),
            *([] if gpu_usd_hour is None else [UNKNOWN if gpu is None else _money(gpu)]),
        ]
        table.add_row(
            Text(one.name), *cells, style="bold" if one is whole else "", end_section=one is made.stages[-1]
        )
    return table


def workers_table(made: Plan, gpu_usd_hour: float | None) -> Table:
    """What other numbers of workers would take, and what keeps each from taking less."""
    table = Table(
        title="on paper", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    shown = ["workers", "minutes", *([] if gpu_usd_hour is None else ["US$ of their GPUs"])]
    for name in shown:
        table.add_column(name, justify="right")
    table.add_column("limited by")
    for one in made.on_paper:
        usd = [] if gpu_usd_hour is None else [_money(one.gpus * one.seconds / 3600 * gpu_usd_hour)]
        style = "bold" if one.workers == made.workers else ""
        table.add_row(f"{one.workers}", minutes(one.seconds), *usd, Text(one.limit), style=style)
    return table


def plan_lines(made: Plan) -> Iterator[str]:
    """What stands below the table."""
    yield from made.lines
    if made.stages:
        yield f"minutes, without loading, as a sample of rollouts ran on {made.device}{_pace_text(made.pace) if made.trains else ''}"
    if made.workers:
        yield (
            "minutes with workers are on paper, each with a device like this one: work is shared out as by a run, and a call of r rows on "
            f"a GPU lasts as long as r + {ALONE:.0f} rows of a large one; no more than {MEASURED} workers have been measured"
        )
    if made.trains and made.pace is None:
        yield "minutes of training are not known, as nothing like it was trained here: `gepa-loop plan --measure` times three steps"
    if made.memory:
        parts = ", ".join(f"{name} {_tenths(size)}" for name, size in made.memory.items())
        peak = "" if made.pace is None else f"; a step took {_tenths(made.pace.peak_gib)} in all"
        yield f"memory: {_tenths(sum(made.memory.values()))} GiB and activations: {parts}{peak}"
        if made.workers:
            least = sum(made.memory.values()) - made.memory[COPY]
            yield (
                f"{COPY} lies beside a worker, on the last GPU, where there are no more GPUs than workers; a worker without it takes "
                f"{_tenths(least)} GiB"
            )
    if made.worth is not None:
        if made.seconds is None:
            yield from worth_lines(made.worth, "`gepa-loop plan --measure`")
        else:
            yield from worth_lines(made.worth)


def sweep_line(configs: Collection[Config]) -> str:
    """What the students of a sweep take together; how long a step of each takes nobody has timed."""
    stages = sweep_stages(configs)
    parts = ", ".join(f"{name} {count:,}" for name, count in stages.items())
    steps = sum(config.distill.steps for config in configs)
    return (
        f"in all at most {len(configs)} students, {steps:,} steps, {sum(stages.values()):,} rollouts: {parts}; "
        "for minutes, `gepa-loop distill --dry-run` with what a cell sets"
    )


def _pace_text(pace: Pace | None) -> str:
    return "" if pace is None else f"; a training step {pace.seconds:.2g} s a student, as in {pace.source}"


def costs_lines(costs: CostsRecord) -> Iterator[str]:
    """What a run took, and what its student saves."""
    parts = costs["seconds"]
    said = ", ".join(f"{name} {minutes(seconds)}" for name, seconds in parts.items() if seconds >= 1)
    peak = "" if costs["peak_gib"] is None else f", up to {_tenths(costs['peak_gib'])} GiB in training"
    yield f"took {minutes(sum(parts.values()))} minutes on {costs['device']}{paid_text(costs['usd'])}{peak}: {said}"
    if costs["worth"] is not None:
        yield from worth_lines(costs["worth"])


def worth_lines(worth: WorthRecord, tells: str = "--set cost.gpu_usd_hour=...") -> Iterator[str]:
    """Tokens of a call now and after, dollars of a month, and from which call on the student has paid for itself; `tells` is what
    would tell that where it is not known."""
    now, after = worth["now"], worth["after"]
    before = now["system"] + now["question"]
    written = ""
    if now["reply"] is not None and after["reply"] is not None:
        written = f"; it writes {now['reply']:.1f} and {after['reply']:.1f}"
    yield (
        f"a call reads {before:,.0f} tokens with the prompt and {after['system'] + after['question']:,.0f} without it: "
        f"{worth['saved']:,.0f} less, {worth['saved'] / before:.0%}{written}"
    )
    for name, one in (
        ("each call reading the prompt anew", worth["anew"]),
        ("with a prefix cache", worth["cached"]),
    ):
        if text := reading_text(worth, one):
            yield f"{name}: {text}"
    unpaid = worth["anew"]["break_even"] is None and worth["saved"] > 0
    if worth["price"] is not None and unpaid:
        yield f"when the tokens that it does not read have paid for it is not known without what training costs: {tells}"
    if worth["price"] is None:
        yield "dollars: name --set cost.gpu_usd_hour=... or cost.input_usd=... (a million tokens read), and cost.calls=... a month"


def paid_text(usd: UsdRecord) -> str:
    """What was paid, as the end of a phrase; empty where nothing is known of it."""
    known = {"machine": usd["gpu"], "reflection": usd["reflection"], "judge": usd["judge"]}
    return "".join(f", {name} {dollars(value)}" for name, value in known.items() if value)


def reading_text(worth: WorthRecord, one: ReadingRecord) -> str:
    """A month's dollars, and when a student is paid back; empty where nothing is known."""
    return "; ".join(_reading(worth, one))


def _reading(worth: WorthRecord, one: ReadingRecord) -> Iterator[str]:
    month = one["month"]
    if month is not None:
        yield f"a month of {worth['calls']:,} calls reads for {dollars(month['now'])} now and {dollars(month['after'])} after"
    if one["break_even"] is not None:
        yield f"the tokens that it does not read have paid for it after {one['break_even']:,} calls"
    elif one["usd"] is not None and one["usd"] <= 0:
        yield "reading less saves nothing, so it never pays"


def minutes(seconds: float) -> str:
    """Minutes, with one digit behind the point below ten."""
    return _tenths(seconds / 60) if seconds < 600 else f"{seconds / 60:,.0f}"


def _tenths(value: float) -> str:
    return "< 0.1" if 0 < value < 0.05 else f"{value:.1f}"


def _money(usd: float) -> str:
    return dollars(usd) if usd else "-"

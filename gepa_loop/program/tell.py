"""What a person reads at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gepa_loop.session import shown
from gepa_loop.show.terminal import Terminal

if TYPE_CHECKING:
    from gepa_loop.program.work import Distillation, Looped, Outcome
    from gepa_loop.search.records import SearchRecord
    from gepa_loop.stages.records import EvaluatedRecord
    from gepa_loop.sweep import SweepRecord


def tell_optimized(outcome: Outcome[SearchRecord], to: Terminal) -> None:
    """The front, and where the prompts lie."""
    from gepa_loop.show.browse import print_front
    from gepa_loop.show.searches import read_search

    to.print()
    print_front(read_search(str(outcome.path)), to)
    to.print(f"prompts: {shown(outcome.path / 'optimize' / 'prompts')}", highlight=False)


def tell_distilled(outcome: Distillation, to: Terminal) -> None:
    """What the student keeps of its prompt, a few replies, and where it lies."""
    from gepa_loop.scores.ledger import read_looks
    from gepa_loop.scores.numbers import decimal
    from gepa_loop.show.costs import costs_lines
    from gepa_loop.show.tables import reply_lines, retention_lines, retention_table

    result, done = outcome.result, outcome.done
    to.print()
    to.print(retention_table(result))
    for line in (*retention_lines(result), read_looks(outcome.path) or "", *reply_lines(result)):
        to.print(str(line), highlight=False, markup=False)
    kept = done.kept
    later = f", {decimal(done.last)} at step {done.last_step}" if done.last_step != kept.step else ""
    judged = "held-out score" if outcome.answers else "held-out exp(-KL(student || prompted))"
    if done.kl is not None:
        to.print(f"KL(student || teacher) on held-out replies: {done.kl:.3f} nats a token", highlight=False)
    to.print(
        f"{judged} without a prompt, of the items that chose the step: {decimal(done.before)} before, "
        f"{decimal(kept.score)} at step {kept.step} (kept: {kept.reason}){later}\nadapter: {shown(outcome.adapter)}",
        highlight=False,
    )
    for line in costs_lines(outcome.costs):
        to.print(line, highlight=False)
    to.print(f"report:  {shown(outcome.report)}", highlight=False)


def tell_evaluated(outcome: Outcome[EvaluatedRecord], labels: Sequence[str], to: Terminal) -> None:
    """Scores, and the difference where there are two subjects."""
    from gepa_loop.scores.ledger import read_looks
    from gepa_loop.show.tables import compare_table

    to.print()
    to.print(compare_table(outcome.result, labels))
    if (looks := read_looks(outcome.path)) is not None:
        to.print(str(looks), highlight=False)


def tell_looped(outcome: Looped, to: Terminal) -> None:
    """What the rounds found, and where it lies."""
    from gepa_loop.scores.ledger import read_looks
    from gepa_loop.scores.outcome import best_student
    from gepa_loop.show.costs import costs_lines
    from gepa_loop.show.tables import result_table, round_lines

    result, path = outcome.result, outcome.path
    to.print()
    to.print(result_table(result))
    for line in (*round_lines(result), read_looks(path) or "", *costs_lines(outcome.costs)):
        to.print(str(line), highlight=False)
    alone = "" if result["adapter"] else "  (the last round's that scores best itself)"
    to.print(f"prompt:  {shown(path / result['prompt'])}{alone}", highlight=False)
    if result["adapter"] is not None:
        to.print(f"adapter: {shown(path / result['adapter'])}", highlight=False)
    elif (student := best_student(result["rounds"])) is not None:
        to.print(f"student: {shown(path / student)}  (the best of those that did not win)", highlight=False)
    to.print(f"report:  {shown(outcome.report)}", highlight=False)


def tell_swept(outcome: Outcome[SweepRecord], to: Terminal) -> None:
    """Every cell beside the baseline's."""
    from gepa_loop.show.tables import sweep_table

    to.print()
    to.print(sweep_table(outcome.result))
    to.print(f"rows and adapters: {shown(outcome.path)}", highlight=False)
    to.print(f"report: {shown(outcome.path / 'report.html')}", highlight=False)

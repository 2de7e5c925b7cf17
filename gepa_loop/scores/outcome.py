"""What a round and a run say of themselves: the parts of decision.json and result.json. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gepa_loop.scores.card import Replies
from gepa_loop.scores.decision import Contender, Verdict
from gepa_loop.scores.numbers import p_sentence
from gepa_loop.scores.records import DifferenceRecord
from gepa_loop.scores.results import GainsRecord, LoopRecord, RoundRecord, TokensRecord, VerdictRecord
from gepa_loop.scores.statistics import difference, estimate


def summary(
    number: int, verdict: Verdict, contenders: Sequence[Contender], ended: str | None, seed: int
) -> RoundRecord:
    """A round's part of result.json, and the beginning of its decision.json; `ended` as in the record, `seed` as in `decide`."""
    return {
        "round": number,
        "winner": verdict.winner,
        "reason": verdict.reason,
        "ended": ended,
        "candidates": [
            {
                "id": c.id,
                "prompted": None if c.prompted is None else estimate(c.prompted, seed).as_dict(),
                "student": None if c.student is None else estimate(c.student, seed).as_dict(),
                "skipped": c.skipped,
            }
            for c in contenders
        ],
    }


def details(verdict: Verdict, base: Mapping[str, float], seed: int) -> VerdictRecord:
    """The rest of decision.json; `seed` as in `decide`."""
    return {
        "base": estimate(base, seed).as_dict(),
        "ranking": list(verdict.ranking),
        "differences": {id_: diff.as_dict() for id_, diff in verdict.differences.items()},
        "adjusted_p": dict(verdict.adjusted_p),
        "oracle": verdict.oracle,
        "runner_up": None if verdict.runner_up is None else verdict.runner_up.as_dict(),
    }


def gains(base: Replies, prompted: Replies, student: Replies | None, seed: int) -> GainsRecord:
    """A model without a prompt, with one, and the student that stands on it, on `test`; None for what needs a student."""

    def minus(a: Replies, b: Replies) -> DifferenceRecord:
        return difference(a.scores, b.scores, seed).as_dict()

    return {
        "base": base.card(seed),
        "prompted": prompted.card(seed),
        "student": None if student is None else student.card(seed),
        "prompted_minus_base": minus(prompted, base),
        "student_minus_base": None if student is None else minus(student, base),
        "student_minus_prompted": None if student is None else minus(student, prompted),
    }


def lengths(prompt: int, bare: int, test: GainsRecord) -> TokensRecord:
    """How long system turns and replies are.

    Args:
        prompt: Tokens of the system turn with the prompt.
        bare: Without it.
        test: Of the replies.
    """
    found: TokensRecord = {
        "prompt": prompt,
        "bare": bare,
        "base": test["base"]["tokens"],
        "prompted": test["prompted"]["tokens"],
    }
    return found if test["student"] is None else {**found, "student": test["student"]["tokens"]}


def missing_gain(alpha: float, result: LoopRecord) -> str | None:
    """Why a finished run shows no significant gain on `test`, or None when it does."""
    gain = result["test"]["student_minus_base"]
    if gain is None:
        return no_student(result["rounds"])
    if gain["mean"] <= 0 or gain["p"] >= alpha:
        return f"student - base = {gain['mean']:+z.3f}, {p_sentence(gain['p'])} on test"
    return None


def untested(rounds: Sequence[RoundRecord]) -> str:
    """Why no student of a loop was ever scored on `select`, as its last round has it; empty where one was."""
    scored = any(one["student"] is not None for each in rounds for one in each["candidates"])
    return "" if scored else rounds[-1]["reason"]


def no_student(rounds: Sequence[RoundRecord]) -> str:
    """Why a loop without a winner has no student."""
    if why := untested(rounds).removesuffix("."):
        return f"no student was tested on select: {why[:1].lower()}{why[1:]}"
    return "no student was significantly better than the base on select"


def best_student(rounds: Sequence[RoundRecord]) -> str | None:
    """Where the student with the highest mean on `select` lies in a loop's run, of the last round that tested any; None where none did."""
    for one in reversed(rounds):
        scores = {c["id"]: c["student"]["mean"] for c in one["candidates"] if c["student"] is not None}
        if scores:
            return f"round_{one['round']:02d}/distill/{max(scores, key=lambda id_: scores[id_])}/adapter"
    return None


def ground(rounds: Sequence[RoundRecord], number: int | None = None) -> str:
    """What the model is called that a round's prompt was evolved for: the base, or the student of the winner before it.

    Args:
        rounds: The rounds of result.json.
        number: The round; None is the last that has a winner.
    """
    winners = [one["round"] for one in rounds if one["winner"]]
    before = winners[:-1] if number is None else [n for n in winners if n < number]
    return f"student of round {before[-1]}" if before else "base"

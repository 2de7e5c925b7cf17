"""From how many calls on a student pays for what it took: pure arithmetic over tokens and prices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gepa_loop.config.cost import CostConfig
from gepa_loop.cost.records import CallRecord, MonthRecord, ReadingRecord, WorthRecord


@dataclass(frozen=True)
class Took:
    """What a student took, as far as it is known."""

    seconds: float | None
    """Of one device: as many times as there were."""
    usd: float | None


def worth(
    now: CallRecord, after: CallRecord, settings: CostConfig, reads: float | None, took: Took
) -> WorthRecord:
    """What a student is for.

    Args:
        now: A call with the prompt.
        after: A call of the student.
        settings: Prices and calls.
        reads: Tokens that this machine reads a second.
        took: What the student took.
    """
    saved = now["system"] - after["system"]
    price = settings.price(reads)
    question = now["question"]

    def reading(each: float | None) -> ReadingRecord:
        """At so many dollars for a token of the prompt."""
        month: MonthRecord | None = None
        if price is not None and each is not None and settings.calls is not None:
            month = {
                "now": settings.calls * (now["system"] * each + question * price),
                "after": settings.calls * (after["system"] * each + question * price),
            }
        usd = None if each is None else saved * each
        return {"usd": usd, "month": month, "break_even": None if usd is None else _calls(took.usd, usd)}

    anew, cached = reading(price), reading(None if price is None else settings.cached_price)
    if anew["break_even"] is None and settings.input_usd is None and reads is not None:
        # Both on this machine: seconds stand for dollars.
        anew = {**anew, "break_even": _calls(took.seconds, saved / reads)}
    return {
        "now": now,
        "after": after,
        "saved": saved,
        "price": None if price is None else 1e6 * price,
        "calls": settings.calls,
        "anew": anew,
        "cached": cached,
    }


def _calls(took: float | None, saved: float) -> int | None:
    return None if took is None or saved <= 0 else math.ceil(took / saved)

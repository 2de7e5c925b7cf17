"""The one way to print a score, a difference, a count of items and a p."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from gepa_loop.scores.records import DifferenceRecord, EstimateRecord, RatioRecord
from gepa_loop.scores.statistics import FLOOR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def decimal(x: float, sign: str = "-") -> str:
    """Three decimals without the leading zero, as papers print a score, or with `sign` "+" a difference; there is no -.000."""
    text = f"{x:{sign}z.3f}"
    return text.replace("0.", ".", 1) if abs(x) < 1 else text


def interval_text(ci: Sequence[float], sign: str = "-") -> str:
    """Both ends of an interval; `sign` as in `decimal`."""
    low, high = ci
    return f"[{decimal(low, sign)}, {decimal(high, sign)}]"


def score_text(one: EstimateRecord | RatioRecord) -> str:
    """A mean score, or a ratio, with its interval."""
    return f"{decimal(one['mean'])} {interval_text(one['ci'])}"


def gain_text(one: DifferenceRecord) -> str:
    """A mean difference with its interval, which is none where no item differs."""
    spread = "on every item" if is_flat(one) else interval_text(one["ci"], "+")
    return f"{decimal(one['mean'], '+')} {spread}"


def is_flat(one: DifferenceRecord | RatioRecord) -> bool:
    """Both ends of its interval are one number: all items are alike, so that their spread is not known."""
    low, high = one["ci"]
    return low == high


def items_text(count: int) -> str:
    """1 item, 2 items."""
    return f"{count:,} item{'s' * (count != 1)}"


def p_text(p: float, floor: float = FLOOR) -> str:
    """A p as tables show it; one that is not above `floor` is only said to be at most that."""
    if p <= floor:
        return f"<= {plain(f'{floor:.4g}')}"
    return f"{p:.4f}".replace("0.", ".", 1) if p >= FLOOR else plain(f"{p:.2g}")


def p_sentence(p: float, floor: float = FLOOR) -> str:
    """`p_text` within a sentence: p = .0123, or p <= .0001."""
    text = p_text(p, floor)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def plain(number: str) -> str:
    """A number as `g` formats it, without exponent and leading zero."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{Decimal(number):f}")

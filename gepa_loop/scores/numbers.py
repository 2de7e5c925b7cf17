"""The one way to print a score and a p."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from gepa_loop.scores.statistics import FLOOR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def decimal(x: float, sign: str = "-") -> str:
    """Three decimals without the leading zero, as papers print a score, or with `sign` "+" a difference; there is no -.000."""
    text = f"{x:{sign}z.3f}"
    return text.replace("0.", ".", 1) if abs(x) < 1 else text


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
    return f"{Decimal(number):f}".replace("0.", ".", 1)

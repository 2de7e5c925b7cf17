"""Numbers as people write them: exact values, LaTeX, units; nothing is evaluated and nothing takes long."""

from __future__ import annotations

from fractions import Fraction

import pytest

from gepa_loop.task.quantity import Quantity, equal, numbers, quantity


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("42", 42, ""),
        ("42.", 42, ""),
        ("42.0", 42, ""),
        ("-1,234.5", "-1234.5", ""),
        ("\u22123", -3, ""),
        ("+3", 3, ""),
        (".5", "1/2", ""),
        ("9{,}500", 9500, ""),
        (r"9\,500", 9500, ""),
        (r"12,\!345", 12345, ""),
        ("$42$", 42, ""),
        (r"\(42\)", 42, ""),
        ("1/2", "1/2", ""),
        ("-3 / 4", "-3/4", ""),
        ("1 1/2", "3/2", ""),
        ("-1 1/2", "-3/2", ""),
        (r"\frac{1}{2}", "1/2", ""),
        (r"\dfrac{1}{2}", "1/2", ""),
        (r"-\tfrac{1,000}{3}", "-1000/3", ""),
        (r"\frac{-1}{2}", "-1/2", ""),
        (r"\frac12", "1/2", ""),
        (r"\frac1{12}", "1/12", ""),
        (r"\frac{11}2", "11/2", ""),
        (r"2\frac{1}{3}", "7/3", ""),
        (r"-2\frac13", "-7/3", ""),
        ("6.02e23", 602 * 10**21, ""),
        ("1E-3", "1/1000", ""),
        (r"6.02 \times 10^{23}", 602 * 10**21, ""),
        ("3×10^-2", None, ""),
        ("3×10^{-2}", "3/100", ""),
        ("2^5", 32, ""),
        ("2^{-1}", "1/2", ""),
        ("57%", 57, "%"),
        (r"57\%", 57, "%"),
        (r"57\text{ percent}", 57, "%"),
        ("$9.50", "9.5", "$"),
        (r"\$9.50", "9.5", "$"),
        (r"-\$5", -5, "$"),
        (r"\$-5", -5, "$"),
        (r"5\text{ dollars}", 5, "$"),
        ("20€", 20, "€"),
        (r"90^\circ", 90, "°"),
        (r"90^{\circ}", 90, "°"),
        (r"72\text{ clips}", 72, "clips"),
        (r"12\ \mathrm{cm}^2", 12, "cm^2"),
        (r"12\,\text{cm}^{2}", 12, "cm^2"),
        ("12 apples", None, ""),
        (r"5\text{ million}", None, ""),
        (r"5\text{ or 6}", None, ""),
        ("1/0", None, ""),
        ("0^{-1}", None, ""),
        ("10/2/2020", None, ""),
        ("1.2.3", None, ""),
        ("--5", None, ""),
        ("1e99999999", None, ""),
        ("9^{99999999}", None, ""),
        ("9^9^9^9", None, ""),
        ("__import__('os')", None, ""),
        ("7" * 5000, None, ""),
        ("", None, ""),
    ],
)
def test_quantity(text: str, value: str | int | None, unit: str) -> None:
    assert quantity(text) == (None if value is None else Quantity(Fraction(value), unit))


@pytest.mark.parametrize(
    ("read", "answer", "same"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
        ("0.5", r"\frac{1}{2}", True),
        ("2/4", "1/2", True),
        ("0.333", "1/3", False),
        ("0.30000000000000004", "0.3", False),
        (r"15\%", "15%", True),
        ("15", "15%", True),
        ("15%", "15", True),
        ("0.15", "15%", False),
        (r"72\text{ clips}", "72", True),
        (r"72\text{ cm}", r"72\text{ m}", False),
        (r"72\text{ cm}^2", r"72\text{ cm}", False),
        (r"72\text{ cm}", "72%", False),
        ("12", "12 apples", False),
        ("12 apples", "12", False),
        (r"\dfrac{\sqrt{2}}{2}", r"\frac{\sqrt{2}}{2}", True),
        (r"\left( 1, 2 \right)", "(1,2)", True),
        (r"\text{A}", "A", True),
        (r"x^{2}\,y", "x^2y", True),
        (r"\sqrt{3}", r"\sqrt{2}", False),
        ("a b", "ab", False),
        ("7" * 5000, "7" * 5000, True),
    ],
)
def test_equal(read: str, answer: str, same: bool) -> None:
    assert equal(read, answer) is same


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["1,", "1/", "1 ", "1", "^{", r"\frac{", r"\frac1", "1e", "1^", "- ", "{,}", r"\text{", "$"]
)
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    # 300,000 pieces: anything quadratic takes minutes.
    numbers(piece * 300_000)
    assert quantity(piece * 500) is None or piece == "1"

r"""Numbers as people and models write them: exact values, LaTeX, percent signs, currencies and units.

Values are fractions, so `0.5`, `\frac{1}{2}` and `1/2` are equal and nothing is rounded. Nothing is evaluated, and the
work is bounded by the length of the text: replies are foreign text. (math-verify reads more, but through SymPy's parser,
which is `eval`, and with a time limit by SIGALRM, which only the main thread may set.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 1_000
"""Characters of the longest text that is read as a number, and the largest exponent."""

_SIGN = r"(?:(?<![^\W_])(?<![)\]])[-+−])?"
_DECIMAL = r"(?:(?<![0-9,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
_FRAC = r"\\[dtc]?frac\s*(?:\{\s*[-−]?[0-9][0-9,]*\s*\}|[0-9])\s*(?:\{\s*[0-9][0-9,]*\s*\}|[0-9])"
# Neither a part of a date, 10/2/2020, nor of 1.5/2.
_SLASH = r"(?<![0-9][./,])[0-9]+ ?/ ?[0-9]+(?![0-9]| ?/|[.,][0-9])"
_FRACTION = rf"(?:[0-9]+\s*{_FRAC}|[0-9]+ {_SLASH}|{_FRAC}|{_SLASH})"
_EXPONENT = r"(?:[0-9]+|\{\s*[-−]?[0-9]+\s*\})"
_POWER = rf"(?: ?(?:\\times|\\cdot|×) ?10\^{_EXPONENT}|[eE][-+−]?[0-9]+(?!\w)|\^{_EXPONENT})?"
_UNSIGNED = rf"(?:{_FRACTION}|{_DECIMAL}{_POWER})"

_IN_TEXT = re.compile(rf"\^(?:\{{\s*)?[-−]?[0-9.]+|({_SIGN}{_UNSIGNED})")
r"""A number in running text; or an exponent, which is no number of its own: `cm^2`, `x^{10}`."""

_WHOLE = re.compile(
    rf"(?P<sign>[-+]?) ?(?P<currency>[$€£¥]?) ?(?P<inner>[-+]?)(?P<number>{_UNSIGNED})\s*"
    r"(?P<unit>%|°|[$€£¥]|\\text\{(?P<words>[^{}\\0-9]*)\}(?P<power>\^\{?-?[0-9]\}?)?)?\.?"
)
_SCALES = {
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "dozen",
    "half",
    "halves",
    "third",
    "thirds",
}
"""Words that belong to the number: they are no unit of it."""
_SIGNS = {
    "percent": "%",
    "dollar": "$",
    "dollars": "$",
    "euro": "€",
    "euros": "€",
    "degree": "°",
    "degrees": "°",
}

_LATEX = (
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\!"), ""),
    (re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))|\{,\}"), ","),
    (re.compile(r"\\[,;: ]|\\q?quad(?![a-z])"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textrm|textbf|mbox)\s*\{"), r"\\text{"),
    (re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![a-z])"), "°"),
    (re.compile("−"), "-"),
)


@dataclass(frozen=True)
class Quantity:
    """A value, and its unit as a sign or in words; empty where none is written."""

    value: Fraction
    unit: str


def quantity(text: str) -> Quantity | None:
    r"""What a text is that is a number as a whole: `1,234`, `42.`, `-\frac{1}{2}`, `57\%`, `\$3`, `2\text{ cm}`, `6e23`."""
    if len(text) > LONGEST:
        return None
    found = _WHOLE.fullmatch(simplified(text))
    if found is None or (found["sign"] and found["inner"]) or (found["currency"] and found["unit"]):
        return None
    value = _value(found["number"])
    words = (found["words"] or "").lower().split()
    if value is None or _SCALES.intersection(words):
        return None
    named = " ".join(words) + re.sub(r"[{}]", "", found["power"] or "")
    unit = named if found["words"] is not None else found["unit"] or found["currency"]
    negative = "-" in (found["sign"], found["inner"])
    return Quantity(-value if negative else value, _SIGNS.get(unit, unit))


def equal(read: str, answer: str) -> bool:
    r"""Whether two texts are equal after stripping, or numbers of the same value, or the same LaTeX.

    A unit counts where both have one: `57%` is equal to `57` and to `57\%`, and not to `57\text{ cm}`.
    """
    read, answer = read.strip(), answer.strip()
    if read == answer:
        return True
    expected = quantity(answer)
    got = quantity(read) if expected else None
    if expected is not None and got is not None:
        return got.value == expected.value and (got.unit == expected.unit or not (got.unit and expected.unit))
    return "\\" in read + answer and _letters(read) == _letters(answer)


def numbers(text: str) -> list[str]:
    r"""The numbers of a running text, in order: decimals without thousands commas and a plus, fractions, powers."""
    return [_plain(number) for number in _IN_TEXT.findall(simplified(text)) if number]


def simplified(text: str) -> str:
    r"""LaTeX that looks the same, written in one way: `\dfrac` as `\frac`, `{,}` as a comma, no `$...$` around it."""
    text = text.strip()
    for opened, closed in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(text) > 2 * len(opened) and text.startswith(opened) and text.endswith(closed):
            text = text[len(opened) : -len(closed)].strip()
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text.strip()


def _plain(number: str) -> str:
    return number.replace(",", "").replace("−", "-").removeprefix("+")


def _letters(text: str) -> str:
    r"""LaTeX without spaces, `\text` and braces around single letters."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", simplified(text))
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"\s+", "", bare))


def _value(number: str) -> Fraction | None:
    """The value of an unsigned number; None for a denominator of 0 and powers that nobody writes."""
    number = _plain(number)
    if "frac" in number or "/" in number:
        # `\frac12` has one digit above and one below.
        parts = re.sub(r"frac\s*([0-9])", r"frac{\1} ", number)
        *whole, above, below = (int(part) for part in re.findall(r"-?[0-9]+", parts))
        return Fraction(sum(whole) * below + above, below) if below else None
    for mark in ("×", r"\times", r"\cdot"):
        number = re.sub(rf" ?{re.escape(mark)} ?10\^", "e", number)
    mantissa, scientific, exponent = number.lower().partition("e")
    base, _, power = (mantissa, "", exponent) if scientific else number.partition("^")
    size = int(power.strip("{ }") or 1)
    if abs(size) > LONGEST or (power and len(base) > 20):
        return None
    if scientific:
        return Fraction(base) * Fraction(10) ** size
    return Fraction(base) ** size if size >= 0 or Fraction(base) else None

"""What messages say of the command line, in the words of a Python program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gepa_loop.errors import GepaLoopError
from gepa_loop.outside.files import parse_toml

FLAGS = {
    "--config": "config",
    "--run-name": "run_name",
    "--fresh": "fresh=True",
}
"""Those of which messages speak that a call can raise. What else looks like one is a server's, which is started by it."""

FUNCTIONS = ("optimize", "distill", "loop", "evaluate")

_VALUE = r"""'{3}.*?'{3}|"{3}.*?"{3}|'[^'\n]*'|"(?:[^"\\\n]|\\.)*"|\[.*?\](?=[\s:;,.]|$)|\{.*?\}(?=[\s:;,.]|$)|\.\.\.|\S*?(?=[.:;,)`]*(?:\s|$))"""

_SPOKEN = re.compile(
    rf"""
      --set\ (?P<shell>'?)(?P<key>[\w.-]+)=(?P<value>{_VALUE})(?P=shell)
    | ^(?P<first>{"|".join(FLAGS)})\ (?P<given>[^\n]+?)(?=:\ )
    | (?P<flag>{"|".join(FLAGS)})(?![\w-])
    | \bgepa-loop\ (?P<function>{"|".join(FUNCTIONS)})\b
    # What is quoted is a user's own text.
    | (?<!\w)(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")(?!\w)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


def in_python(text: str) -> str:
    """A message in which settings and flags are written as a call has them: `distill__lr=0.0001`, `run_name`, `gepa_loop.distill`."""
    return _SPOKEN.sub(_said, text)


def _said(found: re.Match[str]) -> str:
    if key := found["key"]:
        return f"{key.replace('.', '__')}={_value(found['value'])}"
    if first := found["first"]:
        return f"{FLAGS[first]} = {found['given']!r}"
    if flag := found["flag"]:
        return FLAGS[flag]
    if function := found["function"]:
        return f"gepa_loop.{function}"
    return found[0]


def _value(text: str) -> str:
    """A setting's value as Python has it; one that stands for any other (`FILE`, `...`) as it is."""
    if text == "..." or text.isupper():
        return text
    try:
        return repr(parse_toml(f"value = {text}")["value"])
    except ValueError:
        return repr(text)


@contextmanager
def python_words() -> Iterator[None]:
    """Have an error of ours say what is wrong, and how to mend it, as a Python program has it; a traceback shows both."""
    try:
        yield
    except GepaLoopError as error:
        error.args = (in_python(str(error)),)
        error.hint = in_python(error.hint)
        if error.hint and error.hint not in getattr(error, "__notes__", ()):
            error.add_note(error.hint)
        raise

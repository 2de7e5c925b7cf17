"""The code of a user's class as text, by which a run is known again."""

from __future__ import annotations

import inspect
from types import CodeType, FunctionType

from gepa_loop.outside.redact import names_a_secret

Plain = str | int | float | bool | None


def class_code(kind: type, below: type) -> list[str]:
    """The code of a class and of those that it extends, down to `below`, which is not the user's."""
    return [text for one in kind.__mro__ if one not in below.__mro__ for text in _texts(one)]


def _texts(kind: type) -> list[str]:
    try:
        return [inspect.getsource(kind)]
    except (OSError, TypeError):  # of a cell of a notebook, or of a prompt
        functions = [value for value in vars(kind).values() if isinstance(value, FunctionType)]
        return [kind.__qualname__, *map(_text, functions)]


def _text(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return _compiled(function.__code__)


def _compiled(code: CodeType) -> str:
    consts = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {consts}"


def plain_attributes(value: object) -> dict[str, Plain]:
    """The attributes of an object that are texts or numbers, without keys and passwords."""
    return {
        name: found
        for name, found in sorted(vars(value).items())
        if isinstance(found, Plain) and not names_a_secret(name)
    }

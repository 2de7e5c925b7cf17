"""The code of a user's class and what an object of it holds, by which a run is known again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

from gepa_loop.outside.known import known_fields
from gepa_loop.outside.redact import names_a_secret


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


def attributes(value: object) -> tuple[dict[str, object], list[str]]:
    """What an object's attributes are known by, without keys and passwords, and the names of those that cannot be known."""
    return known_fields(_without_secrets(vars(value)))


def _without_secrets(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    """Fields without texts under the name of a secret, also without those in tables among them."""
    return {
        name: _table(value)
        for name, value in fields.items()
        if not (isinstance(value, str | None) and names_a_secret(str(name)))
    }


def _table(value: object) -> object:
    if type(value) is not dict:
        return value
    try:
        return _without_secrets(value)
    except RecursionError:  # it holds itself
        return value

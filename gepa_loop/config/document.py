"""A configuration as a TOML file with comments, which says the same when it is read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from gepa_loop.config.reference import Key, all_keys_explained

if TYPE_CHECKING:
    from tomlkit.container import Container
    from tomlkit.items import Item, Table

    from gepa_loop.config.whole import Config

WIDTH = 110


def whole_document(config: Config) -> str:
    """Every key with what it means. What nobody has set stands there as a comment, so that the file means the same."""
    return _Writer(config.model_dump(mode="json"), _given(config, ""), {}, brief=False).text("")


def short_document(values: Mapping[str, Any], notes: Mapping[str, str], head: str) -> str:
    """Some keys, each with one sentence on what it means.

    Args:
        values: Tables of keys, as `Config.model_dump(mode="json")` has them.
        notes: By dotted key or table, what is to be said besides.
        head: A comment at the top.
    """
    return _Writer(values, None, notes, brief=True).text(head)


def _given(table: BaseModel, at: str) -> set[str]:
    """The keys that somebody has set."""
    found = set()
    for name in table.model_fields_set:
        found.add(f"{at}{name}")
        if isinstance(value := getattr(table, name), BaseModel):
            found |= _given(value, f"{at}{name}.")
    return found


class _Writer:
    def __init__(
        self, values: Mapping[str, Any], given: set[str] | None, notes: Mapping[str, str], *, brief: bool
    ) -> None:
        self.values, self.given, self.notes, self.brief = values, given, notes, brief
        tags = {
            f"{table}.{tag} = {inner[tag]}"
            for table, inner in values.items()
            if isinstance(inner, Mapping)
            for tag in ("type", "kind")
            if tag in inner
        }
        self.told: dict[str, Key] = {
            key.name: key for key in all_keys_explained() if not key.under or key.under in tags
        }

    def text(self, head: str) -> str:
        import tomlkit

        written = tomlkit.document()
        for line in head.splitlines():
            written.add(tomlkit.comment(line))
        self._add(written, self.values, "")
        return tomlkit.dumps(written).rstrip() + "\n"

    def _add(self, place: Container | Table, values: Mapping[str, Any], at: str) -> None:
        import tomlkit

        # TOML has a table's own keys before the tables inside it.
        for name, value in sorted(values.items(), key=lambda pair: self._is_table(f"{at}{pair[0]}", pair[1])):
            path = f"{at}{name}"
            if self._is_table(path, value):
                table = tomlkit.table()
                for line in self._lines(path, about=not self.brief):
                    table.add(tomlkit.comment(line))
                self._add(table, value, f"{path}.")
                place.add(name, table)
                continue
            if not self.brief or any(True for one in place if one != ""):
                place.add(tomlkit.nl())
            for line in self._lines(path, about=True):
                place.add(tomlkit.comment(line))
            if value is None:
                place.add(tomlkit.comment(f"{name} is not set"))
            elif self.given is None or path in self.given:
                place.add(name, _value(value))
            else:
                shown = tomlkit.document()
                shown.add(name, _value(value))
                for line in tomlkit.dumps(shown).splitlines():
                    place.add(tomlkit.comment(line))

    def _is_table(self, path: str, value: object) -> bool:
        key = self.told.get(path)
        return isinstance(value, Mapping) and (key is None or not key.kind)

    def _lines(self, path: str, *, about: bool) -> Iterator[str]:
        key, texts = self.told.get(path), list[str]()
        if key is not None and about:
            texts = [f"{key.summary}."] if self.brief else key.paragraphs
        for text in (*texts, self.notes.get(path, "")):
            yield from textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def toml_text(value: object) -> str:
    """A value as TOML has it.

    Raises:
        ValueError: TOML has no such value.
    """
    from tomlkit.exceptions import TOMLKitError

    if value is None:
        raise ValueError("None is no value of TOML")
    try:
        return _value(value).as_string()
    except (TOMLKitError, ValueError) as error:
        raise ValueError(f"TOML has no value for {type(value).__name__}: {error}") from None


def _value(value: Any) -> Item:
    import tomlkit

    # A reader of TOML makes \n of a line end \r\n, unless it is written as an escape.
    if isinstance(value, str) and "\n" in value and "\r" not in value:
        return tomlkit.string(value, multiline=True)
    if isinstance(value, Mapping):
        inner = tomlkit.inline_table()
        inner.update({key: _value(one) for key, one in value.items() if one is not None})
        return inner
    if isinstance(value, list | tuple):
        array = tomlkit.array()
        array.extend(_value(one) for one in value)
        return array.multiline(any(isinstance(one, Mapping) for one in value))
    item: Item = tomlkit.item(value)
    return item

"""What a user's data are found to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.start.survey import common_system, field_of, kind_of, survey

TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


@pytest.mark.parametrize(
    ("values", "kind", "filled", "distinct"),
    [
        (["late", "broken"] * 6, "label", 12, 2),
        (["late delivery", "", None, "broken"] * 3 + [" "], "label", 6, 2),
        ([1, 5, 3] * 3, "label", 9, 3),
        ([True, False] * 3, "label", 6, 2),
        (["1.5", "2", "$3", "1/2"], "number", 4, 4),
        ([17, 3, 99, 40], "number", 4, 4),
        ([1, 2, 3, 4], "id", 4, 4),
        (["T-1", "T-2", "T-9"], "id", 3, 3),
        (["red", "green", "blue"], "text", 3, 3),
        (["My spade broke.", "Where is it?", "My spade broke."], "text", 3, 2),
        ([TURNS, [{"role": "user", "content": "Q"}]], "turns", 2, 2),
        ([{"a": 1}, '{"a": 2}'], "mixed", 2, 2),
        (['{"a": 1}', '{"a": 2}'], "object", 2, 2),
        ([{"a": 1}, {"a": 2}], "object", 2, 2),
        ([["a"], ["b", "c"]], "list", 2, 2),
        (["{not json", "{nor this"], "text", 2, 2),
        (["", None, []], "empty", 0, 0),
    ],
)
def test_what_a_field_holds(values: list[object], kind: str, filled: int, distinct: int) -> None:
    found = field_of("f", values)
    assert (found.kind, found.filled, found.distinct) == (kind, filled, distinct)


def test_many_different_short_texts_are_no_labels() -> None:
    assert field_of("f", [f"word{n % 120}" for n in range(240)]).kind == "text"
    assert field_of("f", [f"word{n % 77}" for n in range(240)]).kind == "label"
    assert field_of("f", [f"a label of very many words {n % 3}" for n in range(240)]).kind == "text"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", "q\nQ\n", "csv"),
        ("a.TSV", "q\nQ\n", "csv"),
        ("a.jsonl", '{"q": "Q"}\n', "jsonl"),
        ("a.ndjson", '{"q": "Q"}\n', "jsonl"),
        ("a.json", '[{"q": "Q"}]', "json"),
        ("a.json", '\n{"q": "Q"}\n{"q": "R"}\n', "jsonl"),
        ("a.json", '{\n"data": [{"q": "Q"}]}', "json"),
        ("a.json", '{"data": [{"q": "Q"}]}\n', "json"),
        ("a.json", '{"data": [\n{"q": "Q"}, \n{"q": "R"}]}\n', "json"),
        ("a.json", '\ufeff{"q": "Q"}\n\n{"q": "R"}\n', "jsonl"),
    ],
)
def test_kinds_of_files(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    assert kind_of(str(tmp_path / name)) == kind
    if kind != "hf":
        assert survey(str(tmp_path / name)).fields[0].name == "q"


def test_what_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of("owner/tickets") == "hf" and kind_of(str(tmp_path)) == "hf"
    for name in ("none.csv", "/owner/tickets", "./owner/tickets", "owner/tickets.csv", "tickets"):
        with pytest.raises(ConfigError, match="no such file"):
            kind_of(name)
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"files ending in \.xlsx") as caught:
        kind_of("book.xlsx")
    assert "Save a spreadsheet as CSV" in caught.value.hint
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="2 records are no objects"):
        survey("a.json")
    (tmp_path / "b.csv").write_text("q\n")
    with pytest.raises(ConfigError, match="it has no records"):
        survey("b.csv")
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(TaskError, match="it is empty"):
        survey("c.csv")


def test_fields_that_only_some_records_have(tmp_path: Path) -> None:
    rows = [{"q": "What?", "note": "n"}, {"q": "Why?"}, {"q": "When?", "tag": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = survey(str(tmp_path / "a.jsonl"))
    assert [(field.name, field.filled) for field in found.fields] == [("q", 3), ("note", 1), ("tag", 0)]
    assert found.at("b.jsonl").name == "b.jsonl" and found.at("b.jsonl").records == found.records


def test_the_system_turn_of_all_chats() -> None:
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Q"}
    assert common_system([[system, user], [system, user, user]]) == "Be brief."
    assert common_system([[system, user], [user]]) is None
    assert common_system([[user]]) is None

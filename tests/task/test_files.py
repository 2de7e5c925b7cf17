"""Records of CSV, JSON and Parquet files, and what is said of files that cannot be read."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.errors import TaskError
from gepa_loop.task.files import delimiter_of, plain, read_records


def _csv(path: Path, text: str, saved: str = "utf-8", **options: Any) -> list[tuple[str, object]]:
    path.write_bytes(text.encode(saved))
    return [(id, record) for id, _, record in read_records("csv", path, options)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_any_delimiter_and_mark(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [["body", "queue"], ['"a, b; c\td|e\nf ""g"""', "GX4"], ["", ""], ["h", ""]]
    text = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n"
    assert _csv(tmp_path / "a.csv", text, encoding) == [
        ("csv:2", {"body": 'a, b; c\td|e\nf "g"', "queue": "GX4"}),
        ("csv:4", {"body": "h", "queue": ""}),
    ]


def test_the_delimiter_is_what_makes_rows_equally_long() -> None:
    assert delimiter_of("text;label\nA, B, C;x\nD, E, F;y\n") == ";"
    assert delimiter_of("text;label\nA;x\nno, label\n") == ";"


def test_a_single_column_may_hold_all_of_them(tmp_path: Path) -> None:
    text = 'question\nWhat, where; and | when\n"quoted ""so"",\nor so"\n'
    found = [record for _, record in _csv(tmp_path / "a.csv", text)]
    assert found == [{"question": "What, where; and | when"}, {"question": 'quoted "so",\nor so'}]


def test_cells_that_a_program_leaves_at_the_end(tmp_path: Path) -> None:
    assert _csv(tmp_path / "a.csv", "a,b,\n1,2,\n3\n") == [
        ("csv:2", {"a": "1", "b": "2", "column 3": ""}),
        ("csv:3", {"a": "3", "b": "", "column 3": ""}),
    ]


@pytest.mark.parametrize("saved", ["utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["q,a\nWhat?,1\n", "вопрос,ответ\nЧто это такое и зачем,да\n"])
def test_texts_of_two_bytes_a_character_without_a_mark(tmp_path: Path, saved: str, text: str) -> None:
    names, cells = (line.split(",") for line in text.splitlines())
    assert _csv(tmp_path / "a.csv", text, saved) == [("csv:2", dict(zip(names, cells, strict=True)))]


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"q,a\n" + bytes(range(31)) * 10)
    with pytest.raises(TaskError, match="not a text: 10 of its 314 bytes are 0"):
        list(read_records("csv", path, {}))
    # One in a long file is somebody's slip.
    assert _csv(path, "q\n" + "word " * 50 + "\0\n")[0][1] == {"q": "word " * 50 + "\0"}


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("sep=;\r\nq;a\r\nOne, two;1\r\n", "csv:2"),
        ('"SEP=|"\nq|a\n"One, two"|1\n', "csv:2"),
        ('\n \n\nq,a\n"One, two",1\n', "csv:5"),
        (";\n;\nq;a\nOne, two;1\n", "csv:4"),
    ],
)
def test_what_stands_before_the_header(tmp_path: Path, text: str, first: str) -> None:
    assert _csv(tmp_path / "a.csv", text) == [(first, {"q": "One, two", "a": "1"})]


def test_what_a_file_says_parts_its_cells_is_believed(tmp_path: Path) -> None:
    text = "sep=;\nq,a;b\n1,2;3\n"
    assert _csv(tmp_path / "a.csv", text)[0][1] == {"q,a": "1,2", "b": "3"}
    assert _csv(tmp_path / "a.csv", text, delimiter=",")[0][1] == {"q": "1", "a;b": "2;3"}
    for empty in ("sep=;", "sep=;\n", "\n\n"):
        with pytest.raises(TaskError, match="it is empty"):
            _csv(tmp_path / "a.csv", empty)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "it is empty"),
        ("a,a\n1,2\n", {}, "two columns are named 'a'"),
        ('a,b\n"1,2\n', {}, "row 2: "),
        ("a,b\n1,2,3\n", {"delimiter": ","}, "row 2 has 3 cells, and the header 2"),
        ("a,b\n", {"delimiter": "ab"}, "task.options.delimiter = 'ab': not one character"),
        ("a,b\n", {"delimiter": 1}, "task.options.delimiter = 1: not one character"),
        ("a,b\n", {"encoding": 1252}, "task.options.encoding = 1252: not a text"),
        ("a,b\n", {"encoding": "undefined"}, "not undefined text"),
        ('q,a\nx,1\n"abc"def,2\ny,3\n', {}, "row 3: "),
        ("a,b\n", {"encoding": "utf-9"}, "task.options.encoding = 'utf-9': no such encoding"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        _csv(tmp_path / "a.csv", text, **options)
    assert said in str(caught.value)


def test_a_table_of_a_windows_program(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"not utf-8 text \(byte 4\)") as caught:
        _csv(tmp_path / "a.csv", "a,b\né,1\n", "cp1252")
    assert "task.options.encoding=cp1252" in caught.value.hint
    assert _csv(tmp_path / "a.csv", "a,b\né,1\n", "cp1252", encoding="cp1252")[0][1] == {"a": "é", "b": "1"}


def test_a_json_list_and_an_object_with_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ('[{"q": 1}, {"q": 2}]', '\ufeff{"version": 1, "data": [{"q": 1}, {"q": 2}]}'):
        path.write_text(text, "utf-8")
        assert [(id, record) for id, _, record in read_records("json", path, {})] == [
            ("json:1", {"q": 1}),
            ("json:2", {"q": 2}),
        ]


@pytest.mark.parametrize("text", ['{"a": [1], "b": [2]}', "7", '{"q": 1}\n{"q": 2}', "", '[{"q": NaN}]'])
def test_json_that_is_no_list(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    with pytest.raises(TaskError, match=r"a\.json: "):
        list(read_records("json", path, {}))


def test_parquet_rows_are_as_json_has_them(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path, day = tmp_path / "a.parquet", datetime.date(2026, 1, 2)
    columns = {
        "q": ["A", None],
        "n": [1.5, float("nan")],
        "d": [day, day],
        "t": [[{"role": "user"}], []],
        "b": [b"x", b"y"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert [record for _, _, record in read_records("parquet", path, {})] == [
        {"q": "A", "n": 1.5, "d": "2026-01-02", "t": [{"role": "user"}], "b": None},
        {"q": None, "n": None, "d": "2026-01-02", "t": [], "b": None},
    ]
    (tmp_path / "b.parquet").write_bytes(b"no such thing")
    with pytest.raises(TaskError, match=r"b\.parquet: not Parquet"):
        list(read_records("parquet", tmp_path / "b.parquet", {}))
    with pytest.raises(TaskError, match=r"c\.parquet.*No such file"):
        list(read_records("parquet", tmp_path / "c.parquet", {}))


def test_plain_values() -> None:
    assert plain({1: (Decimal("0.10"), datetime.time(9, 40), True)}) == {"1": ["0.10", "09:40:00", True]}
    assert plain(object()) is None

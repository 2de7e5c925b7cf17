"""Whether an answer stands in a reply as words and numbers of its own."""

import pytest

from gepa_loop.task.occurs import occurs


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7", "7"),
        ("it is 7.", "7"),
        ("(7)", "7"),
        ("17 or 7", "7"),  # a later place counts
        ("7, 8 and 9", "7"),
        ("$7 or 7%", "7"),
        ("10-7", "7"),
        ("7km", "7"),
        ("at 9:40pm", "9:40"),
        ("10 - 7", "7"),
        ("gx-7", "7"),
        ("x = -7", "-7"),
        ("no, 9:40.", "9:40"),
        ("in new york, now", "new york"),
        ("c++ it is", "c++"),
        ("take .net core", ".net"),
        # No spaces between words, or particles at them.
        ("答えは東京です", "東京"),
        ("서울은 크다", "서울"),
        ("第7課", "7"),
        ("ห้องสมุดเปิด", "สมุด"),
    ],
)
def test_it_occurs(text: str, wanted: str) -> None:
    assert occurs(wanted, text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("17", "7"),
        ("71", "7"),
        ("7.5", "7"),
        ("7,000", "7"),
        ("3.7", "7"),
        ("1,007", "7"),
        ("-7", "7"),
        ("it is −7", "7"),
        ("gx7", "7"),
        ("gx7km", "7"),
        ("17km", "7"),
        ("7_000", "7"),
        ("gx4b", "gx4"),
        ("19:40", "9:40"),
        ("14 euros", "4 euros"),
        ("i know", "no"),
        ("not_late", "late"),
        ("bags", "bag"),
        ("naïveté", "naïvet"),
        ("17月", "7月"),
        ("", "7"),
    ],
)
def test_it_is_a_part_of_something_else(text: str, wanted: str) -> None:
    assert not occurs(wanted, text)

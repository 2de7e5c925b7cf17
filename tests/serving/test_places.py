"""What an export says of the machine that it was made on: nothing."""

from __future__ import annotations

import pytest

from gepa_loop.serving.places import is_place, last_part, without_places


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/al/score.py:f", "score.py:f"),
        ("/home/al/my data/x.jsonl", "x.jsonl"),
        ("/home/al/task/", "task"),
        ("//home/al/x", "x"),
        ("~/x/y.csv", "y.csv"),
        ("~al/x", "x"),
        ("file:///home/al/x", "x"),
        ("sqlite:////home/al/x.db", "x.db"),
        ("--file /home/al/x --n 3", "--file x --n 3"),
        ("x=/home/al/q:f", "x=q:f"),
        ("['/home/al/a', \"/srv/b\"]", "['a', \"b\"]"),
        ("/home/al/x\n~/c/d", "x\nd"),
    ],
)
def test_of_a_path_its_last_part_is_left(text: str, left: str) -> None:
    assert last_part(text) == left
    assert "al" not in left.replace("sqlite", "") and "srv" not in left


@pytest.mark.parametrize(
    "text",
    [
        "https://host/a/b",
        "http://10.0.0.1:80/v1",
        "hf://owner/name",
        "OWNER/NAME",
        "data/x.jsonl",
        "package.module:name",
        "yes/no",
        "/",
        "~",
        "a / b",
        "",
    ],
)
def test_what_is_no_path_of_a_machine_stays(text: str) -> None:
    assert last_part(text) == text


def test_a_configuration_loses_its_folders_wherever_they_stand() -> None:
    config = {
        "task": {
            "scorer": "/home/al/s.py:f",
            "options": {"dir": "/home/al/d", "more": [{"at": "~/e/f"}], "n": 3},
        },
        "track": {"kind": "/home/al/track.py:T"},
        "optimize": {"seed_prompt": "/home is no answer", "seed_prompt_file": "/home/al/p.txt"},
        "model": {"name": "a/b", "template": {"tools": ("/home/al/t",)}},
    }
    assert without_places(config) == {
        "task": {"scorer": "s.py:f", "options": {"dir": "d", "more": [{"at": "f"}], "n": 3}},
        "track": {"kind": "track.py:T"},
        "optimize": {"seed_prompt": "/home is no answer", "seed_prompt_file": "p.txt"},
        "model": {"name": "a/b", "template": {"tools": ["t"]}},
    }


def test_models_that_lie_somewhere() -> None:
    assert (
        is_place("/srv/m") and is_place("~/m") and not is_place("owner/name") and not is_place("random:tiny")
    )

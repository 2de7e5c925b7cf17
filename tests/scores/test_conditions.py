"""Conditions on scores that stop a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gepa_loop.cli import run
from gepa_loop.errors import ConfigError
from gepa_loop.scores.conditions import NAMES, parse_condition, read_conditions
from gepa_loop.show.pipelines import junit

MEANS = {"bare": 0.1, "prompted": 0.5, "student": 0.47, "student_prompted": 0.6}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("student < prompted - 0.03", False),
        ("student <= prompted - 0.03", True),
        ("student < prompted - .029", True),
        ("student<bare", False),
        ("student > bare + 0.3", True),
        ("0.5 <= student_prompted", True),
        ("student >= 0.48", False),
        ("prompted - 0.5 >= 0", True),
    ],
)
def test_comparisons(text: str, holds: bool) -> None:
    assert parse_condition(text, NAMES).holds(MEANS) is holds


def test_what_floats_round_makes_no_difference() -> None:
    means = {"student": 0.2, "prompted": 0.3}
    assert 0.2 > 0.3 - 0.1 and not parse_condition("student > prompted - 0.1", list(means)).holds(means)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("student", "not a comparison"),
        ("student == 0.5", "not a comparison"),
        ("student < __import__('os')", "not a comparison"),
        ("student < prompted * 0.9", "not a comparison"),
        ("0.1 < 0.2", "it compares no scores"),
        ("teacher < 0.2", "teacher is not scored here"),
        ("student < bare", "bare is not scored here"),
    ],
)
def test_what_is_no_condition(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_condition(text, ("student", "prompted"))
    assert said in str(caught.value)


def test_two_of_one_name_cannot_be_told_apart() -> None:
    assert read_conditions([], ["prompted", "prompted"]) == []
    with pytest.raises(ConfigError, match="both are called 'prompted'"):
        read_conditions(["prompted < 1"], ["prompted", "prompted"])


def test_junit_has_a_failure_for_each_that_holds() -> None:
    conditions = [parse_condition(text, NAMES) for text in ("student < bare", "student <= prompted")]
    suite = ElementTree.fromstring(junit(conditions, MEANS))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["student < bare", "student <= prompted"]
    assert cases[0].find("failure") is None
    failure = cases[1].find("failure")
    assert (
        failure is not None
        and failure.get("message") == "student <= prompted: holds (prompted 0.500, student 0.470)"
    )


def test_a_pipeline_stops_where_one_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "p.txt").write_text("Answer with one number.")
    command = ["evaluate", "--config", "smoke", "--prompt", "p.txt", "--against", ":", "--run-name", "e"]
    files = ["--json", "r.json", "--junit", "r.xml"]
    assert run([*command, *files, "--fail-if", "prompted < 0", "--fail-if", "bare > 1"]) == 0
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["conditions"] == [
        {"condition": "prompted < 0", "holds": False},
        {"condition": "bare > 1", "holds": False},
    ]
    assert written["split"] == "select" and written["schema_version"]
    assert 'failures="0"' in (tmp_path / "r.xml").read_text()
    capsys.readouterr()
    # The run is there, so a second look costs nothing.
    assert run([*command, *files, "--fail-if", "prompted >= 0", "--fail-if", "bare > 1"]) == 5
    said = capsys.readouterr().err
    assert "prompted >= 0: holds (prompted " in said and "bare > 1" not in said
    assert 'failures="1"' in (tmp_path / "r.xml").read_text()
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("### gepa-loop: select") == 2 and "- FAILED: prompted &gt;= 0" in summary.replace(
        ">=", "&gt;="
    )
    assert run([*command, "--fail-if", "student < 1"]) == 2

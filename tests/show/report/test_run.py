"""A page's parts as real runs have them, and runs that have none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile import changed

from gepa_loop.cli import run as command
from gepa_loop.config.load import load_config
from gepa_loop.cost.records import CostsRecord
from gepa_loop.errors import ConfigError, RunDirectoryError
from gepa_loop.optimize.records import CandidateRow
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.show.report.about import commands, config_text, took, versions
from gepa_loop.show.report.charts import read_course, training_charts
from gepa_loop.show.report.figures import crosses, nats_line, score_figure, score_line, thin_line
from gepa_loop.show.report.lineage import diff, family
from gepa_loop.show.report.read import has_page, read_told
from gepa_loop.show.report.rounds import stages
from gepa_loop.show.report.write import write_report
from gepa_loop.show.searches import read_search


def test_report_writes_the_page_anew(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "d"
    shutil.copytree(made / "d", folder)
    old = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert command(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert (folder / "report.html").read_bytes() == old
    assert old.count(b"Copyright 2012-") == 1, "one copy of plotly.js"


def test_runs_without_a_page_say_what_there_is_instead(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(made / "d", folder)
    (folder / "result.json").unlink()
    assert not has_page(folder) and has_page(made / "d")
    with pytest.raises(RunDirectoryError, match=r"not finished.*so far a student, scores of `test`") as error:
        write_report(folder)
    assert "`distill` again" in error.value.hint
    for path in ("test", "distill"):
        shutil.rmtree(folder / path)
    with pytest.raises(RunDirectoryError, match="so far nothing but its config"):
        write_report(folder)
    changed(folder / "manifest.json", lambda value: value["identity"].update(command="optimize"))
    with pytest.raises(ConfigError, match="one of `optimize`") as wrong:
        write_report(folder)
    assert wrong.value.hint == "`gepa-loop prompts list half` shows its prompts."
    assert command(["report", str(folder)]) == 2


def test_a_run_of_before_has_a_page_without_questions(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(made / "d", folder)
    (folder / "items.jsonl").unlink()
    page = write_report(folder).read_text()
    assert "it has no items.jsonl" in page and "By what the prompt scores" in page
    assert "it has no items.jsonl" not in (made / "d" / "report.html").read_text()


def test_the_configuration_is_one_that_makes_the_same_run(made: Path, tmp_path: Path) -> None:
    for name in ("d", "l"):
        told = read_told(made / name)
        text, is_toml = config_text(told)
        assert is_toml
        (tmp_path / "gepa-loop.toml").write_text(text)
        again = load_config(str(tmp_path / "gepa-loop.toml"), (), env={}).model_dump(mode="json")
        assert again == {
            key: value for key, value in told.config.items() if key not in ("schema_version", "check")
        }


def test_a_configuration_of_another_version_is_shown_as_it_is(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "d", tmp_path / "d")
    changed(tmp_path / "d" / "config.json", lambda value: value.update(unheard="of"))
    text, is_toml = config_text(read_told(tmp_path / "d"))
    assert not is_toml and json.loads(text)["unheard"] == "of"
    assert "of another version" in write_report(tmp_path / "d").read_text()


def test_commands_versions_and_what_it_took(made: Path) -> None:
    distilled, looped = read_told(made / "d"), read_told(made / "l")
    lines = [one.line for one in commands(distilled)]
    id_ = distilled.prompt.stem
    assert (
        lines[0]
        == f"gepa-loop distill --prompt runs/d/prompts/{id_}.txt --config gepa-loop.toml --run-name again"
    )
    assert lines[1:3] == ["gepa-loop chat d --compare", "gepa-loop serve d"] and "export d" in lines[3]
    assert [one.line for one in commands(looped)][1].endswith("--run-name l --rounds 3")
    assert dict(versions(looped))["model"] == "random:tiny" and "torch" in dict(versions(looped))
    of_object = replace(looped, start={**looped.start, "task": "object"})
    again, further, *_ = [one.line for one in commands(of_object)]
    assert again == "gepa_loop.loop('gepa-loop.toml', task=task, run_name='again')"
    assert further == "gepa_loop.loop('gepa-loop.toml', task=task, run_name='l', loop__rounds=3)"
    parts = stages(looped)
    told = dict(took(looped, [course for one in parts for course in one.courses]))
    spent = read_json(made / "l" / "round_00" / "optimize" / "result.json")["spent"]
    assert f"{spent['rollouts']:,} rollouts" in told["search of round 00"]
    assert "generate" in told["of the students' time"]


@pytest.mark.parametrize("name", ["d", "l"])
def test_what_is_saved_is_said_of_a_student_that_gains(made: Path, name: str) -> None:
    result = read_json(made / name / "result.json", dict[str, Any])
    cards = result["test"] if name == "l" else result[result["decides"]]
    worth = read_json(made / name / "costs.json", CostsRecord)["worth"]
    assert (worth is not None) == (cards["student_minus_base"]["ci"][0] > 0)
    if name == "l":
        assert worth is not None, "its student gains, or this test says nothing"
        assert worth["saved"] == result["tokens"]["prompt"] - result["tokens"].get("bare", 0)
        replies = worth["now"]["reply"], worth["after"]["reply"]
        assert replies == (cards["prompted"]["tokens"], cards["student"]["tokens"])


def test_curves_are_those_of_the_metrics(made: Path) -> None:
    told = read_told(made / "l")
    winner = told.rounds[0]["winner"]
    assert winner is not None
    folder = made / "l" / "round_00" / "distill" / winner
    rows, record = read_jsonl(folder / "metrics.jsonl"), read_json(folder / "result.json")
    course = read_course(folder, winner)
    scores, nats = training_charts([course])
    line, kept = json.loads(scores.figure)["data"]
    checks = [(row["step"], row["held_out_score"]) for row in rows if "held_out_score" in row]
    assert list(zip(line["x"], line["y"], strict=True)) == [(0, record["before"]), *checks]
    assert (kept["x"], kept["y"]) == ([record["choice"]["step"]], [record["choice"]["score"]])
    assert line["meta"] == {"role": "accent"}
    dotted = json.loads(nats.figure)["data"][-1]
    assert dotted["y"] == [row["reverse_kl"] for row in rows]
    assert len(scores.rows) == len(checks) + 1 and nats.rows[0][2] == f"{rows[0]['reverse_kl']:.3f}"


def test_names_in_figures_are_no_markup() -> None:
    lines = [score_line("<b>x</b>", [(1, 0.5)], "other", 0), thin_line("&", [(1, 0.5)], "other")]
    lines += [nats_line("<a href='x'>y</a>", [], "other", 1), crosses("<i>", [])]
    figure = json.loads(score_figure(lines, "<u>"))
    names = [trace["name"] for trace in figure["data"]]
    assert names[:2] == ["&lt;b&gt;x&lt;/b&gt;", "&amp;"] and not any("<" in name for name in names)
    assert figure["layout"]["yaxis"]["title"]["text"] == "&lt;u&gt;"


def test_rounds_say_what_was_chosen_on_what_is_shown(made: Path) -> None:
    page = (made / "l" / "report.html").read_text()
    for said in (
        "the winner was chosen on these items, so its numbers are on the high side",
        "is of the items that chose it, and high by that",
        "of items that the search has chosen by",
        "Oracle (the best student of each item of select, which no student reaches)",
    ):
        assert said in page
    first = stages(read_told(made / "l"))[0]
    decision = read_json(made / "l" / "round_00" / "decision.json")
    gone = [(one["id"], rung["step"]) for rung in decision["race"] for one in rung["dropped"]]
    assert gone and [(one.id, one.step) for one in first.dropped] == gone
    assert first.race is not None and all(
        f"{id_} dropped after step {step}" in first.race.about for id_, step in gone
    )
    assert [one.id for one in first.contenders if one.winner] == [decision["winner"]]


def test_prompts_stand_below_their_parents(made: Path) -> None:
    search = read_search(str(made / "l"), 0)
    told = read_told(made / "l")
    tree = family(search, told.rounds[0]["candidates"], told.rounds[0]["winner"])
    assert {one.id for one in tree} == set(search.own) and tree[0].depth == 0 and not tree[0].diff
    above: list[str] = []
    for one in tree:
        del above[one.depth :]
        parents = search.own[one.id]["parents"]
        assert not parents or above[-1] in parents, one.id
        above.append(one.id)
        assert bool(one.diff) == (one.text != tree[0].text)
    rejected = [one for one in tree if one.status == "rejected"]
    assert all(one.reason for one in rejected)


def test_a_circle_of_parents_ends(made: Path) -> None:
    search = read_search(str(made / "l"), 0)
    row: CandidateRow = {**search.tried[0], "id": "ffffffff", "number": 99, "parents": ["ffffffff"]}
    tree = family(type(search)("s", [*search.tried, row], (), None), (), None)
    assert [one.id for one in tree].count("ffffffff") == 1


def test_a_diff_marks_lines_and_words() -> None:
    old = "\n".join(["one", "Say four and stop.", *"abcdefgh", "last"])
    new = "\n".join(["one", "Say five and stop.", *"abcdefgh", "last", "more"])
    lines = list(diff(old, new))
    assert [line.kind for line in lines] == [
        "same",
        "gone",
        "new",
        *["same"] * 3,
        "gap",
        *["same"] * 3,
        "new",
    ]
    assert lines[1].parts == (("Say ", False), ("four", True), (" and stop.", False))
    assert lines[2].parts[1] == ("five", True) and lines[-1].parts == (("more", False),)
    assert not list(diff(old, old))

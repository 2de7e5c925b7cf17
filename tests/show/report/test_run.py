"""A page's parts as real runs have them, and runs that have none."""

from __future__ import annotations

import json
import re
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
from gepa_loop.run.files import read_json, read_jsonl, write_jsonl
from gepa_loop.scores.numbers import decimal, score_text
from gepa_loop.scores.outcome import no_student
from gepa_loop.scores.results import DecisionRecord
from gepa_loop.search.records import CandidateRow
from gepa_loop.show.report.about import commands, config_text, took, versions
from gepa_loop.show.report.charts import read_course, training_charts
from gepa_loop.show.report.figures import crosses, nats, nats_line, score_figure, score_line, thin_line
from gepa_loop.show.report.lineage import diff, family
from gepa_loop.show.report.read import has_page, read_told
from gepa_loop.show.report.rounds import stages
from gepa_loop.show.report.verdict import verdict
from gepa_loop.show.report.write import write_report
from gepa_loop.show.searches import read_search
from gepa_loop.stages.records import ItemRow
from gepa_loop.training.checks import Check, choose
from gepa_loop.training.records import DistilledRecord


def test_report_writes_the_page_anew(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "d"
    shutil.copytree(made / "d", folder)
    old = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert command(["report", str(folder)]) == 0
    page, following = capsys.readouterr().out.splitlines()
    assert page.endswith("report.html") and following == f"next: gepa-loop view {tmp_path}"
    assert (folder / "report.html").read_bytes() == old
    assert old.count(b"Copyright 2012-") == 1, "one copy of plotly.js"


def test_runs_without_a_page_say_what_there_is_instead(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(made / "d", folder)
    (folder / "result.json").unlink()
    assert not has_page(folder) and has_page(made / "d")
    with pytest.raises(RunDirectoryError, match=r"not finished.*so far a student, scores of `test`") as error:
        write_report(folder)
    assert error.value.hint.startswith("Continue it: gepa-loop")
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


def test_of_how_many_items_replies_were_read_is_counted(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "d", tmp_path / "d")
    assert "It was read for" not in write_report(tmp_path / "d").read_text()
    rows = read_jsonl(tmp_path / "d" / "items.jsonl", ItemRow)
    # Neither is the last one: a reply that came out otherwise when it was sampled again.
    write_jsonl(
        tmp_path / "d" / "items.jsonl",
        [{**row, "pieces": [], "nats": []} if n in (0, 7) else row for n, row in enumerate(rows)],
    )
    assert "It was read for 30 of the 32 items." in write_report(tmp_path / "d").read_text()


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
        == f"gepa-loop distill --prompt runs/d/prompts/{id_}.txt --config run-d.toml --run-name again"
    )
    assert lines[1:3] == ["gepa-loop chat d --compare", "gepa-loop serve d"] and "export d" in lines[3]
    endless = replace(looped, start={**looped.start, "rounds_of_items": None})
    assert [one.line for one in commands(endless)][1].endswith("--run-name l --rounds 3")
    assert dict(versions(looped))["model"] == "random:tiny" and "torch" in dict(versions(looped))
    of_object = replace(endless, start={**endless.start, "task": "object"})
    again, further, *_ = [one.line for one in commands(of_object)]
    assert again == "gepa_loop.loop('run-l.toml', task=task, run_name='again')"
    assert further == "gepa_loop.loop('run-l.toml', task=task, run_name='l', loop__rounds=3)"
    parts = stages(looped)
    told = dict(took(looped, [course for one in parts for course in one.courses]))
    spent = read_json(made / "l" / "round_00" / "optimize" / "result.json")["spent"]
    assert f"{spent['rollouts']:,} rollouts" in told["search of round 00"]
    assert "generate" in told["of the students' time"]


def test_a_round_further_is_offered_where_the_task_has_items_for_it(made: Path) -> None:
    def offered(**start: object) -> bool:
        told = read_told(made / "l")
        return any("--rounds" in one.line for one in commands(replace(told, start={**told.start, **start})))

    assert read_told(made / "l").start["rounds_of_items"] is not None, "the ladder has an end"
    assert not offered(rounds_of_items=2) and offered(rounds_of_items=3) and offered(rounds_of_items=None)
    told = read_told(made / "l")
    old = {key: value for key, value in told.start.items() if key != "rounds_of_items"}
    assert not any("--rounds" in one.line for one in commands(replace(told, start=old)))


def test_a_loop_without_a_winner_leads_on_to_a_distillation(made: Path) -> None:
    told = replace(read_told(made / "l"), adapter=None)
    lines = [one.line for one in commands(told)]
    prompt = f"runs/l/{told.prompt.relative_to(told.path)}"
    assert f"gepa-loop distill --prompt {prompt} --config run-l.toml" in lines
    untested = [
        {**one, "candidates": [{**c, "student": None} for c in one["candidates"]]} for one in told.rounds
    ]
    lines = [one.line for one in commands(replace(told, result={**told.result, "rounds": untested}))]
    assert lines[-1] == "gepa-loop prompts list l" and not any("distill" in line for line in lines)


def test_the_configuration_has_a_name_that_is_no_file_of_the_users(made: Path) -> None:
    for name in ("d", "l"):
        page = (made / name / "report.html").read_text()
        assert f"Configuration, as run-{name}.toml" in page and "gepa-loop.toml" not in page


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
    scores, divergences = training_charts([course])
    line, kept = json.loads(scores.figure)["data"]
    checks = [(row["step"], row["held_out_score"]) for row in rows if "held_out_score" in row]
    assert list(zip(line["x"], line["y"], strict=True)) == [(0, record["before"]), *checks]
    assert (kept["x"], kept["y"]) == ([record["choice"]["step"]], [record["choice"]["score"]])
    assert line["meta"] == {"role": "accent"}
    dotted = json.loads(divergences.figure)["data"][-1]
    assert dotted["y"] == [row["reverse_kl"] for row in rows]
    assert len(scores.rows) == len(checks) + 1 and divergences.rows[0][2] == f"{rows[0]['reverse_kl']:.3f}"


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


def test_contenders_are_those_of_the_decision(made: Path) -> None:
    for number, stage in enumerate(stages(read_told(made / "l"))):
        found = read_json(made / "l" / f"round_{number:02d}" / "decision.json", DecisionRecord)["candidates"]
        assert [(one.prompted, one.student) for one in stage.contenders] == [
            (
                "" if c["prompted"] is None else score_text(c["prompted"]),
                "" if c["student"] is None else score_text(c["student"]),
            )
            for c in found
        ]
        assert any(one.prompted != one.student for one in stage.contenders), "or this test says nothing"


def test_race_scores_say_what_they_decided(made: Path) -> None:
    race = stages(read_told(made / "l"))[0].race
    assert race is not None and race.title == "The race: scores that decided who trained on"
    assert race.about.startswith(
        "Scores of the students at each rung on pareto, which decided who trained on: "
    )


def test_without_answers_curves_and_sentence_are_of_the_divergence(odd: Path, tmp_path: Path) -> None:
    told = read_told(odd / "unanswered")
    (stage,) = stages(told)
    folder = odd / "unanswered" / "distill" / told.prompt.stem
    record, rows = read_json(folder / "result.json", DistilledRecord), read_jsonl(folder / "metrics.jsonl")
    assert record["choice"]["score"] not in [row.get("held_out_score") for row in rows], "two quantities"
    assert [chart.head for chart in stage.charts] == [("student", "step", "its rollouts", "held-out replies")]
    (curve, _) = json.loads(stage.charts[0].figure)["data"]
    checks = [(row["step"], row["held_out_kl"]) for row in rows if "held_out_kl" in row]
    assert list(zip(curve["x"], curve["y"], strict=True)) == checks != []
    name = "mean of exp(-KL(student || prompted))"
    assert (
        f"Its held-out {name}, {decimal(record['choice']['score'])}, is of the items that chose it"
        in stage.kept[0]
    )
    assert f"{nats(record['kl'])} nats a token on held-out replies." in verdict(told)
    page = (odd / "unanswered" / "report.html").read_text()
    assert "which it has greedily by construction" in page and "retention" not in page
    assert "no effect that a student" not in page and "Held-out score by step" not in page
    # A privileged field may leave replies unread; scores judge then.
    unread = [{key: value for key, value in row.items() if key != "held_out_kl"} for row in rows]
    write_jsonl(tmp_path / "metrics.jsonl", unread)
    assert [score for _, score in read_course(tmp_path, None, agreement=True).scores] == [
        row["held_out_score"] for row in rows if "held_out_score" in row
    ]


def test_a_score_that_chose_nothing_is_not_high_by_that(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "d", tmp_path / "d")
    result = tmp_path / "d" / "distill" / read_told(made / "d").prompt.stem / "result.json"
    high = "is of the items that chose it, and high by that"

    def said(*scores: float) -> str:
        """Of checks that are all of one item, nearer to the teacher each time."""
        checks = [Check(step, {"a": score}, kl={"a": 1 / (step + 1)}) for step, score in enumerate(scores)]
        changed(result, lambda value: value["choice"].update(choose(checks).as_dict()))
        return stages(read_told(tmp_path / "d"))[0].kept[0]

    assert f", {high}. Training" in said(0.0, 0.0, 0.5)
    assert "Its held-out score, .500, " in said(0.0, 0.0, 0.5)
    silent = said(0.0, 0.0, 0.0)
    assert "as all checks score the same on every item. Its held-out score is .000. Training" in silent


def test_a_round_whose_students_were_left_out_says_that_none_was_tested(odd: Path) -> None:
    told = read_told(odd / "excluded")
    (one,) = told.rounds
    assert one["candidates"] and all(c["student"] is None for c in one["candidates"])
    assert verdict(told) == "No student was tested on select, so this run has none to use."
    page = (odd / "excluded" / "report.html").read_text()
    assert f'none to use.</h1>\n<p class="text">{one["reason"]}</p>' in page
    assert "significantly better than" not in page
    terminal = (odd.parent / "excluded.txt").read_text()
    assert f"student: {no_student(told.rounds)}" in " ".join(terminal.split())
    assert no_student(told.rounds).startswith(
        "no student was tested on select: every candidate was skipped ("
    )


def test_one_item_of_test_is_one(odd: Path) -> None:
    page = (odd / "single" / "report.html").read_text()
    assert "Scores on 1 item of test;" in page and not re.search(
        r"\b1 items of test;|\b1 items of test,", page
    )
    assert "One item is too few to show any difference." in page and "these items" not in page
    assert "test, 1 item; sampled" in (odd.parent / "single.txt").read_text()


def test_a_student_of_the_reward_alone_was_distilled_from_no_prompt(odd: Path) -> None:
    told = read_told(odd / "reward")
    gained = told.gap("student_minus_base", "greedy")
    assert gained is not None and gained["ci"][0] > 0, "its student gains, or this test says nothing"
    page = (odd / "reward" / "report.html").read_text()
    assert "neither training nor the student reads a prompt" in page
    assert "The prompt, which training did not read" in page
    for wrong in ("<dfn>teacher</dfn>", "was distilled from", "tokens saved", "have paid for it"):
        assert wrong not in page
    usual = (odd / "sampled" / "report.html").read_text()
    assert "its <dfn>teacher</dfn>, the same model before training, does." in usual
    assert "The prompt that the student was distilled from" in usual


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

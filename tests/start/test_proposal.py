"""What is proposed for a user's data, and the file that says it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.model.base import Base
from gepa_loop.start.guess import fixed, guess_fields, propose
from gepa_loop.start.machine import Machine, choose_model, find_machine
from gepa_loop.start.proposal import Proposal, propose_config
from gepa_loop.start.sizes import gain_sentence, told_sizes
from gepa_loop.start.survey import Survey, survey
from gepa_loop.start.write import check_target, place, read_config, read_options, with_sets, write_config
from gepa_loop.task.items import Task, load_task
from gepa_loop.task.sources import settle

CPU = Machine("2 CPU cores", None, 8.0, 50.0)
GPU = Machine("a GPU", 80.0, 79.0, 50.0)
CODES = ("GX4", "QQ5", "B47")


def _survey(path: Path, rows: Sequence[dict[str, Any]]) -> Survey:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return survey(str(path))


def _tickets(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"Body": f"My spade {n} broke.", "Queue": CODES[n % 3], "Customer": f"C{n // 4}", **more}
        for n in range(count)
    ]


def _proposed(
    found: Survey, prompt: str | None = "Answer GX4, QQ5 or B47.", machine: Machine = CPU
) -> Proposal:
    given = None if prompt is None else ("prompt.txt", prompt)
    return propose_config(found.at(Path(found.name).name), given, ("random:tiny", "a test"), None, machine)


def _task(proposal: Proposal, folder: Path, *sets: str) -> Task:
    """The task of the proposal's file, as a command loads it."""
    (folder / "prompt.txt").write_text("Answer GX4, QQ5 or B47.")
    write_config(with_sets(proposal, sets), folder / "gepa-loop.toml")
    config = load_config("gepa-loop.toml", env={}, cwd=folder)
    assert config == read_config(proposal, sets, folder)
    settled = settle(config)
    return load_task(settled.task, settled.seed)


def test_tickets_with_a_code_and_a_customer(tmp_path: Path) -> None:
    found = _survey(tmp_path / "tickets.csv", _tickets(120))
    proposal = _proposed(found)
    task = proposal.values["task"]
    assert task["fields"] == {"question": "Body", "answer": "Queue"}
    assert (task["kind"], task["name"], task["group"]) == ("csv", "tickets.csv", "Customer")
    assert (task["extract"], task["scorer"]) == ("whole", "choice")
    assert proposal.values["optimize"] == {"seed_prompt_file": "prompt.txt"}
    assert proposal.doubts == ()
    loaded = _task(proposal, tmp_path)
    owners = [{item.entry["Customer"] for item in items} for items in loaded.splits.values()]
    assert not any(a & b for n, a in enumerate(owners) for b in owners[:n])
    one = loaded.splits["test"][0]
    assert loaded.score(one, f"It is {one.answer}.").value == 1
    told = dict(proposal.said)
    assert (
        "120 distinct" in told["question"]
        and "3 labels" in told["answer"]
        and "Customer kept whole" in told["splits"]
    )
    assert re.search(
        r"items of test can show .* a student must gain about \.\d+ on the \d+ items of select",
        told["splits"],
    )


def test_a_label_that_the_prompt_does_not_name(tmp_path: Path) -> None:
    found = _survey(tmp_path / "t.csv", _tickets(40))
    assert _proposed(found, "Answer gx4 or B47.").doubts == (
        "1 of 3 labels do not stand in the prompt: 'QQ5'",
    )
    assert "there is no --prompt" in _proposed(found, None).doubts[0]


@pytest.mark.parametrize(
    ("rows", "prompt", "fields", "extract", "scorer"),
    [
        (
            [{"question": f"{n} + {n}?", "answer": f"We add.\n#### {2 * n}"} for n in range(30)],
            "Add.",
            {"after": "####"},
            "last_number",
            "exact",
        ),
        (
            [{"text": f"How far is {n}?", "answer": n * n} for n in range(3, 40)],
            "Say.",
            {"question": "text"},
            "last_number",
            "exact",
        ),
        (
            [{"text": f"How far is it to {n}?", "answer": f"{n} km or so"} for n in range(30)],
            r"End with \boxed{}.",
            {"question": "text"},
            "boxed",
            "f1",
        ),
        (
            [
                {"instruction": f"Do {n}.", "input": "" if n % 2 else "x y", "output": {"a": n}}
                for n in range(30)
            ],
            "JSON.",
            {"question": "{instruction}\n\n{input}", "answer": "output"},
            "whole",
            "json",
        ),
        (
            [{"title": f"Spade {n}", "body": f"It broke {n} times.", "label": n % 2} for n in range(30)],
            "In <answer>.",
            {"question": "{title}\n\n{body}", "answer": "label"},
            "tags",
            "exact",
        ),
        (
            [{"text": f"Review {n} of it", "label": "C++" if n % 2 else "C"} for n in range(30)],
            "C or C++.",
            {"question": "text", "answer": "label"},
            "whole",
            "exact",
        ),
        ([{"question": f"What is {n}?"} for n in range(30)], "Say.", None, "whole", None),
    ],
)
def test_fields_and_scorers(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    prompt: str,
    fields: dict[str, str] | None,
    extract: str,
    scorer: str | None,
) -> None:
    proposal = _proposed(_survey(tmp_path / "a.jsonl", rows), prompt)
    task = proposal.values["task"]
    assert (task.get("fields"), task["extract"], task.get("scorer")) == (fields, extract, scorer)
    loaded = _task(proposal, tmp_path)
    assert loaded.answers == ("none" if scorer is None else "given") and not loaded.doubts


def test_chats_that_begin_with_the_prompt(tmp_path: Path) -> None:
    def chat(n: int) -> list[dict[str, str]]:
        turns = (
            ("system", "Be brief. \n"),
            ("user", f"Q{n}?"),
            ("assistant", f"It is the answer {n} of the very many that there are to it."),
        )
        return [{"role": role, "content": content} for role, content in turns]

    found = _survey(tmp_path / "chats.jsonl", [{"messages": chat(n)} for n in range(30)])
    proposal = _proposed(found, "Be brief.")
    assert proposal.values["task"]["fields"] == {"question": "messages", "system": "drop"}
    item = _task(proposal, tmp_path).splits["train"][0]
    assert item.messages == (("user", item.question),) and item.answer.startswith("It is the answer")
    assert proposal.values["task"]["scorer"] == "f1" and "judge" in proposal.notes["task.scorer"]
    # With another prompt the chats' own system turn stays where it is.
    assert "system" not in _proposed(found, "Be long.").values["task"]["fields"]


def test_a_field_named_split_that_means_something_else(tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if n < 30 else "dev"} for n, row in enumerate(_tickets(40))]
    proposal = _proposed(_survey(tmp_path / "a.csv", rows))
    assert "whose values are none of ours" in proposal.notes["task.fields.split"]
    assert len(_task(proposal, tmp_path).splits["test"]) > 5
    ours = ["train"] * 20 + ["pareto"] * 8 + ["select"] * 6 + ["test"] * 6
    rows = [{**row, "split": split} for row, split in zip(_tickets(40), ours, strict=True)]
    loaded = _task(_proposed(_survey(tmp_path / "a.csv", rows)), tmp_path)
    assert {split: len(items) for split, items in loaded.splits.items()} == {
        "train": 20, "pareto": 8, "race": 0, "select": 6, "test": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "test", "race", "train"),
    [(100, 30, None, 35), (1_000, 300, None, 508), (2_000, 300, 64, 1_444)],
)
def test_sizes_that_fit(tmp_path: Path, count: int, test: int, race: int | None, train: int) -> None:
    rows = [{"question": f"What is {n}?", "answer": CODES[n % 3]} for n in range(count)]
    splits = _proposed(_survey(tmp_path / "a.jsonl", rows)).values["task"]["splits"]
    assert (splits["test"], splits.get("race"), splits["train"]) == (test, race, train)
    assert sum(splits.values()) <= count
    loaded = _task(_proposed(_survey(tmp_path / "a.jsonl", rows)), tmp_path)
    assert len(loaded.splits["train"]) == train


def test_the_usual_names_of_splits_are_not_enough_of_ours(tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if n < 30 else "test"} for n, row in enumerate(_tickets(40))]
    proposal = _proposed(_survey(tmp_path / "a.csv", rows))
    assert "whose values are none of ours" in proposal.notes["task.fields.split"]
    assert len(_task(proposal, tmp_path).splits["select"]) > 3
    # A question that is there twice counts once.
    ours = ["train"] * 20 + ["pareto"] * 8 + ["select"] * 6 + ["test"] * 6
    marked = [{**row, "split": split} for row, split in zip(_tickets(40), ours, strict=True)]
    twice = _proposed(_survey(tmp_path / "a.csv", [*marked, marked[0], marked[-1]]))
    assert twice.values["task"]["splits"] == {"train": 20, "pareto": 8, "select": 6, "test": 6}


def test_codes_with_digits_are_no_numbers(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n}?", "answer": f"AB{1000 + n}"} for n in range(40)]
    task = _proposed(_survey(tmp_path / "a.jsonl", rows)).values["task"]
    assert (task["extract"], task["scorer"]) == ("whole", "exact")


def test_too_few_questions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="11 distinct questions in 22 records") as caught:
        _proposed(_survey(tmp_path / "a.csv", _tickets(11) * 2))
    assert "distill --questions" in caught.value.hint


def test_the_gain_that_items_can_show() -> None:
    # (z(.975) + z(.8)) * .5 / sqrt(n) is .0809 at 300; t and its power give a little more.
    assert "300 items of test can show a difference of 0.08 " in gain_sentence(300)
    assert "too few" in gain_sentence(4)
    sizes = {"train": 42, "pareto": 18, "select": 24, "test": 36}
    assert "gain about .333 on the 24 items of select" in told_sizes(sizes, 120, None, True)
    # Nothing is to be gained where there are no answers.
    assert told_sizes(sizes, 120, None, False) == "train 42, pareto 18, select 24, test 36."


def test_a_machine_and_its_model(tmp_path: Path) -> None:
    assert choose_model(CPU, None)[0] == "bundled:smollm2-135m-instruct"
    assert choose_model(GPU, None)[0] == "Qwen/Qwen3-4B-Instruct-2507"
    assert choose_model(Machine("small", 8.0, 7.0, 1.0), None)[0] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert choose_model(GPU, "a/b") == ("a/b", "as --model says")
    found = find_machine(tmp_path)
    assert found.disk_gib > 0 and found.free_gib > 0 and found.name


def test_a_cpu_has_a_recipe_of_its_own(tmp_path: Path) -> None:
    found = _survey(tmp_path / "t.csv", _tickets(40))
    assert (
        load_config("desk", env={}, cwd=tmp_path).distill.steps == _proposed(found).values["distill"]["steps"]
    )
    assert "distill" not in _proposed(found, machine=GPU).values
    assert len(_task(_proposed(found, machine=GPU), tmp_path).splits["test"]) > 5


def test_the_horizon(tmp_path: Path, smollm: Base) -> None:
    found = _survey(tmp_path / "t.csv", _tickets(40))

    def horizon(prompt: str) -> int:
        given = ("p.txt", prompt)
        proposal = propose_config(found, given, ("m", "w"), smollm.tokenizer, CPU)
        return int(proposal.values["sampling"]["max_tokens"])

    assert horizon("Reply with the code.") in (16, 24)
    assert horizon("Think step by step, then the code.") == 256


def test_who_is_asked(tmp_path: Path) -> None:
    found = _survey(tmp_path / "t.csv", _tickets(40))
    asked: list[str] = []

    def ask(what: str, proposed: str | None, known: Sequence[str]) -> str | None:
        asked.append(f"{what}={proposed}")
        assert what != "answer" or "Body" not in known
        return proposed

    meaning = guess_fields(found, None, fixed("{Queue}: {Body}", None, None, ask))
    assert asked == ["answer=None"]
    assert meaning.fields.question == "{Queue}: {Body}" and not meaning.answered
    given = found.at("t.csv"), None, ("m", "a test"), None, CPU
    propose_config(*given, fixed("Body", None, None, ask))
    assert asked[1:] == ["answer=Queue", "group=Customer"]
    for what, value in (("question", "{Bod}"), ("answer", "Que"), ("group", "Who")):
        said = {"question": None, "answer": None, "group": None, what: value}
        with pytest.raises(ConfigError, match=f"--{what} {value}: there is no field"):
            propose_config(*given, fixed(said["question"], said["answer"], said["group"], propose))


def _grouped(found: Survey, group: str | None) -> Proposal:
    ask = fixed(None, None, group, propose)
    return propose_config(found.at(Path(found.name).name), None, ("m", "a test"), None, CPU, ask)


def test_a_group_that_leaves_nothing_for_other_splits_is_not_proposed(tmp_path: Path) -> None:
    # One customer has 70 of 100 tickets, the others 1 to 3 each.
    rows = [
        {**row, "Customer": "C0" if n % 10 < 7 else f"C{n % 17 + 1}"} for n, row in enumerate(_tickets(300))
    ]
    found = _survey(tmp_path / "t.csv", rows)
    proposal = _grouped(found, None)
    assert "group" not in proposal.values["task"]
    told = dict(proposal.said)["group"]
    assert told.startswith("Customer is not kept whole: too little would be left for ")
    assert "'C0' alone has 210 of 300 records" in told
    assert len(_task(proposal, tmp_path).splits["test"]) == 90
    with pytest.raises(ConfigError, match=r"--group Customer: too little .* 'C0' alone has 210 of 300"):
        _grouped(found, "Customer")
    # Five customers of twenty tickets each do fit, and are not called likely.
    few = _survey(tmp_path / "f.csv", [{**row, "Team": f"T{n % 5}"} for n, row in enumerate(_tickets(100))])
    owners = [
        {item.entry["Team"] for item in items}
        for items in _task(_grouped(few, "Team"), tmp_path).splits.values()
    ]
    assert sum(map(len, owners)) == 5 == len(set().union(*owners))


def test_records_without_a_group_are_named(tmp_path: Path) -> None:
    rows = [{**row, "Customer": row["Customer"] if n % 50 else ""} for n, row in enumerate(_tickets(120))]
    found = _survey(tmp_path / "t.csv", rows)
    with pytest.raises(ConfigError) as caught:
        _grouped(found, "Customer")
    said = "--group Customer: 3 of 120 records have no text or number in it: csv:2, csv:52, csv:102"
    assert str(caught.value) == said and "leave --group out" in caught.value.hint
    proposal = _grouped(found, None)
    assert "group" not in proposal.values["task"] and "group" not in dict(proposal.said)


def test_a_question_that_is_marked_for_two_splits_counts_where_it_goes(tmp_path: Path) -> None:
    ours = ["train"] * 20 + ["pareto"] * 8 + ["select"] * 6 + ["test"] * 6
    marked = [{**row, "split": split} for row, split in zip(_tickets(40), ours, strict=True)]
    # The first of train is in test, too; a question of select twice, and in pareto.
    leaks = [{**marked[0], "split": "test"}, marked[30], {**marked[30], "split": "pareto"}]
    proposal = _proposed(_survey(tmp_path / "a.csv", [*marked, *leaks]))
    assert proposal.values["task"]["splits"] == {"train": 19, "pareto": 8, "select": 6, "test": 7}
    task = _task(proposal, tmp_path)
    assert len(task.splits["train"]) == 19
    assert any(
        "2 records are left out, as they ask what one of another split asks" in one for one in task.warnings()
    )


def test_a_split_that_holds_lists_is_none_of_ours(tmp_path: Path) -> None:
    rows = [{**row, "split": ["train"]} for row in _tickets(40)]
    assert (
        "splits are dealt out anew"
        in _proposed(_survey(tmp_path / "a.jsonl", rows)).notes["task.fields.split"]
    )


def test_fields_of_objects(tmp_path: Path) -> None:
    rows = [
        {
            "id": n,
            "input": {"text": f"My spade {n} broke."},
            "meta": {"label": CODES[n % 3], "customer": f"C{n // 4}"},
        }
        for n in range(120)
    ]
    found = _survey(tmp_path / "a.jsonl", rows)
    assert [(one.name, one.kind) for one in found.fields] == [
        ("id", "id"), ("input", "object"), ("input.text", "text"),
        ("meta", "object"), ("meta.label", "label"), ("meta.customer", "label"),
    ]  # fmt: skip
    task = _proposed(found).values["task"]
    assert task["fields"] == {"question": "input.text", "answer": "meta.label"}
    assert (task["scorer"], task["group"]) == ("choice", "meta.customer")
    loaded = _task(_proposed(found), tmp_path)
    assert (
        loaded.splits["test"][0].question.startswith("My spade") and loaded.splits["test"][0].answer in CODES
    )
    # The records' own fields come first, and a question is no part of an answer.
    output = [
        {"note": f"Spade {n}", "output": {"text": f"A long text of {n} words or so"}} for n in range(30)
    ]
    fields = _proposed(_survey(tmp_path / "b.jsonl", output)).values["task"]["fields"]
    assert fields == {"question": "note", "answer": "output"}


def test_no_field_that_looks_like_a_question(tmp_path: Path) -> None:
    rows = [{"a": n % 2, "b": {"c": n % 3}} for n in range(30)]
    with pytest.raises(ConfigError, match=r"a\.jsonl: no field looks like a question") as caught:
        _proposed(_survey(tmp_path / "a.jsonl", rows))
    assert "--question FIELD" in caught.value.hint and "Fields: a, b, b.c." in caught.value.hint
    short = [{"question": f"Spade {n % 5}?", "answer": n % 5} for n in range(30)]
    with pytest.raises(ConfigError, match="5 distinct questions in 30 records"):
        _proposed(_survey(tmp_path / "b.jsonl", short))


def test_splits_of_a_dataset_are_put_together_and_that_is_said(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = _tickets(60)
    parts = {"train": Dataset.from_list(rows[:40]), "test": Dataset.from_list(rows[40:])}
    DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    proposal = _proposed(survey(str(tmp_path / "both")))
    assert "own splits (train, test) are put together" in proposal.notes["task.splits"]
    assert proposal.notes["task.splits"].startswith(
        "Shares of the questions, since groups stay whole. The dataset's"
    )
    assert "--set task.options.split=train takes one of them alone" in dict(proposal.said)["splits"]
    one = _proposed(survey(str(tmp_path / "both"), {"split": "train"}))
    assert one.notes["task.splits"] == "Shares of the questions, since groups stay whole."
    assert "40 distinct" in dict(one.said)["question"]


def test_settings_of_a_user_are_written_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b"Body;Queue\r\n"
        + b"".join(f"Le thé {n} est froid.;{CODES[n % 3]}\r\n".encode("cp1252") for n in range(40))
    )
    sets = ["task.options.encoding=cp1252", "distill.steps=7", "task.scorer=exact", "seed=3"]
    with pytest.raises(TaskError, match="not utf-8 text"):
        survey(str(tmp_path / "a.csv"))
    assert read_options(sets) == {"encoding": "cp1252"}
    found = survey(str(tmp_path / "a.csv"), read_options(sets))
    assert found.fields[0].example.startswith("Le thé")
    proposal = _proposed(found)
    assert len(_task(proposal, tmp_path, *sets).splits["test"]) == 12
    config = load_config("gepa-loop.toml", env={}, cwd=tmp_path)
    assert (config.task.options, config.distill.steps, config.seed) == ({"encoding": "cp1252"}, 7, 3)
    assert config.distill.group == 2
    whole = with_sets(proposal, sets)
    assert "task.scorer" in proposal.notes and "task.scorer" not in whole.notes
    assert whole.said[-1] == ("set", f"{', '.join(sets)}: as --set says")
    assert with_sets(proposal, ()) == proposal
    with pytest.raises(ConfigError, match=r"--set distill\.stepz=7: unknown key"):
        read_config(proposal, ["distill.stepz=7"], tmp_path)
    for key, flag in (
        ("task.name=b.csv", "--data"),
        ("task.fields={question='a'}", "--question"),
        ("model.name=x", "--model"),
    ):
        with pytest.raises(ConfigError, match=f"--set {key[:8]}.*what is proposed depends on") as caught:
            read_options([key])
        assert flag in caught.value.hint


def test_the_file_is_written_once(tmp_path: Path) -> None:
    target = tmp_path / "gepa-loop.toml"
    check_target(target, force=False)
    write_config(_proposed(_survey(tmp_path / "t.csv", _tickets(40)), None), target)
    with pytest.raises(ConfigError, match="is there already"):
        check_target(target, force=False)
    check_target(target, force=True)
    with pytest.raises(ConfigError, match=r"ends in \.toml"):
        check_target(tmp_path / "config.json", force=False)
    assert place(str(tmp_path / "a" / "t.csv"), tmp_path) == "a/t.csv"
    assert place("/elsewhere/t.csv", tmp_path) == "/elsewhere/t.csv"


def test_sizes_fit_where_questions_differ_in_case_alone(tmp_path: Path) -> None:
    rows = [{"question": f"How far is {n} from home?", "answer": n * n} for n in range(30)]
    rows += [{"question": f"how far is {n}  from home?", "answer": n * n} for n in range(30)]
    loaded = _task(_proposed(_survey(tmp_path / "t.jsonl", rows)), tmp_path)
    assert sum(len(items) for items in loaded.splits.values()) <= 30
    split = ["train"] * 8 + ["pareto"] * 8 + ["select"] * 7 + ["test"] * 7
    marked = [{**row, "split": split[n % 30]} for n, row in enumerate(rows)]
    marked[30]["split"] = "test"  # the first of train, written otherwise
    loaded = _task(_proposed(_survey(tmp_path / "u.jsonl", marked)), tmp_path)
    assert len(loaded.splits["test"]) == 15 and len(loaded.splits["train"]) == 14


def test_no_group_is_its_answer_and_a_minus_is_none(tmp_path: Path) -> None:
    found = _survey(tmp_path / "t.csv", _tickets(120))
    for own, what in (("Queue", "answer"), ("Body", "question")):
        with pytest.raises(ConfigError, match=f"--group {own}: it is the {what} itself"):
            propose_config(found, None, ("m", "a test"), None, CPU, fixed("Body", "Queue", own, propose))
    proposal = propose_config(found, None, ("m", "a test"), None, CPU, fixed("Body", "-", "-", propose))
    said = dict(proposal.said)
    assert (
        "answer" not in proposal.values["task"].get("fields", {}) and "group" not in proposal.values["task"]
    )
    # Nothing is scored, so that no difference of scores can be shown.
    assert "can show a difference" not in said["splits"]

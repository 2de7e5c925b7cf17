"""Tasks as a class of the user's, named by a file or handed in as an object."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.command import EVALUATE, Flags, Inputs
from gepa_loop.config.document import short_document
from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import EnvironmentFault, RunDirectoryError, TaskError
from gepa_loop.run.identity import read_manifest
from gepa_loop.scores.rollouts import Row
from gepa_loop.search.feedback import reflective_record
from gepa_loop.session import open_session
from gepa_loop.task.items import load_task
from gepa_loop.task.made import code_mark, code_of, unmarked
from gepa_loop.task.own import Score, Task
from gepa_loop.task.records import Item
from gepa_loop.task.sources import settle

SIZES = {"train": 2, "pareto": 2, "select": 2, "test": 2}
SMALL = [f"task.splits.{name}={size}" for name, size in SIZES.items()]

TICKETS = """
import asyncio
import gepa_loop.task.own as gepa_loop
from gepa_loop.task.records import Item
from gepa_loop.task.sources import settle
from helper import LABELS

class Tickets(gepa_loop.Task):
    parallel = 2

    def __init__(self, count=8, gate=None):
        self.count, self.gate = count, asyncio.Barrier(2)

    def items(self):
        for n in range(self.count):
            yield Item.of(f"Ticket {n}", LABELS[n % 2], customer=f"c{n}")

    async def score(self, item, reply):
        await self.gate.wait()  # one alone would wait for ever
        if reply == "boom":
            raise KeyError(item.entry["customer"])
        if reply == "two":
            return gepa_loop.Score(2)
        if reply == "half":
            return gepa_loop.Score(0.5, "The desk is right, its code is missing.")
        return reply == item.answer

def old():
    return [Item.of(f"Q{n}", n) for n in range(8)]

def judge(record, reply):
    return len(reply) / 10
"""


@pytest.fixture
def tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", list(sys.path))
    folder = tmp_path / "my tasks"
    folder.mkdir()
    (folder / "helper.py").write_text("LABELS = ['north', 'south']\n")
    (folder / "tick-ets.py").write_text(TICKETS)
    return folder / "tick-ets.py"


def _config(name: str, **options: Any) -> TaskConfig:
    return TaskConfig(kind="python", name=name, options=options, splits=SIZES, extract="whole")


class Plain(Task):
    """Without a score of its own."""

    def __init__(self, count: int = 8, token: str = "x") -> None:
        self.count, self.api_key = count, token

    def items(self) -> Sequence[Item]:
        return [Item.of(f"Say {n}", str(n)) for n in range(self.count)]


class Scored(Plain):
    def score(self, item: Item, reply: str) -> float:
        return 0.25 if reply != item.answer else 1


def test_an_item_has_a_question_an_answer_and_whatever_else() -> None:
    item = Item.of("2 + 2?", 4, customer="acme", split="test")
    assert (item.question, item.answer, item.entry["customer"]) == ("2 + 2?", "4", "acme")
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert Item.of(turns).messages == (("system", "S"), ("user", "U"))
    assert Item("x", (("user", "Q"),), "A", {"n": 1}).record == {
        "question": [{"role": "user", "content": "Q"}],
        "answer": "A",
        "n": 1,
    }
    with pytest.raises(TaskError, match=r"Item\.of: question does not end with a user's turn"):
        Item.of("  ")


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "1", None])
def test_a_score_is_from_0_to_1(value: Any) -> None:
    with pytest.raises(ValueError, match="a score is a number from 0 to 1"):
        Score(value)
    with pytest.raises(ValueError, match="it is a text"):
        Score(1, 3)  # type: ignore[arg-type]


def test_a_class_in_a_file_gives_items_and_scores_several_at_a_time(tickets: Path) -> None:
    task = load_task(_config(f"{tickets}:Tickets", count=9), 0)
    assert (task.distinct, task.answers) == (9, "given")
    one, other = task.splits["test"]
    assert one.id.startswith("python:") and one.entry["customer"] == f"c{one.question[-1]}"
    # Two wait for each other, or nothing comes.
    right, half, wrong, again = task.score_all(
        [(one, one.answer, False), (other, "half", False), (one, "x", False), (one, "half", False)]
    )
    assert (right.value, half.value, wrong.value, again.value) == (1, 0.5, 0, 0.5)
    assert half.feedback.endswith("The desk is right, its code is missing.")


def test_feedback_reaches_what_the_reflection_reads(tickets: Path) -> None:
    task = load_task(_config(f"{tickets}:Tickets"), 0)
    item = task.splits["train"][0]
    score, _ = task.score_all([(item, "half", False), (item, "half", False)])
    row = Row(item.id, 0, score.value, score.raw, score.extracted, "half", 1, "stop", score.feedback)
    record = reflective_record(item, [row], lambda text: text)  # type: ignore[arg-type]
    assert "The desk is right, its code is missing." in record["Feedback"]


def test_what_a_users_code_raises_is_told_with_its_line_and_is_no_score(tickets: Path) -> None:
    task = load_task(_config(f"{tickets}:Tickets"), 0)
    (item, _) = task.splits["test"]
    line = TICKETS[: TICKETS.index("raise KeyError")].count("\n") + 1
    for reply, said in (
        ("boom", f"KeyError: '{item.entry['customer']}'\n  {tickets}, line {line}: raise KeyError"),
        ("two", f"a score is a number from 0 to 1\n  {tickets}, line {line + 2}: return gepa_loop.Score(2)"),
    ):
        with pytest.raises(EnvironmentFault) as caught:
            task.score_all([(item, reply, False)] * 2)
        assert f"score on {item.id} failed" in str(caught.value) and said in str(caught.value)
    (tickets.parent / "torn.py").write_text("x = 1\ndef (\n")
    with pytest.raises(TaskError, match=r"failed: SyntaxError(.|\n)*torn.py, line 2: def \("):
        load_task(_config(f"{tickets.parent / 'torn.py'}:x"), 0)


def test_functions_of_a_file_make_items_and_score(tickets: Path) -> None:
    assert load_task(_config(f"{tickets}:old"), 0).distinct == 8
    config = _config(f"{tickets}:old").model_copy(update={"scorer": f"{tickets}:judge"})
    task = load_task(config, 0)
    assert task.score(task.splits["test"][0], "1234").value == 0.4
    assert code_of(config) == (tickets,)


def test_an_edited_file_is_another_module_and_another_mark(
    tickets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(f"{tickets}:old")
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before, when = code_mark(config), tickets.stat().st_mtime_ns
    assert before == code_mark(config)
    assert {item.question[0] for item in load_task(config, 0).items} == {"Q"}
    tickets.write_text(TICKETS.replace('f"Q{n}"', 'f"P{n}"'))
    os.utime(tickets, ns=(when, when))  # as long, and within the same second
    assert {item.question[0] for item in load_task(config, 0).items} == {"P"}
    assert code_mark(config) != before
    assert not list(tickets.parent.glob("__pycache__/tick*")), "nothing is left beside the user's file"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.py:Tickets", "there is no file none.py"),
        (f"{Path(pytest.__file__)}:main", "is no file of yours"),
        (f"{Path(TaskError.__init__.__code__.co_filename)}:memory_fault", "is no file of yours"),
        ("{}:Ticket", "has no function 'Ticket'"),
        ("{}:Tickets.items", "not of the form file.py:Name"),
    ],
)
def test_files_that_cannot_be_used(tickets: Path, name: str, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task(_config(name.format(tickets)), 0)
    assert said in str(caught.value)


def test_a_file_lies_beside_the_config_that_names_it(tickets: Path, tmp_path: Path) -> None:
    config = tickets.parent / "own.toml"
    config.write_text('[task]\nkind = "python"\nname = "tick-ets.py:Tickets"\nscorer = "tick-ets.py:judge"\n')
    found = load_config(str(config), env={}, cwd=tmp_path).task
    assert (found.name, found.scorer) == (f"{tickets}:Tickets", f"{tickets}:judge")


def test_an_object_stands_for_what_a_config_names() -> None:
    plain = load_task(_config("Plain"), 0, own=Plain())
    item = plain.splits["test"][0]
    assert [plain.score(item, reply).value for reply in (item.answer, "x")] == [1, 0]  # by `exact`
    scored = load_task(_config("Scored"), 0, own=Scored())
    assert [scored.score(item, reply).value for reply in (item.answer, "x")] == [1, 0.25]
    ruled = load_task(_config("Scored").model_copy(update={"scorer": "includes"}), 0, own=Scored())
    assert ruled.score(item, f"It is {item.answer}").value == 1


def test_a_class_with_a_score_reads_all_of_a_reply_unless_another_extract_is_asked_for() -> None:
    plain = TaskConfig(kind="python", name="x", splits=SIZES)
    assert load_task(plain, 0, own=Scored()).extract == "whole"
    assert load_task(plain, 0, own=Plain()).extract == "last_number"
    asked = TaskConfig(kind="python", name="x", splits=SIZES, extract="tags")
    assert load_task(asked, 0, own=Scored()).extract == "tags"
    # What a preset says of its own task does not count; what is said with the class does.
    one = load_config("smoke", ["task.kind=python", "task.name=x:X"], env={}).task
    two = load_config("smoke", ["task.kind=python", "task.name=x:X", "task.extract=tags"], env={}).task
    assert "extract" not in one.model_fields_set and two.extract == "tags"
    assert load_config("smoke", ["task.name=gcd"], env={}).task.extract == "last_number"


def test_the_mark_of_an_object_is_its_classes_code_and_what_it_was_made_with() -> None:
    config, mark = _config("x"), code_mark(_config("x"), Scored())
    assert mark == code_mark(config, Scored()) == code_mark(config, Scored(token="another key"))
    assert len({mark, code_mark(config, Scored(9)), code_mark(config, Plain())}) == 3
    # As in a notebook or at a prompt, where no file has the text.
    made: list[type[Task]] = []
    for worth in ("0.5", "0.6", "0.5"):
        space: dict[str, Any] = {"Scored": Scored}
        code = f"class Typed(Scored):\n    def score(self, item, reply): return {worth}"
        exec(compile(code, "<typed>", "exec"), space)  # noqa: S102
        made.append(space["Typed"])
    first, other, same = (code_mark(config, kind()) for kind in made)
    assert first == same != other


def test_the_mark_of_an_object_is_over_lists_and_dicts_too() -> None:
    class Holding(Plain):
        def __init__(self, **held: Any) -> None:
            super().__init__()
            self.__dict__ |= held

    config = _config("x")
    held: list[dict[str, Any]] = [
        {"labels": {"a": 1}},
        {"labels": {"a": 2}},
        {"labels": {"a": [1, {"b": (2,)}]}},
        {"labels": {"a": [1, {"b": (3,)}]}},
        {"labels": ["a", "b"]},
        {"labels": {"a", "b"}},
    ]
    assert len({code_mark(config, Holding(**one)) for one in held}) == len(held)
    assert code_mark(config, Holding(labels={"b", "a"})) == code_mark(config, Holding(**held[-1]))
    # Keys are no part of it, nor is what has no lasting form, which is said.
    one, two = (Holding(made={"url": "u", "api_key": key}, client=object()) for key in ("old", "new"))
    assert code_mark(config, one) == code_mark(config, two)
    assert code_mark(config, Holding(made={"url": "v", "api_key": "old"})) != code_mark(config, one)
    assert (unmarked(one), unmarked(None)) == (["client"], [])
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    assert unmarked(Holding(ring=ring)) == ["ring"]


def test_what_a_run_is_not_known_by_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Scored()
    own.client = object()  # type: ignore[attr-defined]
    sets = ["task.kind=python", "task.name=Own", *SMALL]
    with open_session(EVALUATE, Flags("smoke", sets, "r"), Inputs({}, task=own)):
        pass
    said = capsys.readouterr()
    line = "task Own: attribute `client` is no part of what a run is known by"
    assert (said.out + said.err).count(line) == 1


def test_the_mark_is_over_all_files_that_are_run(tickets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(f"{tickets}:Tickets")
    before, helper = code_mark(config), tickets.parent / "helper.py"
    (tickets.parent / "apart.py").write_text("x = 1\n")
    assert code_mark(config) == before
    helper.write_text("LABELS = ['north', 'west']\n")
    assert code_mark(config) != before
    helper.write_text("LABELS = ['north', 'south']\n")
    assert code_mark(config) == before
    # The same files elsewhere are the same code.
    moved = tickets.parent.rename(tickets.parent.parent / "moved")
    assert code_mark(_config(f"{moved / tickets.name}:Tickets")) == before


def test_a_package_is_marked_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "own_marked"
    package.mkdir()
    (package / "__init__.py").write_text("from .scoring import make\n")
    (package / "scoring.py").write_text(
        "def make(): return [dict(question=str(n), answer=n) for n in range(8)]"
    )
    config = _config("own_marked:make")
    before = code_mark(config)
    assert code_of(config) == (package / "__init__.py",)
    (package / "scoring.py").write_text(
        "def make(): return [dict(question=str(n), answer=n) for n in range(9)]"
    )
    assert code_mark(config) != before
    scored = TaskConfig(kind="jsonl", name="x", scorer="own_marked:make", splits=SIZES)
    other = code_mark(scored)
    (package / "scoring.py").write_text("")
    assert code_mark(scored) != other


def test_the_mark_of_an_object_is_over_the_modules_of_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_words.py").write_text("WORDS = 1\n")
    (tmp_path / "own_class.py").write_text(
        "from gepa_loop.task.own import Task\nimport own_words\n"
        "class Own(Task):\n    def items(self): return []\n"
    )
    own = importlib.import_module("own_class").Own()
    before = code_mark(_config("x"), own)
    (tmp_path / "own_words.py").write_text("WORDS = 2\n")
    assert code_mark(_config("x"), own) != before


def test_what_a_class_reads_is_settled_in_the_config(tickets: Path) -> None:
    def settled(*sets: str, own: Task | None = None) -> TaskConfig:
        named = ["task.kind=python", f"task.name={tickets}:Tickets", *SMALL, *sets]
        return settle(load_config("smoke", named, env={}), own).task

    assert settled().extract == "whole"
    assert settled("task.extract=tags").extract == "tags"
    assert settled("task.scorer=exact").extract == "last_number"
    assert settled(f"task.name={tickets}:old").extract == "last_number"
    assert settled(own=Scored()).extract == "whole" and settled(own=Plain()).extract == "last_number"
    # Said or not, it is the same task, and shares are settled with it.
    said = load_config(
        "smoke", ["task.kind=python", f"task.name={tickets}:Tickets", *SMALL, "task.extract=whole"], env={}
    )
    assert said.task.model_dump() == settled().model_dump()
    shares = settled("task.splits.train=0.5", "task.options.count=16")
    assert (shares.extract, shares.splits.train) == ("whole", 8)


def test_a_run_goes_on_by_the_config_of_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets = ["task.kind=python", "task.name=Own", *SMALL]
    with open_session(EVALUATE, Flags("smoke", sets), Inputs({}, task=Scored())) as session:
        path = session.run.path
    values = json.loads((path / "config.json").read_text())
    del values["schema_version"], values["check"]
    assert values["task"]["extract"] == "whole" == read_manifest(path)["identity"]["task.extract"]
    page = Config.model_validate(values).model_dump(mode="json")  # as show.report has it
    (tmp_path / "smoke.toml").write_text(short_document(page, {}, ""))
    with open_session(EVALUATE, Flags("smoke.toml", []), Inputs({}, task=Scored())) as again:
        assert again.run.path == path


def test_a_run_under_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Half(Scored):
        def score(self, item: Item, reply: str) -> float:
            return 0.5

    def opened(own: Task) -> Any:
        sets = ["task.kind=python", "task.name=Own", "task.extract=whole", *SMALL, "task.splits.train=0.25"]
        return open_session(EVALUATE, Flags("smoke", sets, "r"), Inputs({}, task=own))

    with opened(Scored()) as session:
        assert {item.question for item in session.lab.task.items} <= {f"Say {n}" for n in range(8)}
    assert "task.code" in read_manifest(tmp_path / "runs" / "r")["identity"]
    with opened(Scored()):
        pass
    with pytest.raises(RunDirectoryError, match=r"task.code: '\w+' in the run, now"), opened(Half()):
        pass


def test_sizes_may_be_shares_of_an_objects_items() -> None:
    sets = [
        "task.kind=python",
        "task.name=Own",
        'task.splits={"train"=0.5,"pareto"=0.25,"select"=2,"test"=2}',
    ]
    config = settle(load_config("smoke", sets, env={}), Plain(16))
    assert (config.task.splits.train, config.task.splits.pareto) == (8, 4)


def test_items_may_be_a_generator_or_fail() -> None:
    class Broken(Task):
        def items(self) -> Iterable[Item]:
            yield Item.of("Q")
            raise OSError("the drive is away")

    with pytest.raises(
        TaskError, match=r"OSError: the drive is away\n  .*test_own.py, line \d+: raise OSErr"
    ):
        load_task(_config("Broken"), 0, own=Broken())

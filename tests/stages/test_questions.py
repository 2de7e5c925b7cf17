"""Questions written for a distillation: by a scripted sampler on the tiny model, and by a model behind Anthropic's API on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anthropic_api as fake
import pytest
from anthropic_api import KEY, MODEL, AnthropicAPI, Behaviour
from observers import Killed, KilledAt, Watch
from recorded import recorded

from gepa_loop.cli import run
from gepa_loop.config.grids import Grid, cell_configs
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import CallFailed, ConfigError, RunDirectoryError, TaskError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.sampling.base import Completion, Sampler, Sampling
from gepa_loop.show.tables import retention_lines
from gepa_loop.stages.counts import distillation
from gepa_loop.stages.distillation import distill_alone
from gepa_loop.stages.questions import check_writer, open_writer, with_questions
from gepa_loop.stages.references import check_references, with_references
from gepa_loop.stages.retention import measure
from gepa_loop.sweep import check_cells
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each
from gepa_loop.training.collect import collect
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.trainer import distill
from gepa_loop.writing.writers import OwnModel

PROMPT = Candidate("Answer with one number.")
SIZES = "task.splits={train=16, pareto=8, select=4, test=12}"
USD = (1000 * 4 + 200 * 20) / 1e6
"""What a reply of the fake costs at $4 and $20 a million tokens."""


@dataclass
class Scribe:
    """A sampler that goes on with lists of questions as `write` (row's seed, list) says; it notes what it was asked."""

    tokenizer: Any
    write: Callable[[int, str], str]
    """A text that ends with a bar is cut there."""
    lists: list[str] = field(default_factory=list)
    students: list[Any] = field(default_factory=list)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Any,
    ) -> list[Completion]:
        self.students.append(adapter)
        assert sampling.temperature == 1
        found = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            self.lists.append(self.tokenizer.decode(list(prompt)))
            text = self.write(seed, self.lists[-1])
            tokens = self.tokenizer(text.rstrip("|"), add_special_tokens=False)["input_ids"]
            end = () if text.endswith("|") else (2,)
            found.append(
                Completion((*tokens, *end), (0.0,) * len((*tokens, *end)), "stop" if end else "length")
            )
        return found

    def sleep(self) -> dict[str, float]:
        return {}


def new(seed: int, _list: str) -> str:
    """A question that hardly another seed gives, and one that is cut."""
    return f" What is {100 + seed % 1000}?\n14. What|"


def questions(path: Path, answer: str | None = None) -> Path:
    extra = {} if answer is None else {"answer": answer}
    path.write_text("".join(json.dumps({"question": f"What is {n}?", **extra}) + "\n" for n in range(60)))
    return path


def config(file: Path, *sets: str) -> Config:
    own = (f"task.name={file}", "task.kind=jsonl", SIZES, "distill.questions=10", "distill.check_every=1")
    return load_config("smoke", [*own, *sets], env={})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return open_lab(config(questions(tmp_path / "q.jsonl"))).for_training()


def written_by(lab: Lab, write: Callable[[int, str], str]) -> tuple[Lab, Scribe]:
    scribe = Scribe(lab.base.tokenizer, write)
    sampler: Sampler = scribe
    return replace(lab, rollouts=replace(lab.rollouts, sampler=sampler)), scribe


def write_in(
    folder: Path, lab: Lab, write: Callable[[int, str], str] = new, watch: Watch | None = None
) -> Lab:
    """The lab with its own sampler and the questions that a scribe wrote for it."""
    other, _ = written_by(lab, write)
    with open_run(folder, lab.identity()) as opened:
        task = with_questions(other, PROMPT, opened, watch or Watch()).task
    return replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))


def test_questions_join_train_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    watch = Watch()
    told = write_in(tmp_path / "r", lab, watch=watch)
    rows = read_jsonl(tmp_path / "r" / "questions" / "written.jsonl")
    assert [row["id"] for row in rows] == [f"written:{n}" for n in range(10)]
    assert {row["by"] for row in rows} == {"model"}
    assert [item.id for item in told.task.splits["train"]] == [
        *(item.id for item in lab.task.splits["train"]),
        *(row["id"] for row in rows),
    ]
    assert [item.question for item in told.task.splits["train"][16:]] == [row["question"] for row in rows]
    for split in ("pareto", "select", "test"):
        assert told.task.splits[split] == lab.task.splits[split]
    assert (told.task.written, told.task.fingerprint) == (10, lab.task.fingerprint)
    assert told.rollouts.task is told.task
    assert watch.notes == ["train 26, 10 of them written by the model, without answers"]
    assert read_json(tmp_path / "r" / "questions" / "result.json")["dropped"] == {}
    none = lab.under(config(Path(lab.config.task.name), "distill.questions=0"))
    with open_run(tmp_path / "none", none.identity()) as opened:
        assert with_questions(none, PROMPT, opened, Watch()) is none
    assert not (tmp_path / "none" / "questions").exists()


def test_a_list_shows_the_prompt_and_questions_of_train_alone(lab: Lab, tmp_path: Path) -> None:
    other, scribe = written_by(lab, new)
    with open_run(tmp_path / "r", lab.identity()) as opened:
        with_questions(other, PROMPT, opened, Watch())
    train = {item.question for item in lab.task.splits["train"]}
    rest = {item.question for split in ("pareto", "select", "test") for item in lab.task.splits[split]}
    assert scribe.students == [None] and len(set(scribe.lists)) == len(scribe.lists) == 10
    for text in scribe.lists:
        assert PROMPT.text in text and text.endswith("\n13.")
        assert sum(question in text for question in train) == 12
        assert not any(question in text for question in rest)


def test_questions_that_judge_are_dropped(lab: Lab, tmp_path: Path) -> None:
    [leak] = lab.task.splits["test"][:1]
    other = lab.task.splits["select"][0]

    def write(seed: int, _list: str) -> str:
        return f" {leak.question.upper()}\n14. {other.question}\n15. What is {100 + seed % 1000}?\n"

    told = write_in(tmp_path / "r", lab, write)
    kept = {item.question.casefold() for item in told.task.splits["train"]}
    assert not kept & {leak.question.casefold(), other.question.casefold()}
    dropped = read_json(tmp_path / "r" / "questions" / "result.json")["dropped"]
    assert dropped == {"a question of test": 10, "a question of select": 10}


def test_a_seed_decides_what_is_written(lab: Lab) -> None:
    """By the tiny model itself, whose texts are noise."""

    def ask(lab: Lab, number: int) -> list[str]:
        return [reply.text for reply in open_writer(lab, PROMPT).ask(number).replies]

    first = ask(lab, 0)
    assert len(first) == 10 == len(set(first)) and first == ask(lab, 0)
    assert not set(first) & set(ask(lab, 1))
    other = replace(lab, rollouts=replace(lab.rollouts, seed=1))
    assert not set(first) & set(ask(other, 0))
    alone = replace(
        lab,
        config=lab.config.model_copy(
            update={"distill": lab.config.distill.model_copy(update={"questions": 3})}
        ),
    )
    assert ask(alone, 0) == first[:3]


def test_a_killed_writing_goes_on_and_ends_the_same(lab: Lab, tmp_path: Path) -> None:
    def slowly(seed: int, shown: str) -> str:
        return new(seed, shown) if seed % 4 == 0 else " What is"

    whole = write_in(tmp_path / "whole", lab, slowly)
    files = ("written.jsonl", "calls.jsonl", "result.json")
    want = {name: (tmp_path / "whole" / "questions" / name).read_bytes() for name in files}
    calls = read_json(tmp_path / "whole" / "questions" / "result.json")["calls"]
    assert calls > 2 and whole.task.written == 10
    for at in (1, 5, 10):
        folder = tmp_path / f"at-{at}"
        with pytest.raises(Killed):
            write_in(folder, lab, slowly, KilledAt("questions", at))
        done = len(read_jsonl(folder / "questions" / "calls.jsonl"))
        other, scribe = written_by(lab, slowly)
        with open_run(folder, lab.identity()) as opened:
            with_questions(other, PROMPT, opened, Watch())
        assert len(scribe.lists) == 10 * (calls - done)
        assert {name: (folder / "questions" / name).read_bytes() for name in files} == want
    # A finished one asks for nothing, and says again what it has.
    other, scribe = written_by(lab, slowly)
    watch = Watch()
    with open_run(tmp_path / "whole", lab.identity()) as opened:
        assert with_questions(other, PROMPT, opened, watch).task.splits == whole.task.splits
    assert scribe.lists == [] and watch.notes == [
        "train 26, 10 of them written by the model, without answers"
    ]
    file = tmp_path / "whole" / "questions" / "written.jsonl"
    file.write_text(file.read_text()[: -len(file.read_text().splitlines()[-1]) - 1])
    with pytest.raises(RunDirectoryError, match=r"written\.jsonl"):
        write_in(tmp_path / "whole", lab)


def test_fewer_than_asked_for_are_said_and_none_is_an_error(lab: Lab, tmp_path: Path) -> None:
    watch = Watch()
    told = write_in(tmp_path / "r", lab, lambda seed, _: f" What is {100 + seed % 3}?\n", watch)
    assert told.task.written == 3
    # The first call has all there is; four more have nothing new.
    said = "only 3 of 10 questions were written by the model: 4 calls in a row gave nothing new; dropped: 47 written before"
    assert watch.notes == [said, "train 19, 3 of them written by the model, without answers"]
    with pytest.raises(
        TaskError, match=r"^0 of 10 questions were written by the model: 4 calls .* 40 empty"
    ) as caught:
        write_in(tmp_path / "none", lab, lambda *_: " ")
    assert "distill.writer = 'reflection'" in caught.value.hint
    assert not (tmp_path / "none" / "questions" / "result.json").exists()
    # One new question in each second call: it ends at eight lists for each that is asked for.
    numbers = iter(range(10**6))

    def seldom(_seed: int, _list: str) -> str:
        number = next(numbers)
        return f" What is {100 + number}?" if number % 20 == 0 else " What is 100?"

    few = Watch()
    assert write_in(tmp_path / "few", lab, seldom, few).task.written == 4
    assert few.notes[0].startswith(
        "only 4 of 10 questions were written by the model: 8 calls were made, and no more are;"
    )


def test_the_teacher_answers_them_and_nothing_scores_them(lab: Lab, tmp_path: Path) -> None:
    """A whole distillation without answers."""
    sets = ("distill.warm_start=1e-6", "distill.teacher_samples=2", "distill.steps=4", "distill.lr=0.01")
    own = lab.under(config(Path(lab.config.task.name), *sets))
    told = write_in(tmp_path / "r", own)
    with open_run(tmp_path / "r", own.identity()) as opened:
        told = with_references(told, PROMPT, opened, Watch())
        done = distill_alone(told, PROMPT, opened, Watch())
        result = measure(told, PROMPT, done.adapter, opened, Watch())
    assert result["train"] == {"items": 26, "written": 10}
    assert "trained on 26 questions, 10 of them written for it" in list(retention_lines(result))
    folder = tmp_path / "r" / "distill" / PROMPT.id
    ids = [item.id for item in told.task.splits["train"]]
    assert [row["item"] for row in read_jsonl(folder / "teacher.jsonl")] == [i for i in ids for _ in range(2)]
    assert any(row["item"].startswith("written:") for row in read_jsonl(folder / "samples.jsonl"))
    # Nothing of train has an answer here, given or written.
    assert {row["reward"] for row in read_jsonl(folder / "samples.jsonl")} == {None}
    assert {row["reward_mean"] for row in read_jsonl(folder / "metrics.jsonl")} == {None}
    for name in ("baseline", "references", "test"):
        found = [row["item"] for file in (tmp_path / "r" / name).glob("*.jsonl") for row in read_jsonl(file)]
        assert found and not any(item.startswith("written:") for item in found)
    with pytest.raises(TaskError, match="written:3 has no answer"):
        told.task.score(told.task.splits["train"][19], "8")


def test_rewards_are_those_of_the_items_that_have_answers(tmp_path: Path) -> None:
    """One item a step, and steps of eight: without answers there is no mean, and they are no zeros in another's."""
    file = questions(tmp_path / "q.jsonl", "3")
    one = config(file, "distill.rollouts=2", "distill.group=2", "distill.steps=26")
    lab = open_lab(one).for_training()
    # Any reply is worth .5, so that a 0 among them would show.
    task = replace(lab.task, scorer=each(lambda _: (0.5, "")))
    lab = write_in(tmp_path / "r", replace(lab, task=task, rollouts=replace(lab.rollouts, task=task)))
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)

    def train(lab: Lab, folder: Path) -> list[dict[str, Any]]:
        distill(lab, PROMPT, folder, stack=None, before=before, progress=lambda row: None)
        return read_jsonl(folder / "metrics.jsonl")

    rows = train(lab, tmp_path / "d")
    items = {row["step"]: row["item"] for row in read_jsonl(tmp_path / "d" / "samples.jsonl")}
    assert len(set(items.values())) == 26, "an epoch"
    for row in rows:
        assert row["reward_mean"] == (None if items[row["step"]].startswith("written:") else 0.5)
    many = config(file, "distill.rollouts=16", "distill.group=2", "distill.steps=2")
    both = replace(lab, config=many)
    assert [row["reward_mean"] for row in train(both, tmp_path / "both")] == [0.5, 0.5]
    model = with_lora(lab.base, many.lora, 0, None)
    try:
        teacher = open_teacher(both, model, PROMPT.text)
        found = collect(many, both.rollouts.by(student_adapter(model)), teacher, None, 0)
    finally:
        remove_lora(model)
    scored = [not one.item.id.startswith("written:") for one in found.drawn for _ in range(2)]
    assert found.scored_C.tolist() == scored and {True, False} == set(scored)
    assert found.batch.reward_C.tolist() == [0.5 * yes for yes in scored]


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        (("objective.type=grpo",), "objective.type = 'grpo' trains on scores"),
        (("objective.adv_tau=0.5",), "objective.adv_tau = 0.5 trains on scores"),
        (("objective.type=sequence_kl", "objective.adv_tau=1"), "objective.adv_tau = 1.0 trains on scores"),
        (
            ("objective.type=sft", "objective.only_correct=true"),
            "objective.only_correct = True trains on scores",
        ),
        (("teacher.privileged=answer",), "teacher.privileged = 'answer' shows a field of the item"),
    ],
)
def test_what_reads_answers_is_refused(tmp_path: Path, sets: tuple[str, ...], why: str) -> None:
    file = questions(tmp_path / "q.jsonl")
    with pytest.raises(
        ConfigError, match=f"distill.questions = 10: written questions have no answers, and {why}"
    ):
        config(file, *sets)
    config(file, "distill.questions=0", *sets)
    if not sets[0].startswith("teacher"):
        bare = open_lab(config(file, "distill.questions=0", *sets))
        with pytest.raises(ConfigError, match=r"task .* has no answers, and objective .* trains on scores"):
            check_references(bare)
    for fine in (("objective.type=sequence_kl",), ("objective.type=sft",), ("objective.type=token_kl",)):
        config(file, *fine)


def test_only_distill_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--config", "smoke", "--set", "distill.questions=4"]) == 2
    assert "distill.questions = 4: `loop` writes no questions" in " ".join(capsys.readouterr().err.split())
    grid = Grid("g", None, "a", {"a": (), "b": ("distill.questions=4",)})
    configs = cell_configs(grid, "smoke", (), 1)
    lab = open_lab(configs["a", 0]).for_training()
    with pytest.raises(ConfigError, match=r"cell 'b': distill.questions = 4: `sweep` writes no questions"):
        check_cells(lab, grid, configs, PROMPT, "p.txt")


def test_lists_and_samples_are_counted_beforehand(lab: Lab) -> None:
    warm = lab.under(
        config(Path(lab.config.task.name), "distill.warm_start=0.1", "distill.teacher_samples=3")
    )
    assert distillation(warm.config).recorded == (16 + 10) * 3
    longest = len("What is 10?")
    assert check_writer(lab, PROMPT) == (
        f"questions: 10 for train, to be written by the model in up to 80 rollouts of {2 * longest + 8} tokens"
    )


def test_a_list_shows_no_more_than_the_context_holds(lab: Lab) -> None:
    renderer = lab.rollouts.renderer
    writer = open_writer(lab, PROMPT)
    assert isinstance(writer, OwnModel) and writer.examples == 12
    head = len(writer._head) + writer.sampling.max_tokens

    def within(context: int) -> OwnModel:
        own = replace(lab.rollouts, renderer=replace(renderer, context=context))
        return replace(writer, rollouts=own)

    for context in (head + 19 * 3, head + 19):
        short = within(context)
        [first, *_] = short.ask(0).replies
        assert first.text and short.examples == (context - head) // 19
    with pytest.raises(TaskError, match=f"do not fit the model's context of {head + 18}"):
        within(head + 18).examples  # noqa: B018


# By a model behind an API.

Serve = Callable[..., AnthropicAPI]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    with fake.anthropic_api(monkeypatch) as api:

        def play(*script: Behaviour) -> AnthropicAPI:
            api.script[:] = script
            api.messages.clear()
            return api

        yield play


def remote(tmp_path: Path, *sets: str) -> Lab:
    own = (f"optimize.reflection.model=anthropic/{MODEL}", "distill.writer=reflection", *sets)
    retries = "optimize.reflection.retries=0"
    return open_lab(config(questions(tmp_path / "q.jsonl"), retries, *own)).for_training()


def reply(*numbers: int) -> Behaviour:
    return fake.normal("\n".join(json.dumps(f"What is {n}?") for n in numbers))


def ask(lab: Lab, folder: Path, watch: Watch | None = None) -> Lab:
    with open_run(folder, lab.identity()) as opened:
        return with_questions(lab, PROMPT, opened, watch or Watch())


def test_a_reflection_model_is_asked_for_several_and_paid(serve: Serve, tmp_path: Path) -> None:
    lab = remote(tmp_path)
    leak = int(lab.task.splits["test"][0].question[8:-1])
    api = serve(reply(100, 101, 102, leak), reply(102, *range(200, 250)))
    told = ask(lab, tmp_path / "r")
    result = read_json(tmp_path / "r" / "questions" / "result.json")
    assert (result["written"], result["calls"], result["usd"]) == (10, 2, pytest.approx(2 * USD))
    assert result["dropped"] == {"a question of test": 1, "written before": 1}
    assert [item.question for item in told.task.splits["train"][16:]] == [
        f"What is {n}?" for n in (100, 101, 102, *range(200, 207))
    ]
    assert {row["by"] for row in read_jsonl(tmp_path / "r" / "questions" / "written.jsonl")} == {
        f"anthropic/{MODEL}"
    }
    letters = [body["messages"][0]["content"] for body in api.messages]
    texts = [letter if isinstance(letter, str) else letter[0]["text"] for letter in letters]
    rest = [item.question for split in ("pareto", "select", "test") for item in lab.task.splits[split]]
    for text in texts:
        assert PROMPT.text in text and "Write 10 more" in text
        assert all(json.dumps(item.question) in text for item in lab.task.splits["train"])
        assert not any(question in text for question in rest)
    assert texts[0] != texts[1]


def test_a_killed_or_failed_run_pays_for_no_reply_twice(serve: Serve, tmp_path: Path) -> None:
    lab = remote(tmp_path)
    serve(reply(*range(100, 104)))
    with pytest.raises(Killed):
        ask(lab, tmp_path / "r", KilledAt("questions", 4))
    serve(fake.OVERLOADED)
    with pytest.raises(CallFailed, match="questions, call 1: HTTP 529"):
        ask(lab, tmp_path / "r")
    rows = read_jsonl(tmp_path / "r" / "questions" / "calls.jsonl")
    assert [(row["usd"] > 0, bool(row["failed"]), len(row["replies"])) for row in rows] == [
        (True, False, 1),
        (False, True, 0),
    ]
    api = serve(reply(*range(200, 220)))
    told = ask(lab, tmp_path / "r")
    assert len(api.messages) == 1 and told.task.written == 10
    assert read_json(tmp_path / "r" / "questions" / "result.json")["usd"] == pytest.approx(2 * USD)
    assert not any(KEY in file.read_text() for file in (tmp_path / "r" / "questions").iterdir())
    names = {"questions/calls.jsonl", "questions/written.jsonl", "questions/result.json"}
    assert recorded(tmp_path / "r") == {"manifest.json", "events.jsonl", *names}


def test_an_outage_takes_none_of_the_calls(serve: Serve, tmp_path: Path) -> None:
    lab = remote(tmp_path)
    serve(fake.OVERLOADED)
    most = open_writer(lab, PROMPT).calls
    for number in range(most + 1):
        with pytest.raises(CallFailed, match=f"questions, call {number}: HTTP 529"):
            ask(lab, tmp_path / "r")
    serve(reply(*range(200, 220)))
    assert ask(lab, tmp_path / "r").task.written == 10


def test_the_next_call_may_not_pass_the_cap(serve: Serve, tmp_path: Path) -> None:
    quote = (1234 * 4 + 1000 * 20) / 1e6
    sets = ("optimize.reflection.max_tokens=1000",)
    serve(reply(100), reply(101), reply(102))
    watch = Watch()
    told = ask(remote(tmp_path, *sets, f"optimize.max_usd={USD + quote + 1e-6}"), tmp_path / "r", watch)
    assert told.task.written == 2
    assert (
        "2 of 10 questions were written by anthropic/claude-opus-5-5: the next call could pass optimize.max_usd"
        in watch.notes[0]
    )
    lab = remote(tmp_path, *sets, f"optimize.max_usd={quote - 1e-3}")
    with pytest.raises(
        ConfigError, match=r"optimize.max_usd = 0.0239\d* allows no call: one of .* may cost \$0.02"
    ) as caught:
        check_writer(lab, PROMPT)
    assert "Raise it to 0.03" in caught.value.hint
    said = check_writer(remote(tmp_path, *sets), PROMPT)
    assert "in up to 4 calls of up to $0.02, ending before they pass optimize.max_usd = 5" in said


def test_replies_without_questions_end_it(serve: Serve, tmp_path: Path) -> None:
    """A refusal in prose, one of over 200,000 characters, and two that were cut."""
    serve(
        fake.normal("I would rather not."),
        reply(*range(10_000, 25_000)),
        fake.cut('"What is 100?"\n"What'),
        fake.cut('"Wh'),
    )
    watch = Watch()
    assert ask(remote(tmp_path), tmp_path / "r", watch).task.written == 1
    assert watch.notes[0].endswith("4 calls were made, and no more are; dropped: 3 no whole question")
    calls = read_jsonl(tmp_path / "r" / "questions" / "calls.jsonl")
    assert [len(row["replies"][0]["text"]) > 0 for row in calls] == [True, False, True, True]
    assert [row["replies"][0]["ended"] for row in calls] == [True, True, False, False]


def test_without_a_reflection_model_there_is_none_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill.writer = 'reflection': there is no reflection model"):
        check_writer(remote(tmp_path, "optimize.reflection.model=offline"), PROMPT)


def test_the_command_writes_them_and_says_so(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text(PROMPT.text)
    file = questions(tmp_path / "q.jsonl")
    sets = [f"task.name={file}", "task.kind=jsonl", SIZES, "distill.writer=reflection"]
    sets += [f"optimize.reflection.model=anthropic/{MODEL}", "distill.warm_start=0.1"]
    args = ["distill", "--prompt", "p.txt", "--config", "smoke", "--questions", "4"]
    args += ["--run-name", "r", *(word for one in sets for word in ("--set", one))]
    api = serve(reply(100, 101, 102, 103))
    assert run([*args, "--dry-run"]) == 0 and api.messages == []
    shown = " ".join(capsys.readouterr().out.split())
    assert f"questions: 4 for train, to be written by anthropic/{MODEL} in up to 4 calls" in shown
    assert "80 samples of the teacher" in shown
    usd = re.search(r"in up to 4 calls of up to \$(\S+),", shown)
    told = re.search(r"questions - - - \$(\S+)", shown)
    # Each is printed to a cent.
    assert usd and told and float(told[1]) == pytest.approx(4 * float(usd[1]), abs=0.025)
    own = [*args, "--set", "distill.writer=model", "--dry-run"]
    assert run(own) == 0
    shown = " ".join(capsys.readouterr().out.split())
    most = re.search(r"in up to (\d+) rollouts of (\d+) tokens", shown)
    assert most and f"questions {most[1]} {int(most[1]) * int(most[2]):,} " in shown
    assert run(args) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"train 20, 4 of them written by anthropic/{MODEL}, without answers" in shown
    identity = read_json(tmp_path / "runs" / "r" / "manifest.json")["identity"]
    assert (identity["distill.questions"], identity["writer"]) == (4, f"anthropic/{MODEL}")
    assert read_json(tmp_path / "runs" / "r" / "result.json")["train"] == {"items": 20, "written": 4}
    # Nobody is asked any more.
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert run(args) == 0 and len(api.messages) == 1


def test_a_model_that_writes_nothing_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text(PROMPT.text)
    assert run(["distill", "--prompt", "p.txt", "--config", "smoke", "--questions", "4"]) == 2
    assert "0 of 4 questions were written by the model" in " ".join(capsys.readouterr().err.split())

"""What `plan` counts, against what a run then samples."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from observers import Silent

from gepa_loop.cli import run
from gepa_loop.command import DISTILL, EVALUATE, LOOP, OPTIMIZE, SWEEP, Command
from gepa_loop.config.load import load_config
from gepa_loop.config.recipe import reads_prompt
from gepa_loop.cost.records import CostsRecord, StageRow
from gepa_loop.lab import Lab, open_lab, seed_prompt
from gepa_loop.rounds import run_loop
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import append_jsonl, read_json, read_jsonl
from gepa_loop.sampling.base import Completion, Sampler, Sampling
from gepa_loop.sampling.canary import TEXTS
from gepa_loop.search.plan import plan_search
from gepa_loop.stages.costs import Replies, replies_of, write_costs
from gepa_loop.stages.counts import distillation, distillations, judged, loop_rollouts
from gepa_loop.stages.distillation import Below, distill_candidate
from gepa_loop.stages.search import open_proposer
from gepa_loop.task.judge import JUDGEMENTS, REPLIES
from gepa_loop.task.prompts import Candidate


@dataclass
class Counting:
    """A sampler that notes how many completions are asked of another one, and how long they may be."""

    inner: Sampler
    asked: list[tuple[int, int]] = field(default_factory=list)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Any,
    ) -> list[Completion]:
        self.asked.append((len(prompts), sampling.max_tokens))
        return self.inner.generate(prompts, sampling, seeds, adapter)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def rollouts(self) -> int:
        return sum(count for count, _ in self.asked)


def counted(*sets: str) -> tuple[Lab, Counting]:
    lab = open_lab(load_config("smoke", sets, env={})).for_training()
    sampler = Counting(lab.rollouts.sampler)
    return replace(lab, rollouts=replace(lab.rollouts, sampler=sampler)), sampler


CONTROL = (
    "distill.control={kind='reasoning_gym', name='lcm', splits={train=4, pareto=5, select=4, test=4}, "
    "options={min_value=1, max_value=50}}"
)


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("distill.pass_at=3", CONTROL),
        # No completion is right, so that every group is drawn again each time.
        ("objective.type=grpo", "objective.redraw=2", "distill.steps=4"),
        ("objective.type=sft", "distill.horizon=[[0, 4], [2, 6]]"),
    ],
)
def test_a_distillation_takes_what_is_counted(tmp_path: Path, sets: tuple[str, ...]) -> None:
    lab, sampler = counted(*sets)
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    distill_candidate(lab, Candidate("Answer."), tmp_path / "d", Silent(), Below(None, before))
    planned = distillation(lab.config)
    assert sampler.rollouts == planned.rollouts + len(TEXTS)
    checks = 2 * 8 * (4 + lab.config.distill.pass_at) + (4 * 5 * 4 if lab.control else 0)
    assert planned.checks == checks
    tokens = sum(count * horizon for count, horizon in sampler.asked)
    # The control is asked after the fixed prompts that check the sampler.
    _, canary = sampler.asked[-3 if lab.control else -1]
    assert tokens == planned.tokens + checks * 8 + len(TEXTS) * canary


def test_a_warm_start_takes_the_teachers_samples_and_saves_its_own_steps(tmp_path: Path) -> None:
    """Two of four steps and half of the others read the 3 samples of each of 16 items; the plan, which cannot know how long a
    warm start is, counts half of all four."""
    lab, sampler = counted("distill.warm_start=1e-6", "distill.teacher_samples=3", "distill.steps=4")
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    distill_candidate(lab, Candidate("Answer."), tmp_path / "d", Silent(), Below(None, before))
    planned = distillation(lab.config)
    assert planned.recorded == 16 * 3
    assert planned.trained == 4 * 4
    assert sampler.rollouts == planned.rollouts - 2 * 4 + len(TEXTS)
    tokens = sum(count * horizon for count, horizon in sampler.asked)
    assert tokens == planned.tokens - 2 * 4 * 8 + planned.checks * 8 + len(TEXTS) * sampler.asked[-1][1]


@pytest.mark.parametrize("sets", [(), ("objective.type=grpo",)])
def test_a_loop_takes_no_more_than_what_is_counted(tmp_path: Path, sets: tuple[str, ...]) -> None:
    lab, sampler = counted(*sets)
    prompt = seed_prompt(lab.config.optimize)
    search = plan_search(lab.config, lab.rollouts, open_proposer(lab, 0), prompt, "student")
    sampler.asked.clear()
    with open_run(tmp_path / "r", lab.identity()) as opened:
        result = run_loop(lab, prompt, opened, Silent())
    planned = loop_rollouts(lab.config, search.rollouts)
    # What this run had no use for: proposals, prompts, students, and a winner to score on test. Its search hands on the seed
    # alone, and a rung after step 2 is reckoned with at which one of three would end.
    found = read_json(tmp_path / "r" / "round_00" / "optimize" / "result.json")
    [_] = result["rounds"][0]["candidates"]
    unused = 48 - found["spent"]["rollouts"]
    if reads_prompt(lab.config.distill, lab.config.objective):
        whole, part = distillation(lab.config), distillation(lab.config, 2)
        assert distillations(lab.config) == [(part, 1), (whole, 2)]
        unused += part.rollouts + whole.rollouts + 2 * 64 * 4 + 3 * 64 * 4 + 2 * 16 * 4
    else:
        assert distillations(lab.config) == [(distillation(lab.config), 1)]
    assert result["status"] == "null"
    # Nor are the items of test read token by token.
    unused += 16 * 5 + 16
    with open_run(tmp_path / "r", lab.identity()) as opened:
        assert run_loop(lab, prompt, opened, Silent()) == result  # read, and nothing is sampled
    assert sampler.rollouts == planned - unused + len(TEXTS)


def lines_of(text: str) -> dict[str, list[str]]:
    """Rows of a table as they are printed, by their first cell."""
    cells = (re.split(r"\s{2,}", line.strip()) for line in text.splitlines())
    return {first: rest for first, *rest in cells if rest}


def test_the_plan_names_what_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / "cache"))
    sets = ["objective.type=grpo", "objective.redraw=2", "distill.pass_at=3"]
    assert run(["plan", "--config", "smoke", *(word for one in sets for word in ("--set", one))]) == 0
    told = capsys.readouterr().out
    shown = " ".join(told.split())
    assert (
        "distill: 3 steps of 8 rollouts and groups drawn again, up to 576 tokens to write, and up to 112 rollouts of "
        "checks, for one student a round, as objective grpo reads no prompt"
    ) in shown
    rows = lines_of(told)
    counts = {name: int(cells[0].replace(",", "")) for name, cells in rows.items() if cells[0][0].isdigit()}
    assert rows["prompts"] == ["-", "-", "-"], "an objective that reads no prompt scores none"
    parts = {"baseline": 4 * 24, "search": 48, "training": 72, "checks": 112}
    whole = {**parts, "students": 2 * 64, "test": 3 * 16 * 5, "items": 16}
    assert {name: counts[name] for name in whole} == whole
    assert counts["in all"] == sum(whole.values())
    assert rows["training"][1:] == ["576", "?"] and rows["in all"][2] == "?"
    assert "`gepa-loop plan --measure` times three steps" in shown
    # What a student takes is not known without it, whatever the machine costs.
    assert run(["plan", "--config", "smoke", "--gpu-usd-hour", "2"]) == 0
    assert "not known without what training costs: `gepa-loop plan --measure`" in " ".join(
        capsys.readouterr().out.split()
    )
    assert not (tmp_path / "runs").exists()


def test_the_plan_of_a_prompt_times_steps_and_says_what_they_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "p.txt").write_text("Answer with a number.")
    words = ["--prompt", "p.txt", "--config", "smoke", "--set", "distill.steps=1000000"]
    prices = ["--gpu-usd-hour", "2", "--calls", "1000"]
    assert run(["plan", *words, "--measure", *prices]) == 0
    told = capsys.readouterr().out
    rows = lines_of(told)
    # What takes a minute on a CPU is seen to go on: a step to warm up and three that are timed.
    parts = [
        "measuring a sample of rollouts",
        "measuring training steps",
        "4/4",
        "measuring how fast the prompt",
    ]
    places = [told.index(part) for part in parts]
    assert places == sorted(places)
    # 8 items of pareto, 4 samples each, without and with the prompt.
    assert rows["baseline"][0] == "64"
    minutes, usd = (float(cell.replace(",", "").lstrip("$")) for cell in rows["training"][2:])
    seconds = re.search(r"a training step (\S+) s a student, as in 3 steps of `plan --measure`", told)
    assert seconds is not None
    # Printed to two digits.
    assert minutes == pytest.approx(1e6 * float(seconds[1]) / 60, rel=0.06)
    assert usd == pytest.approx(2 * minutes / 60, rel=0.01)
    prompt = len("Answer with a number.") + len("system\n\n") + 2
    assert f"{prompt} less" in told and "a month of 1,000 calls reads for $" in told
    assert "1 student" in told and "with a prefix cache" in told
    assert "next: gepa-loop distill --prompt p.txt --config smoke" in told
    # The next one knows it, too.
    assert run(["plan", *words]) == 0
    shown = capsys.readouterr().out
    assert f"a training step {seconds[1]} s" in shown and "?" not in lines_of(shown)["training"]
    assert not (tmp_path / "runs").exists()


def test_a_plan_knows_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "p.txt").write_text("Answer with a number.")
    words = ["plan", "--prompt", "p.txt", "--config", "smoke", "--gpu-usd-hour", "2", "--json", "plan.json"]
    words += ["--set", "cluster.gpus_per_worker=2", "--set", "distill.questions=4"]
    assert run([*words, "--workers", "3"]) == 0
    told = capsys.readouterr().out
    # What a step takes is not known, and so nothing is of the whole; what is known is there.
    assert "on paper\n" not in told and lines_of(told)["training"][2] == "?"
    assert json.loads(Path("plan.json").read_text())["plan"]["on_paper"] == []
    assert run([*words, "--workers", "3", "--measure"]) == 0
    told = capsys.readouterr().out
    found, rows = json.loads(Path("plan.json").read_text())["plan"], lines_of(told)
    assert (found["workers"], found["gpus"]) == (3, 6)
    assert [one["workers"] for one in found["on_paper"]] == [1, 2, 3, 4, 8, 16, 32, 64]
    [same] = [one for one in found["on_paper"] if one["workers"] == 3]
    assert same["seconds"] == pytest.approx(found["seconds"]) and same["gpus"] == 6
    assert [one["stage"] for one in found["stages"][:2]] == ["start of workers", "questions"]
    assert found["stages"][0]["seconds"] == 18.7
    # All GPUs are paid for as long as it takes.
    usd = found["seconds"] / 3600 * 6 * 2
    for row in (rows["in all"], rows["3"]):
        assert float(next(cell for cell in row if "$" in cell).lstrip("$")) == pytest.approx(usd, rel=0.06)
    assert "US$ of 6 GPUs" in told
    reads = found["worth"]["anew"]
    assert reads["break_even"] == pytest.approx(usd / reads["usd"], abs=1)
    shown = " ".join(told.split())
    assert "no more than 2 workers have been measured" in shown
    assert found["memory_gib"]["the command's copy"] == found["memory_gib"]["weights"]
    assert "--set cluster.workers=3" in told.splitlines()[-1]
    # A second model lies beside the first, in a worker and in the command.
    teacher = ["--set", "teacher.kind=model", "--set", "teacher.name=random:tiny"]
    assert run([*words, "--workers", "3", *teacher]) == 0
    memory = json.loads(Path("plan.json").read_text())["plan"]["memory_gib"]
    assert memory["the teacher's weights"] == pytest.approx(memory["weights"])
    assert memory["the command's copy"] == pytest.approx(2 * memory["weights"])
    capsys.readouterr()
    # The others as without.
    assert run(words) == 0
    alone = json.loads(Path("plan.json").read_text())["plan"]
    assert (alone["workers"], alone["gpus"], alone["on_paper"]) == (0, 1, [])
    assert (
        "the command's copy" not in alone["memory_gib"]
        and alone["step"]["sampling"] < alone["step"]["seconds"]
    )
    assert [one["stage"] for one in alone["stages"]] == [one["stage"] for one in found["stages"][1:]]
    assert "paper" not in capsys.readouterr().out


def test_a_plan_takes_the_time_of_earlier_runs_and_a_run_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "p.txt").write_text("Answer with a number.")
    words = ["--prompt", "p.txt", "--config", "smoke", "--set", "distill.steps=4"]
    assert run(["distill", *words, "--run-name", "r", "--set", "cost.gpu_usd_hour=3"]) == 0
    told = capsys.readouterr().out
    costs = read_json(tmp_path / "runs" / "r" / "costs.json", CostsRecord)
    seconds = costs["seconds"]
    # Stages of this model may be over at once.
    assert {"loading", "training"} <= set(seconds) <= {"loading", "baseline", "training", "test"}
    rows = read_jsonl(tmp_path / "runs" / "r" / "stages.jsonl", StageRow)
    assert sum(seconds.values()) == pytest.approx(
        sum(row["seconds"] for row in rows if row["stage"] != "costs")
    )
    assert costs["usd"]["total"] == costs["usd"]["gpu"] == pytest.approx(sum(seconds.values()) / 1200)
    # A random model's student gains nothing, so that its tokens pay for nothing.
    assert costs["worth"] is None and "a call reads" not in told and "paid for it" not in told
    assert "took " in told and ", machine $" in told
    # Prices are no part of what a run is: it goes on under others, and says so.
    assert run(["distill", *words, "--run-name", "r", "--set", "cost.gpu_usd_hour=6"]) == 0
    again = read_json(tmp_path / "runs" / "r" / "costs.json", CostsRecord)
    assert again["seconds"] == seconds, "a finished run takes nothing more, however often it is read again"
    assert read_jsonl(tmp_path / "runs" / "r" / "stages.jsonl", StageRow) == rows
    assert again["tokens_per_second"] == costs["tokens_per_second"]
    assert again["usd"]["gpu"] == pytest.approx(sum(again["seconds"].values()) / 600)
    capsys.readouterr()
    assert run(["plan", *words]) == 0
    shown = capsys.readouterr().out
    assert "as in run r" in shown and "?" not in lines_of(shown)["training"]


def card(tokens: float) -> Any:
    return {"tokens": tokens}


def test_what_a_student_saves_is_said_where_it_gains_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / "cache"))
    gained: Any = {"mean": 0.2, "ci": [0.01, 0.4], "p": 0.01}
    unsure: Any = {"mean": 0.2, "ci": [0.0, 0.4], "p": 0.06}
    replies = replies_of(gained, card(9.0), card(7.0))
    assert replies == Replies(9.0, 7.0)
    assert replies_of(unsure, card(9.0), card(7.0)) is None
    assert replies_of(None, card(9.0), None) is None
    lab = open_lab(load_config("smoke", ["cost.gpu_usd_hour=3"], env={}))
    with open_run(tmp_path / "r", lab.identity(command="distill")) as opened:
        append_jsonl(opened.path / "stages.jsonl", [STAGE])
        costs = write_costs(lab, Candidate("Answer with a number."), replies, opened, Silent())
    assert read_json(tmp_path / "r" / "costs.json", CostsRecord)["worth"] == costs["worth"]
    worth = costs["worth"]
    assert worth is not None and worth["saved"] == 31
    assert (worth["now"]["reply"], worth["after"]["reply"]) == (9.0, 7.0)
    assert costs["usd"]["total"] == pytest.approx(0.3)
    saved = 31 * 3 / 3600 / costs["tokens_per_second"]
    assert worth["anew"]["break_even"] == pytest.approx(0.3 / saved, abs=1)
    # What a student of the reward alone gains is no prompt's effect.
    lab = open_lab(load_config("smoke", ["objective.type=grpo"], env={}))
    with open_run(tmp_path / "g", lab.identity(command="distill")) as opened:
        append_jsonl(opened.path / "stages.jsonl", [STAGE])
        assert write_costs(lab, Candidate("Answer."), replies, opened, Silent())["worth"] is None


STAGE: StageRow = {"stage": "distill", "round": None, "candidate": None, "seconds": 360.0, "gpus": 1}


def test_what_a_judge_reads_is_made_of_what_a_command_does() -> None:
    config = load_config("smoke", env={})
    spread, student = REPLIES * JUDGEMENTS, distillation(config)
    trained = config.task.splits.pareto * config.evaluate.samples + student.checks
    test = 4 * 16 * (4 + 1)  # subjects, items, and replies sampled and greedy
    assert judged(config, Command("new", trains=True)) == trained + spread
    headroom = config.task.splits.pareto * config.evaluate.samples
    kept = Command("new", trains=True, measures_retention=True)
    assert judged(config, kept) == judged(config, DISTILL) == trained + headroom + test + spread
    searched = judged(config, OPTIMIZE, 100)
    assert searched == 100 + spread
    both = Command("new", searches=True, trains=True)
    assert judged(config, both, 100) == searched + trained
    # Two students of three steps, and one of two.
    unread = 2 * (student.trained + student.recorded) + distillation(config, 2).trained
    assert student.trained == 24 and distillation(config, 2).trained == 16 and not student.recorded
    assert judged(config, LOOP, 100) == loop_rollouts(config, 100) - 16 - unread + spread
    assert judged(config, SWEEP) is None and judged(config, EVALUATE) is None

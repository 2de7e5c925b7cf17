"""Two rounds with a winner each, read against stock transformers and PEFT: every part of round 1 computes on round 0's student."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import ladder
import pytest
import torch
from observers import Killed, Silent, Watch
from peft import PeftModel
from places import HELPERS

from gepa_loop.cli import run
from gepa_loop.config.load import load_config
from gepa_loop.config.recipe import reads_prompt
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.rounds import Ground, RoundOutcome, run_round, run_test
from gepa_loop.run.directory import Run, open_run
from gepa_loop.run.files import read_json, read_jsonl, write_jsonl
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.card import Replies
from gepa_loop.scores.decision import Verdict
from gepa_loop.scores.outcome import gains
from gepa_loop.scores.statistics import estimate, internalisation
from gepa_loop.search.budget import Spent, Stop
from gepa_loop.search.gepa import Found
from gepa_loop.search.record import Choice, write_front
from gepa_loop.stages.distillation import Below, distill_candidate
from gepa_loop.stages.observer import Observer
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.task.readings import each
from gepa_loop.training.collect import items_of_step
from gepa_loop.training.forgetting import NEUTRAL, Control

READ = 8
"""Rows of a file that are generated again."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run's folder."""
    folder = tmp_path_factory.mktemp("rounds")
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.syspath_prepend(str(HELPERS))
        assert run([*ladder.COMMAND, "--rounds", "2"]) == 0
        yield folder / "runs" / "r"


@pytest.fixture(scope="module")
def winners(root: Path) -> list[str]:
    """Each round's winner."""
    found = [one["winner"] for one in read_json(root / "result.json")["rounds"]]
    assert len(found) == 2 and all(found), "the task is made so that each round has one"
    return found


@pytest.fixture(scope="module")
def lab(root: Path) -> Lab:
    return open_lab(load_config("smoke", [*ladder.SETS, "loop.rounds=2"], env={}))


@pytest.fixture(scope="module")
def models(root: Path, winners: list[str]) -> list[torch.nn.Module]:
    """By how many rounds' winners it computes with: stock models, the last one with the exported stack."""
    paths = [root / "round_00" / "distill" / winners[0] / "adapter", root / "round_01" / "stack"]
    bases = [random_tiny(torch.float32)[0] for _ in range(3)]
    return [bases[0], *(PeftModel.from_pretrained(b, str(p)) for b, p in zip(bases[1:], paths, strict=True))]


def replies(lab: Lab, model: torch.nn.Module, prompt: str, items: Sequence[str]) -> list[str]:
    """Greedy replies by transformers' own `generate`, one item at a time."""
    by_id = {item.id: item for item in lab.task.items}
    found = []
    for id_ in items:
        ids = torch.tensor([lab.rollouts.renderer.tokens(prompt, by_id[id_])])
        whole = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=lab.config.sampling.max_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        found.append(lab.base.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))
    return found


def logprobs(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """[T, V] of one completion."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


def assert_written_by(
    lab: Lab, models: Sequence[torch.nn.Module], rounds: int, prompt: str, path: Path
) -> None:
    """The rows of a file are greedy replies of the model with so many rounds' winners, and of no other."""
    rows = read_jsonl(path)[:READ]
    items, written = [row["item"] for row in rows], [row["completion"] for row in rows]
    assert written == replies(lab, models[rounds], prompt, items)
    for other in {0, 1, 2} - {rounds}:
        assert written != replies(lab, models[other], prompt, items)


def prompt_text(root: Path, number: int, winners: Sequence[str]) -> str:
    return (root / f"round_{number:02d}" / "optimize" / "prompts" / f"{winners[number]}.txt").read_text()


def test_the_exported_stack_is_the_sum_of_both_winners(root: Path, winners: list[str]) -> None:
    assert read_json(root / "result.json")["adapter"] == "round_01/stack"
    stack = read_adapter(root / "round_01" / "stack")
    parts = [
        read_adapter(root / f"round_{n:02d}" / "distill" / id_ / "adapter") for n, id_ in enumerate(winners)
    ]
    assert len(stack.modules) == 14
    for module in stack.modules:
        pairs = [(one.scale, *one.pair(module)) for one in parts]
        total = sum(scale * (b.double() @ a.double()) for scale, a, b in pairs)
        a, b = stack.pair(module)
        torch.testing.assert_close(stack.scale * (b.double() @ a.double()), total, atol=1e-6, rtol=1e-5)


def test_round_1_begins_where_round_0_ended(lab: Lab, root: Path, models: list[torch.nn.Module]) -> None:
    for split in ("select", "pareto"):
        for number in (0, 1):
            path = root / f"round_{number:02d}" / "baseline" / f"{split}.jsonl"
            assert_written_by(lab, models, number, NO_PROMPT, path)


def test_prompts_are_searched_for_the_student_of_round_0(
    lab: Lab, root: Path, winners: list[str], models: list[torch.nn.Module]
) -> None:
    for number in (0, 1):
        folder = root / f"round_{number:02d}"
        texts = {row["id"]: row["text"] for row in read_jsonl(folder / "optimize" / "candidates.jsonl")}
        journal = read_jsonl(folder / "optimize" / "gepa" / "evaluations.jsonl")
        for entry in (journal[0], journal[-1]):
            rows = entry["rows"][:READ]
            again = replies(lab, models[number], texts[entry["candidate"]], [row["item"] for row in rows])
            assert [row["completion"] for row in rows] == again
        prompted = folder / "evaluate" / f"{winners[number]}_prompted.jsonl"
        assert_written_by(lab, models, number, prompt_text(root, number, winners), prompted)


def test_student_and_teacher_of_round_1_stand_on_the_stack(
    lab: Lab, root: Path, winners: list[str], models: list[torch.nn.Module]
) -> None:
    by_id = {item.id: item for item in lab.task.splits["train"]}
    for number in (0, 1):
        folder, prompt = (
            root / f"round_{number:02d}" / "distill" / winners[number],
            prompt_text(root, number, winners),
        )
        first = [row for row in read_jsonl(folder / "samples.jsonl") if row["step"] == 1]
        assert first
        for row in first:
            ids = row["token_ids"]
            for text, key in ((NO_PROMPT, "student_logprobs"), (prompt, "teacher_logprobs")):
                tokens = lab.rollouts.renderer.tokens(text, by_id[row["item"]])
                expected = logprobs(models[number], tokens, ids)[range(len(ids)), ids]
                assert row[key] == pytest.approx(expected.tolist(), abs=1e-3)
        # And who sampled the rollouts is the model that trains.
        assert all(row["mismatch_abs"] < 1e-4 for row in read_jsonl(folder / "metrics.jsonl"))


def test_checks_and_students_are_scored_on_the_stack(
    lab: Lab, root: Path, winners: list[str], models: list[torch.nn.Module]
) -> None:
    for number in (0, 1):
        folder = root / f"round_{number:02d}"
        assert_written_by(
            lab, models, number + 1, NO_PROMPT, folder / "evaluate" / f"{winners[number]}.jsonl"
        )
        items = lab.task.splits["pareto"]
        texts = replies(lab, models[number + 1], NO_PROMPT, [item.id for item in items])
        score = sum(lab.task.score(item, text).value for item, text in zip(items, texts, strict=True)) / len(
            items
        )
        kept = read_json(folder / "distill" / winners[number] / "result.json")["choice"]
        assert kept["score"] == pytest.approx(score)


def test_test_is_scored_on_what_each_prompt_was_evolved_for(
    lab: Lab, root: Path, winners: list[str], models: list[torch.nn.Module]
) -> None:
    result, folder = read_json(root / "result.json"), root / "test"
    assert_written_by(lab, models, 0, NO_PROMPT, folder / "base_greedy.jsonl")
    for number in (0, 1):
        text, name = prompt_text(root, number, winners), f"round_{number:02d}"
        assert_written_by(lab, models, number, text, folder / f"{name}_prompted_greedy.jsonl")
        assert_written_by(lab, models, number + 1, NO_PROMPT, folder / f"{name}_student_greedy.jsonl")
    names = ("base", "round_00_prompted", "round_00_student", "round_01_prompted", "round_01_student")
    base, prompted_0, student_0, prompted_1, student_1 = (
        Replies(read_jsonl(folder / f"{name}_greedy.jsonl")) for name in names
    )
    seed = lab.config.seed
    # The whole: the bare base against the last student, beside the last prompt on its own ground.
    assert result["decides"] == "greedy"
    assert result["test"] == result["greedy"] == gains(base, prompted_1, student_1, seed)
    # Beside it what four samples an item say, which decided nothing.
    warm = (Replies(read_jsonl(folder / f"{names[n]}.jsonl")) for n in (0, 3, 4))
    assert result["sampled"] == gains(*warm, seed)
    assert result["sampled"]["base"]["samples"] == 4 and result["sampled"] != result["greedy"]
    one, two = result["rounds"]
    assert (one["test"], two["test"]) == (
        gains(base, prompted_0, student_0, seed),
        gains(student_0, prompted_1, student_1, seed),
    )
    assert result["internalisation"] == two["internalisation"]
    for got, expected in (
        (one, internalisation(student_0.scores, base.scores, prompted_0.scores, seed)),
        (two, internalisation(student_1.scores, student_0.scores, prompted_1.scores, seed)),
    ):
        assert got["internalisation"] == (None if expected is None else expected.as_dict())
    assert set(result["tokens"]) == {"prompt", "bare", "base", "prompted", "student"}


def test_each_round_decides_on_items_that_decided_nothing(lab: Lab, root: Path) -> None:
    one, two = (
        {row["item"] for row in read_jsonl(root / f"round_{n:02d}" / "baseline" / "select.jsonl")}
        for n in (0, 1)
    )
    others = {item.id for split in lab.task.splits.values() for item in split}
    assert len(one) == len(two) == 64 and not one & two and not two & others and one < others
    decisions = [read_json(root / f"round_{n:02d}" / "decision.json") for n in (0, 1)]
    assert [decision["level"] for decision in decisions] == pytest.approx([0.05, 0.05 / 3])
    assert "Level: .05." in decisions[0]["reason"] and "Level: .0167." in decisions[1]["reason"]
    for number, decision in enumerate(decisions):
        folder = root / f"round_{number:02d}"
        # The search and the race have scored nothing there, so Holm counts who is left.
        assert read_json(folder / "optimize" / "result.json")["finalists"] == []
        assert f"after Holm over {len(decision['ranking'])} candidate" in decision["reason"]
        scored = {path.stem for path in (folder / "evaluate").iterdir()}
        assert scored == {id_ + end for id_ in decision["ranking"] for end in ("", "_prompted")}


def test_the_student_that_wins_is_not_that_of_the_best_prompt(root: Path, winners: list[str]) -> None:
    folder = root / "round_00"
    first, *others = read_jsonl(folder / "optimize" / "front.jsonl")
    assert first["kept"] == "best mean" and first["pareto_mean"] >= max(one["pareto_mean"] for one in others)
    assert first["id"] != winners[0] and all(one["select"] is None for one in (first, *others))
    decision = read_json(folder / "decision.json")
    second = decision["runner_up"]
    assert second["id"] == first["id"] and second["difference"]["mean"] > 0
    told = "better than" if second["difference"]["p"] < decision["level"] else "not told apart from"
    assert f"It is {told} {first['id']}: " in decision["reason"]
    means = {one["id"]: one["student"]["mean"] for one in decision["candidates"] if one["student"]}
    assert second["difference"]["mean"] == pytest.approx(means[winners[0]] - means[first["id"]])


def test_an_epoch_goes_over_the_rounds(lab: Lab, root: Path, winners: list[str]) -> None:
    for number, winner in enumerate(winners):
        rows = read_jsonl(root / f"round_{number:02d}" / "distill" / winner / "samples.jsonl")
        kept = {step: {row["item"] for row in rows if row["step"] == step} for step in range(1, 11)}
        for step, items in kept.items():
            place = number * 10 + step - 1
            drawn = items_of_step(lab.task.splits["train"], place, 128 // 16, lab.config.seed)
            assert items and items <= {item.id for item in drawn}


def test_equal_scores_have_equal_intervals_wherever_they_stand(
    lab: Lab, root: Path, winners: list[str]
) -> None:
    for number, winner in enumerate(winners):
        folder = root / f"round_{number:02d}"
        decision = read_json(folder / "decision.json")
        own = next(one for one in decision["candidates"] if one["id"] == winner)
        rows = Replies(read_jsonl(folder / "evaluate" / f"{winner}_prompted.jsonl"))
        assert own["prompted"] == estimate(rows.scores, lab.config.seed).as_dict()
        for side in (own["student"], decision["base"], decision["differences"][winner]):
            low, high = (f"{x:z.3f}".replace("0.", ".", 1) for x in side["ci"])
            assert f"[{low}, {high}]" in decision["reason"]


def test_an_adapter_starts_in_directions_of_its_own(root: Path, winners: list[str]) -> None:
    one, two = (
        read_adapter(root / f"round_{n:02d}" / "distill" / id_ / "adapter") for n, id_ in enumerate(winners)
    )
    cosines = [
        torch.cosine_similarity(one.pair(m)[0].flatten(), two.pair(m)[0].flatten(), dim=0)
        for m in one.modules
    ]
    # From the same random A it is .7 after these steps.
    assert abs(float(torch.stack(cosines).mean())) < 0.2


def test_a_winner_leaves_a_model_on_which_nothing_was_tried(lab: Lab, root: Path, winners: list[str]) -> None:
    assert [one["ended"] for one in read_json(root / "result.json")["rounds"]] == [None, None]
    ids = frozenset(row["id"] for row in read_jsonl(root / "round_00" / "optimize" / "front.jsonl"))
    with chdir(root.parents[1]):
        again = run_round(
            lab.in_round(0),
            Candidate("Answer the question."),
            Run(root, "again"),
            Silent(),
            Ground(tried=ids),
        )
    assert again.verdict.winner == winners[0] and again.tried == frozenset()
    assert again.summary["ended"] is None


SMOKE = "loop", "--config", "smoke", "--run-name", "r"


def rounds_of(root: Path) -> list[Mapping[str, Any]]:
    return read_json(root / "runs" / "r" / "result.json")["rounds"]


def test_a_loop_ends_where_there_is_nothing_new_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No reply scores anything, so each search hands on the seed prompt alone."""
    monkeypatch.chdir(tmp_path)
    said = "no further round after round 1: all of its prompts had been tried on this model by the rounds before it"
    assert run([*SMOKE, "--rounds", "1"]) == 0
    assert "no further round" not in capsys.readouterr().out
    assert run([*SMOKE, "--rounds", "4"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "round 1 has the same model, and other items and proposals to try" in shown
    assert said in shown and "round 2" not in shown
    rounds = rounds_of(tmp_path)
    assert [one["winner"] for one in rounds] == [None, None] and rounds[0]["ended"] is None
    folder = tmp_path / "runs" / "r"
    for number, one in enumerate(rounds):
        assert read_json(folder / f"round_{number:02d}" / "decision.json")["ended"] == one["ended"]
    assert not (folder / "round_02").exists()
    # Neither the same command nor one that asks for more goes on.
    events = (folder / "events.jsonl").read_text().count('"round"')
    for asked in ("4", "9"):
        assert run([*SMOKE, "--rounds", asked]) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    assert (folder / "events.jsonl").read_text().count('"round"') == events
    assert rounds_of(tmp_path) == rounds and not (folder / "round_02").exists()
    # In one go the rounds are the same.
    whole = tmp_path / "whole"
    whole.mkdir()
    monkeypatch.chdir(whole)
    assert run([*SMOKE, "--rounds", "4"]) == 0
    assert rounds_of(whole) == rounds


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("objective.type=grpo", "the objective reads no prompt"),
        ("loop.min_gap=1", "none of its prompts helped by more than loop.min_gap"),
        (
            "optimize.patience=1",
            "its search was stopped by patience: no better mean on pareto in 1 iterations",
        ),
    ],
)
def test_a_first_round_that_found_nothing_may_be_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*SMOKE, "--rounds", "2", "--set", setting, "--set", "distill.steps=1"]) == 0
    (only,) = rounds_of(tmp_path)
    assert only["ended"].startswith(said)


@pytest.mark.parametrize("objective", ["full_kl", "grpo"])
def test_nothing_of_a_prompt_is_internalised_where_none_is_read(tmp_path: Path, objective: str) -> None:
    sets = [f"objective.type={objective}", "evaluate.temperature=0", "evaluate.samples=1"]
    lab = open_lab(load_config("smoke", sets, env={}))
    greedy, items = Sampling(0.0, lab.config.sampling.max_tokens), lab.task.splits["test"]
    bare = {row.item: row.completion for row in lab.rollouts.rows(NO_PROMPT, items, 1, greedy, "evaluate")}
    # Whatever the bare model says is wrong, so that prompt and student gain for certain.
    task = replace(lab.task, scorer=each(lambda one: (float(one.reply != bare[one.item.id]), "")))
    lab = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    model = with_lora(lab.base, lab.config.lora, 0, None)
    student = student_adapter(model)
    remove_lora(model)
    moved = {name: tensor + 0.1 for name, tensor in student.tensors.items()}
    verdict = Verdict("x", "", ("x",), {}, {}, None)
    outcome = RoundOutcome(0, verdict, None, replace(student, tensors=moved), None, Candidate("Answer."), {})
    with open_run(tmp_path / "r", lab.identity()) as opened:
        found = run_test(lab, opened, Silent(), [outcome])
    assert found.whole["test"]["prompted"]["mean"] > 0.5 and found.rounds[0]["test"] is not None
    assert (found.whole["internalisation"] is None) == (objective == "grpo")
    assert (found.rounds[0]["internalisation"] is None) == (objective == "grpo")


class Selecting(Watch):
    """Keeps the score files of `select` that were there when each stage began; may kill before one, by its place."""

    def __init__(self, folder: Path, dies_at: int | None = None) -> None:
        super().__init__()
        self.evaluate, self.dies_at = folder / "round_00" / "evaluate", dies_at
        self.seen: list[set[str]] = []

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        if len(self.stages) == self.dies_at:
            raise Killed
        super().stage(name, round=round, candidate=candidate)
        self.seen.append({path.stem for path in self.evaluate.glob("*")})


def decision(
    folder: Path, sets: Sequence[str], texts: Sequence[str] = ("One.", "Two."), watch: Observer | None = None
) -> Mapping[str, Any]:
    """decision.json of a round of the smoke preset, whose search has handed on some prompts."""
    lab = open_lab(load_config("smoke", ["distill.steps=1", *sets], env={})).for_training()
    if len(texts) > 2:  # whose students should differ
        task = replace(lab.task, scorer=each(lambda one: (float(len(one.reply) % 2), "")))
        lab = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    prompts = [Candidate(text) for text in texts]
    rows = [{"id": p.id, "text": p.text} for p in prompts]
    with open_run(folder, lab.identity()) as opened:
        place = opened.path / "round_00" / "optimize"
        if not (place / "result.json").exists():
            write_jsonl(place / "candidates.jsonl", rows)
            write_front(place, Found(tuple(rows), Stop("", False), Spent(), 0), Choice(rows, None, ""), None)
        run_round(lab, prompts[0], opened, watch or Silent(), Ground())
    return read_json(folder / "round_00" / "decision.json")


FIVE = "One.", "Two.", "Three.", "Four.", "Five."
RACE = "loop.min_gap=-1", "distill.steps=3", "distill.check_every=1", "race.rungs=[0.3, 0.6]"
"""Five prompts have students, of which three and two go on."""


def test_holm_counts_the_students_that_are_tested(tmp_path: Path) -> None:
    found = decision(tmp_path / "r", ["loop.min_gap=-1"])
    assert [one["skipped"] for one in found["candidates"]] == [None, None]
    assert "after Holm over 2 candidates" in found["reason"]


@pytest.mark.parametrize("race", ["true", "false"])
def test_a_prompt_that_does_not_help_where_students_race_has_none(tmp_path: Path, race: str) -> None:
    found = decision(tmp_path / "r", ["loop.min_gap=0", f"race.on={race}"], FIVE)
    folder = tmp_path / "r" / "round_00"
    base = Replies(read_jsonl(folder / "baseline" / "race.jsonl")).scores
    assert len(base) == 64
    helps = []
    for one in found["candidates"]:
        own = Replies(read_jsonl(folder / "race" / "prompts" / f"{one['id']}.jsonl")).scores
        gap = sum(own[item] - base[item] for item in base) / 64
        why = f"no teacher gap: the prompt changes the score by {gap:+z.3f} on 64 items of race"
        helps.append(gap > 0)
        assert one["skipped"] == (None if gap > 0 else why) and (one["student"] is not None) == (gap > 0)
    assert any(helps) and not all(helps)


def test_select_is_read_by_those_that_are_left_and_only_then(tmp_path: Path) -> None:
    watch = Selecting(tmp_path / "r")
    found = decision(tmp_path / "r", RACE, FIVE, watch)
    first = watch.stages.index("student")
    assert watch.stages[first:] == ["student", "student"] and "distill" not in watch.stages[first:]
    assert not any(watch.seen[: first + 1]), "nobody is scored on select before the race is over"
    ranking = found["ranking"]
    assert watch.seen[-1] < {id_ + end for id_ in ranking for end in ("", "_prompted")}
    for one in found["candidates"]:
        tested = one["id"] in ranking
        assert (one["prompted"] is not None) == (one["student"] is not None) == tested


@pytest.mark.parametrize("sets", [RACE, (*RACE, "race.on=false")])
def test_a_round_killed_anywhere_ends_as_it_would_have(tmp_path: Path, sets: Sequence[str]) -> None:
    watch = Selecting(tmp_path / "whole" / "r")
    expected = decision(tmp_path / "whole" / "r", sets, FIVE, watch)
    # Between prompts, where a rung or a distillation begins, and before the last student is scored.
    first = {name: watch.stages.index(name) for name in watch.stages if not name.startswith("student of")}
    for place in {*(at + 1 for at in first.values()), len(watch.stages) - 1} - {len(watch.stages)}:
        killed = tmp_path / f"killed_{place}" / "r"
        with pytest.raises(Killed):
            decision(killed, sets, FIVE, Selecting(killed, dies_at=place))
        assert not (killed / "round_00" / "decision.json").exists()
        assert decision(killed, sets, FIVE) == expected


def test_students_race_and_those_behind_are_no_contenders(tmp_path: Path) -> None:
    found = decision(tmp_path / "r", RACE, FIVE)
    first, second = found["race"]
    assert (first["step"], second["step"]) == (1, 2) and first["split"] == "race"
    assert list(first["scores"]) == [one["id"] for one in found["candidates"]]
    dropped = {one["id"]: one["reason"] for rung in found["race"] for one in rung["dropped"]}
    assert len(dropped) == 3 and set(found["ranking"]) == set(second["living"])
    for one in found["candidates"]:
        assert one["skipped"] == dropped.get(one["id"]) and (one["student"] is None) == (one["id"] in dropped)
    folder = tmp_path / "r" / "round_00"
    scored = {path.stem for path in (folder / "evaluate").iterdir() if "_prompted" not in path.stem}
    assert scored == set(second["living"])
    every = decision(tmp_path / "all", [*RACE, "race.on=false"], FIVE)
    assert every["race"] == [] and len(every["ranking"]) == 5
    students = {one["id"]: one["student"] for one in every["candidates"]}
    for one in found["candidates"]:
        assert one["student"] in (None, students[one["id"]])


@pytest.mark.parametrize("objective", ["type=grpo", "adv_tau=1"])
def test_an_objective_that_reads_no_prompt_has_one_student(tmp_path: Path, objective: str) -> None:
    # No prompt gains 1, so that none would be distilled for its gap.
    sets = ["loop.min_gap=1", f"objective.{objective}"]
    if "grpo" not in objective:
        assert decision(tmp_path / "reads", sets)["ranking"] == []
        sets.append("objective.teacher_tau=0")
    found = decision(tmp_path / "r", sets)
    first, second = found["candidates"]
    assert first["student"] is not None and second["student"] is None
    assert second["skipped"].endswith(f"reads no prompt: its student would be that of {first['id']}")
    assert "after Holm over 1 candidate." in found["reason"]
    assert [path.name for path in (tmp_path / "r" / "round_00" / "distill").iterdir()] == [first["id"]]


def test_students_of_two_prompts_are_one_where_none_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why one is enough: the gradients are equal."""
    monkeypatch.syspath_prepend(str(HELPERS))
    for type_, equal in (("grpo", True), ("full_kl", False)):
        sets = [one for one in ladder.SETS if not one.startswith("objective.")]
        sets += ["distill.steps=1", f"objective.type={type_}"]
        lab = open_lab(load_config("smoke", sets, env={})).for_training()
        found = []
        for text in ("One.", "Two."):
            folder = tmp_path / type_ / text
            before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
            distill_candidate(lab, Candidate(text), folder, Silent(), Below(None, before))
            found.append(read_jsonl(folder / "metrics.jsonl")[0]["grad_norm"])
        assert all(found)
        assert (found[0] == found[1]) == equal
        assert reads_prompt(lab.config.distill, lab.config.objective) != equal


def test_forgetting_is_measured_from_the_rounds_own_model(
    root: Path, winners: list[str], lab: Lab, models: list[torch.nn.Module]
) -> None:
    for number, winner in enumerate(winners):
        kl = []
        for text in NEUTRAL:
            first, *rest = lab.base.tokenizer(text)["input_ids"]
            before, after = (logprobs(models[number + n], [first], [*rest, 0]) for n in (0, 1))
            kl.append((before.exp() * (before - after)).sum(-1))
        exact = float(torch.cat(kl).mean())
        folder = root / f"round_{number:02d}" / "distill" / winner
        assert read_json(folder / "result.json")["forgetting"] == pytest.approx(exact, rel=1e-3)
        assert exact > 1e-3


def test_a_control_is_lost_to_the_digit() -> None:
    assert Control(0.8, 0.7).loss == 0.1 and Control(0.7, 0.8).loss == -0.1


def test_a_student_that_loses_too_much_on_the_control_task_cannot_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HELPERS))
    splits = "{train=1, pareto=12, select=1, test=1}"
    control = f"distill.control={{kind='python', name='ladder:quiet', splits={splits}}}"
    sets = ["--set", control, "--set", "loop.max_control_loss=0.1"]
    assert run([*ladder.COMMAND, "--rounds", "1", *sets]) == 0
    [own] = read_json(tmp_path / "runs" / "r" / "result.json")["rounds"]
    assert own["winner"] is None
    one, *_ = [one for one in own["candidates"] if one["skipped"] and "control" in one["skipped"]]
    assert one["prompted"] is None
    folder = tmp_path / "runs" / "r" / "round_00" / "distill" / one["id"]
    found = read_json(folder / "result.json")["control"]
    kept = read_json(folder / "result.json")["choice"]["step"]
    assert found["before"] - found["after"] > 0.1
    assert found["after"] in [
        row["control_score"] for row in read_jsonl(folder / "metrics.jsonl") if row["step"] == kept
    ]
    assert f"{found['before']:.3f} before, {found['after']:.3f} by the student" in one["skipped"]
    assert "loop.max_control_loss = 0.1" in one["skipped"]


def test_a_student_that_forgets_too_much_cannot_win(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HELPERS))
    assert run([*ladder.COMMAND, "--rounds", "1", "--set", "loop.max_forgetting=1e-6"]) == 0
    [own] = read_json(tmp_path / "runs" / "r" / "result.json")["rounds"]
    assert own["winner"] is None
    skipped = [one["skipped"] for one in own["candidates"] if one["skipped"]]
    assert any(
        "nats a token from the model on neutral text, over loop.max_forgetting = 1e-06" in why
        for why in skipped
    )
    assert not any(one["student"] for one in own["candidates"])

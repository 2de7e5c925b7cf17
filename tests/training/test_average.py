"""The average over steps that is checked and kept, against sums written out, and on the tiny model."""

from __future__ import annotations

import zlib
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.config.recipe import AVERAGE, averaging
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.files import read_jsonl
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.rollouts import mean_score
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.task.readings import Reading, each
from gepa_loop.training import trainer
from gepa_loop.training.average import Average
from gepa_loop.training.checkpoint import adapter_at, load_checkpoint
from gepa_loop.training.distilled import Distilled
from gepa_loop.training.student import Student
from gepa_loop.training.trainer import Pupil, distill

PROMPT = Candidate("Answer with one number.")
EACH_STEP = ("distill.steps=4", "distill.check_every=1", "distill.patience=0", "distill.warm_start=0.1")


def averaged(values: list[float], share: float) -> float:
    weight = torch.nn.Parameter(torch.tensor([7.0], dtype=torch.float64))
    average = Average(torch.optim.SGD([weight]), share)
    for step, value in enumerate(values, 1):
        weight.data.fill_(value)
        average.add(step)
    with average.in_place():
        found = weight.item()
    assert weight.item() == values[-1]
    return found


def test_step_n_counts_as_a_polynomial_of_n() -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    assert averaged(values, 0.0) == values[-1]
    assert averaged(values, 0.5) == pytest.approx(sum(values) / 30)
    # A share of 1/5 is the exponent 3, as a rising factorial.
    weights = [n * (n + 1) * (n + 2) for n in range(1, 31)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert averaged(values, 0.2) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_its_centre_lies_the_share_back(share: float) -> None:
    assert averaged([float(n) for n in range(1, 1001)], share) == pytest.approx(1000 * (1 - share), rel=0.01)


def test_there_is_one_after_a_warm_start_unless_another_is_asked_for() -> None:
    for sets, expected in (
        ((), AVERAGE),
        (("distill.warm_start=0",), 0.0),
        (("objective.type=sft",), 0.0),
        (("distill.average=0",), 0.0),
        (("objective.type=sft", "distill.average=0.3"), 0.3),
    ):
        config = load_config("router", sets, env={})
        assert averaging(config.distill, config.objective, config.teacher) == expected


# --- in training


@pytest.fixture(scope="module")
def lab() -> Lab:
    """Its scores tell any two replies apart, which the tiny model's answers do not."""
    own = open_lab(load_config("smoke", env={}))
    return own.with_task(replace(own.task, scorer=each(graded), full_marks=False))


def graded(one: Reading) -> tuple[float, str]:
    return zlib.crc32(one.reply.encode()) / 2**32, ""


class Killed(Exception):
    pass


def unanswered(lab: Lab) -> dict[str, float]:
    return dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)


def train(lab: Lab, folder: Path, *sets: str, watch: Any = None) -> Distilled:
    return distill(
        lab.under(load_config("smoke", [*EACH_STEP, *sets], env={})),
        PROMPT,
        folder,
        stack=None,
        before=unanswered(lab),
        progress=watch or (lambda row: None),
    )


def steps(folder: Path, *keys: str) -> list[tuple[float, ...]]:
    rows = read_jsonl(folder / "metrics.jsonl")
    return [tuple(row[key] for key in ("loss", "grad_norm", *keys)) for row in rows]


def test_checks_judge_the_average_and_training_goes_on_from_the_weights(lab: Lab, tmp_path: Path) -> None:
    """With a share of .5 step 3's is the mean of three steps' weights, which are those of a run without an average."""
    weights: list[Adapter] = []
    averages: list[Adapter] = []
    for name, share, seen in (("plain", 0, weights), ("averaged", 0.5, averages)):
        folder = tmp_path / name
        own = lab.under(load_config("smoke", [*EACH_STEP, f"distill.average={share}"], env={}))
        pupil = Pupil(PROMPT, folder, lambda row: None)
        trainer.train(own, [pupil], stack=None, before=unanswered(lab))
        seen += [adapter_at(folder / "checkpoints", step) for step in range(1, 5)]
    assert steps(tmp_path / "plain") == steps(tmp_path / "averaged")
    for key, third in averages[2].tensors.items():
        expected = sum(adapter.tensors[key].double() for adapter in weights[:3]) / 3
        assert torch.allclose(third.double(), expected, rtol=1e-5, atol=1e-7)
    assert averages[0].fingerprint == weights[0].fingerprint != averages[1].fingerprint

    # The third check's score is that of the third average.
    rollouts, config = lab.rollouts.by(averages[2]), lab.config
    sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
    items = lab.task.splits["pareto"]
    rows = rollouts.rows(NO_PROMPT, items, config.evaluate.samples, sampling, "evaluate")
    scores = [row["held_out_score"] for row in read_jsonl(tmp_path / "averaged" / "metrics.jsonl")]
    assert scores[2] == mean_score(rows)
    plain = [row["held_out_score"] for row in read_jsonl(tmp_path / "plain" / "metrics.jsonl")]
    assert (scores[0], scores[2] != plain[2]) == (plain[0], True)


def test_the_divergence_at_a_check_is_the_average_s(lab: Lab, tmp_path: Path) -> None:
    """A teacher that reads with the student's weights too, so that what it keeps of its prompt must be read anew."""
    found: dict[str, list[float]] = {}
    for kind in ("base", "live"):
        for share in (0, 0.5):
            folder = tmp_path / f"{kind}{share}"
            train(lab, folder, f"teacher.kind={kind}", "distill.warm_start=0", f"distill.average={share}")
            rows = read_jsonl(folder / "metrics.jsonl")
            found[f"{kind}{share}"] = [row["held_out_kl"] for row in rows]
        # At step 1 the average is the weights themselves.
        assert found[f"{kind}0"][0] == pytest.approx(found[f"{kind}0.5"][0], rel=1e-5)
        assert found[f"{kind}0"][1:] != pytest.approx(found[f"{kind}0.5"][1:], rel=1e-3)
        assert steps(tmp_path / f"{kind}0") == steps(tmp_path / f"{kind}0.5")


def test_who_reads_with_the_student_s_weights_is_told_when_the_average_is_in_place_and_when_it_is_not() -> (
    None
):
    """Also where no update came before, as after a step that was skipped."""
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    average = Average(torch.optim.SGD([weight]), 0.5)
    average.add(1)
    weight.data.fill_(2.0)
    average.add(2)

    class Teacher:
        seen: ClassVar[list[float]] = []

        def moved(self) -> None:
            self.seen.append(weight.item())

    rest: dict[str, Any] = dict.fromkeys(field.name for field in fields(Student))
    trainee: Any = SimpleNamespace(teacher=Teacher())
    with Student(**rest | {"trainee": trainee, "average": average}).averaged():
        assert Teacher.seen == [1.0]
    assert Teacher.seen == [1.0, 2.0]


def test_a_run_that_is_killed_goes_on_to_the_same_average(lab: Lab, tmp_path: Path) -> None:
    whole = train(lab, tmp_path / "whole", "distill.average=0.4")

    def watch(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        train(lab, tmp_path / "r", "distill.average=0.4", watch=watch)
    checkpoint = load_checkpoint(tmp_path / "r" / "checkpoints")
    assert checkpoint is not None and checkpoint.weights is not None
    assert checkpoint.weights.fingerprint != checkpoint.adapter.fingerprint
    assert not list((tmp_path / "r" / "checkpoints").glob("step_000001/weights"))
    again = train(lab, tmp_path / "r", "distill.average=0.4")
    assert again.adapter.fingerprint == whole.adapter.fingerprint
    found, expected = (steps(tmp_path / name, "held_out_score", "held_out_kl") for name in ("r", "whole"))
    assert found == expected


def test_without_an_average_nothing_is_written_twice(lab: Lab, tmp_path: Path) -> None:
    def watch(row: dict[str, Any]) -> None:
        assert not list((tmp_path / "checkpoints").glob("*/weights"))

    train(lab, tmp_path, "distill.average=0", watch=watch)

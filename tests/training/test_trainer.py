"""Packing and trainer on the tiny model."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gepa_loop.config.layers import presets
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, Diverged, EnvironmentFault, ModelError, RunDirectoryError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.base import Base
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.forward import Prefix, hidden_states, read_prefix
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.model.packed import pack
from gepa_loop.model.shapes import bucket, pad_packed
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each
from gepa_loop.training.batch import Group, completion_tokens, micro_batches
from gepa_loop.training.collect import collect
from gepa_loop.training.optimizer import learning_rate
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.trainer import Pupil, distill
from gepa_loop.training.trainer import train as train_until


def smoke(*sets: str) -> Config:
    return load_config("smoke", sets, env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(smoke())


@pytest.fixture(scope="module")
def scored(lab: Lab) -> Lab:
    """The same lab, but about half of a random model's replies score: those of even length."""
    task = replace(lab.task, scorer=each(lambda one: (float(len(one.reply) % 2 == 0), "")))
    return replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))


def train(
    lab: Lab, folder: Path, *sets: str, prompt: str = "Answer with one number.", progress: Any = None
) -> Any:
    return distill(
        lab.under(smoke(*sets)),
        Candidate(prompt),
        folder,
        stack=None,
        before=dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0),
        progress=progress or (lambda row: None),
    )


GROUPS = [
    Group((9, 8, 7), (9, 8, 7), ((1, 2, 3), (4,), (5, 6))),
    Group((9, 8, 7, 6, 5), (9, 8, 7, 6, 5), ((7, 7), (3, 2, 1, 4))),
]


def separate(base: Base, prefix: list[int]) -> torch.Tensor:
    """Hidden states that predict each completion token, one plain forward for each completion."""
    parts = []
    for group in GROUPS:
        for completion in group.completions:
            past = [*prefix, *group.student_prompt]
            ids = torch.tensor([[*past, *completion]])
            states = base.model.get_decoder()(input_ids=ids).last_hidden_state[0]
            parts.append(states[len(past) - 1 : -1])
    return torch.cat(parts)


@pytest.mark.parametrize("prefix", [[], [11, 12, 13, 14]])
def test_packed_equals_separate_sequences(tiny: Base, prefix: list[int]) -> None:
    packed = pack(
        [g.student_prompt for g in GROUPS], [g.completions for g in GROUPS], len(prefix), tiny.device
    )
    with torch.no_grad():
        states = hidden_states(tiny.model, packed, read_prefix(tiny.model, prefix) if prefix else Prefix())
        torch.testing.assert_close(states, separate(tiny, prefix), atol=1e-5, rtol=1e-4)
    assert completion_tokens(GROUPS, tiny.device).tolist() == [1, 2, 3, 4, 5, 6, 7, 7, 3, 2, 1, 4]


@pytest.mark.parametrize("prefix", [[], [11, 12, 13, 14]])
def test_padding_up_to_a_bucket_changes_nothing(tiny: Base, prefix: list[int]) -> None:
    packed = pack(
        [g.student_prompt for g in GROUPS], [g.completions for g in GROUPS], len(prefix), tiny.device
    )
    with torch.no_grad():
        plain, padded = (
            hidden_states(tiny.model, one, read_prefix(tiny.model, prefix))
            for one in (packed, pad_packed(packed, bucket(9), bucket(12)))
        )
    assert len(padded) == 16
    torch.testing.assert_close(padded[:12], plain, atol=1e-5, rtol=1e-4)
    assert [bucket(n) for n in (1, 16, 17, 128, 129, 257, 1000, 1025)] == [
        16,
        16,
        32,
        128,
        144,
        288,
        1024,
        1152,
    ]


def test_padding_is_what_was_there_again(tiny: Base) -> None:
    """Position 0, which sees nothing but itself, would weigh as much as there is padding, and hide that others differ."""
    packed = pack([[9, 8], [7]], [[(1, 2)], [(3,)]], 0, tiny.device)
    places = list(zip(packed.rows_N.tolist(), packed.columns_N.tolist(), strict=True))
    padded = pad_packed(packed, 16, 8)
    assert len(places) == 3 and places[0] != (0, 0)
    assert list(zip(padded.rows_N.tolist(), padded.columns_N.tolist(), strict=True)) == [
        *places, *places, *places[:2]
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 9, 14, 1000])
def test_micro_batches_keep_order_and_every_token(limit: int) -> None:
    parts = micro_batches(GROUPS, limit)
    flat = [c for part in parts for group in part for c in group.completions]
    assert flat == [c for group in GROUPS for c in group.completions]
    for part in parts:
        whole = len(part) * max(len(g.student_prompt) + g.tokens for g in part)
        assert whole <= limit or (len(part) == 1 and len(part[0].completions) == 1)


def test_micro_batches_are_equal_where_that_takes_no_more() -> None:
    def rows(*lengths: int) -> list[Group]:
        return [Group((1,), (), ((2,) * (length - 1),)) for length in lengths]

    assert [len(part) for part in micro_batches(rows(*[10] * 9), 40)] == [3, 3, 3]
    assert [len(part) for part in micro_batches(rows(*[10] * 8), 100)] == [8]
    # Three parts of four would be too large for the long one.
    assert [len(part) for part in micro_batches(rows(*[4] * 10, 30), 40)] == [10, 1]


def test_divergence_with_an_empty_prompt_is_exactly_zero(lab: Lab, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    train(lab, tmp_path, prompt="", progress=rows.append)
    assert [row["reverse_kl"] for row in rows] == [0.0, 0.0, 0.0]


def test_distillation_lowers_the_divergence_and_leaves_the_base_alone(lab: Lab, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in lab.base.model.state_dict().items()}
    done = train(lab, tmp_path, "distill.steps=40", "distill.lr=1e-2", "distill.check_every=40")
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 41))
    kls = [row["reverse_kl"] for row in rows]
    assert sum(kls[-5:]) < 0.85 * sum(kls[:5])
    assert all(row["reverse_kl"] > 0 for row in rows)
    after = lab.base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert done.last_step == 40 and not (tmp_path / "checkpoints").exists()


def test_micro_batch_size_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    one = train(lab, tmp_path / "a", "distill.micro_tokens=1", "distill.steps=1", "distill.check_every=1")
    all_ = train(lab, tmp_path / "b", "distill.steps=1", "distill.check_every=1")
    kl = [read_jsonl(tmp_path / name / "metrics.jsonl")[0] for name in "ab"]
    assert kl[0]["reverse_kl"] == pytest.approx(kl[1]["reverse_kl"], rel=1e-4)
    assert kl[0]["grad_norm"] == pytest.approx(kl[1]["grad_norm"], rel=1e-4)
    assert one.last == all_.last and one.kept == all_.kept


class Killed(Exception):
    pass


def test_resume_equals_an_uninterrupted_run_to_the_byte(lab: Lab, tmp_path: Path) -> None:
    sets = "distill.steps=5", "distill.check_every=2"
    whole = train(lab, tmp_path / "whole", *sets)

    def kill_at_3(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(lab, tmp_path / "torn", *sets, progress=kill_at_3)
    (tmp_path / "torn" / "metrics.jsonl").open("a").write('{"step": 4, "los')
    resumed = train(lab, tmp_path / "torn", *sets)
    assert resumed.adapter.fingerprint == whole.adapter.fingerprint
    assert (resumed.kept, resumed.last) == (whole.kept, whole.last)
    kls = [[r["reverse_kl"] for r in read_jsonl(tmp_path / n / "metrics.jsonl")] for n in ("whole", "torn")]
    assert kls[0] == kls[1] and len(kls[0]) == 5
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "torn" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_student_that_rested_at_checks_is_the_same_to_the_byte(lab: Lab, tmp_path: Path) -> None:
    sets = "distill.steps=6", "distill.check_every=2", "distill.lr=0.05", "distill.patience=0"
    whole = train(lab, tmp_path / "whole", *sets)
    given: dict[str, Any] = {
        "stack": None,
        "before": dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0),
    }
    own, prompt, folder = lab.under(smoke(*sets)), Candidate("Answer with one number."), tmp_path / "raced"
    pupil = Pupil(prompt, folder, lambda row: None)
    [first] = train_until(own, [pupil], **given, until=1)
    assert (first.step, len(first.checks)) == (2, 2)
    other = Pupil(Candidate("Another prompt."), tmp_path / "other", lambda row: None)
    [between] = train_until(own, [other], **given, until=2)
    assert between.adapter.fingerprint != first.adapter.fingerprint
    [again] = train_until(own, [pupil], **given, until=2)
    assert again.step == 2 and again.adapter.fingerprint == first.adapter.fingerprint
    assert [one.step for one in train_until(own, [pupil], **given, until=4)] == [4]
    assert not (folder / "result.json").exists()
    rested = train(lab, folder, *sets)
    assert (rested.kept, rested.last) == (whole.kept, whole.last)
    for name in ("adapter/adapter_model.safetensors", "samples.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert steady(folder) == steady(tmp_path / "whole")


def test_what_could_not_be_written_is_said_before_anything_else(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("no folder")

    def stop(row: dict[str, Any]) -> None:
        raise Killed

    with pytest.raises(EnvironmentFault, match=r"cannot write .*checkpoints") as caught:
        train(lab, tmp_path, "distill.steps=2", "distill.check_every=2", progress=stop)
    assert isinstance(caught.value.__cause__, OSError)


def test_every_checks_student_can_still_be_kept(scored: Lab, tmp_path: Path) -> None:
    """Also after the run was killed: later checks decide which one; of the earlier, only the adapter is left."""
    sets = "distill.steps=4", "distill.check_every=1", "distill.lr=0.05"
    folder = tmp_path / "a" / "checkpoints"

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(scored, tmp_path / "a", *sets, progress=stop)
    saved = {step: folder / f"step_{step:06d}" for step in range(1, 4)}
    adapters = {step: read_adapter(place / "adapter").fingerprint for step, place in saved.items()}
    assert list(folder.glob("step_*/optimizer.safetensors")) == [saved[3] / "optimizer.safetensors"]
    done = train(scored, tmp_path / "a", *sets)
    result = read_json(tmp_path / "a" / "result.json")
    rows = read_jsonl(tmp_path / "a" / "metrics.jsonl")
    assert done.kept.step in range(1, 4)  # with this seed not the last, whose checkpoint is whole
    assert done.adapter.fingerprint == adapters[done.kept.step]
    assert result["choice"] == asdict(done.kept)
    assert done.kept.score == rows[done.kept.step - 1]["held_out_score"]
    assert not (tmp_path / "a" / "checkpoints").exists()
    again = train(scored, tmp_path / "a", *sets)
    assert replace(again, adapter=done.adapter) == done
    assert again.adapter.fingerprint == done.adapter.fingerprint
    assert (again.adapter.targets, again.adapter.origin) == (done.adapter.targets, done.adapter.origin)
    # Each of its fields is read when the stage is finished; the rest is what every record has.
    own = {"before", "last", "choice", "ended", "forgetting", "control", "kl", "mismatch", "stack"}
    assert set(result) == own | {"files"}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step \d+: .* not finite; step \d+ is kept") as caught:
        train(lab, tmp_path, "distill.lr=1e30", "distill.steps=6", "distill.check_every=1")
    assert caught.value.exit_code == 3
    assert list((tmp_path / "checkpoints").glob("step_*/state.json"))


RECIPES = [
    ("objective.type=full_kl", "objective.divergence=forward_kl"),
    ("objective.divergence=jsd", "objective.clip=0.05", "objective.top_k=8"),
    ("objective.adv_tau=0.5", "objective.ratio_cap=2.0", "distill.updates=2"),
    ("distill.on_policy=0.5",),
    ("objective.type=token_kl",),
    ("objective.type=token_kl", "objective.discount=0.9", "objective.centre=running"),
    ("objective.type=token_kl", "objective.student=trainer", "objective.adv_tau=1"),
    ("objective.type=sequence_kl", "objective.token_mask=[0.125, 8]", "objective.geo_mask=[0.1, 10]"),
    ("objective.type=sequence_kl", "objective.use_full_reward_baseline=false", "objective.adv_tau=1"),
    ("objective.type=grpo", "objective.kl_tau=0.1", "objective.overlong=4", "objective.normalise=sequence"),
    ("objective.type=grpo", "objective.redraw=2", "objective.drop_equal=true"),
    ("distill.warm_start=0.1", "distill.teacher_samples=3", "distill.on_policy=0.5"),
    ("objective.type=sft",),
    ("objective.type=sft", "objective.loss=forward_kl", "objective.skip_tokens=1"),
    (
        "objective.truncated=zero_reward",
        "objective.adv_tau=1",
        "distill.horizon=[[0, 4], [2, 8]]",
        "distill.schedule=cosine",
        "distill.warmup=1",
    ),
]
"""Every objective, with what surrounds it, for the tests below."""


VARYING = "seconds", "tokens_per_second", "peak_memory_gib", "micro_tokens", "recomputed"


def steady(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what differs from run to run; what is empty as NaN."""
    rows = read_jsonl(path / "metrics.jsonl")
    return [
        {k: math.nan if v in (None, "") else v for k, v in row.items() if k not in VARYING} for row in rows
    ]


@pytest.mark.parametrize("sets", RECIPES, ids=" ".join)
def test_micro_batches_and_packing_change_nothing_for_any_objective(
    scored: Lab, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    for name, limit in (("one", 1), ("all", 10**6)):
        train(
            scored,
            tmp_path / name,
            f"distill.micro_tokens={limit}",
            "distill.steps=2",
            "distill.rollouts=16",
            *sets,
        )
    rows = steady(tmp_path / "one")
    for one, all_ in zip(rows, steady(tmp_path / "all"), strict=True):
        assert one == pytest.approx(all_, rel=1e-4, abs=1e-5, nan_ok=True)
    assert max(row["grad_norm"] for row in rows) > 1e-3


@pytest.mark.parametrize(
    "sets",
    [
        ("teacher.kind=live",),
        ("teacher.kind=ema", "teacher.rate=0.3"),
        ("teacher.kind=adapter",),
        ("teacher.kind=model", "teacher.name=random:tiny", "teacher.dtype=float32", "teacher.device=cpu"),
        ("teacher.kind=ema", "objective.type=sft"),
        *RECIPES,
    ],
    ids=" ".join,
)
def test_resume_equals_an_uninterrupted_run_for_any_recipe(
    scored: Lab, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    lab = scored
    if sets == ("teacher.kind=adapter",):
        train(lab, tmp_path / "other", "distill.steps=1", "distill.lr=0.1", "lora.rank=2")
        sets = (*sets, f"teacher.path={tmp_path / 'other' / 'adapter'}")
    sets = ("distill.steps=4", "distill.check_every=1", *sets)
    whole = train(lab, tmp_path / "whole", *sets)

    def kill_at_2(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        train(lab, tmp_path / "torn", *sets, progress=kill_at_2)
    resumed = train(lab, tmp_path / "torn", *sets)
    assert resumed.adapter.fingerprint == whole.adapter.fingerprint
    kept = steady(tmp_path / "torn"), steady(tmp_path / "whole")
    assert json.dumps(kept[0]) == json.dumps(kept[1]) and len(kept[0]) == 4


def first_row(lab: Lab, folder: Path, *sets: str, prompt: str = "Answer with one number.") -> dict[str, Any]:
    train(lab, folder, "distill.steps=1", *sets, prompt=prompt)
    return read_jsonl(folder / "metrics.jsonl")[0]


@pytest.mark.parametrize("objective", ["token_kl", "sequence_kl"])
def test_equal_teacher_and_student_move_nothing(lab: Lab, tmp_path: Path, objective: str) -> None:
    row = first_row(lab, tmp_path, f"objective.type={objective}", prompt="")
    assert row["reverse_kl"] == pytest.approx(0, abs=1e-9) and row["grad_norm"] < 1e-4


def test_off_policy_groups_are_the_teachers(lab: Lab, tmp_path: Path) -> None:
    train(lab, tmp_path, "objective.type=sft", "distill.steps=2", prompt="Say A.")
    samples = read_jsonl(tmp_path / "samples.jsonl")
    assert {row["by"] for row in samples} == {"teacher"}
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert rows[0]["geo_ratio"] is None and rows[0]["mismatch_kl"] is None  # no token of the student's

    mixed = smoke("distill.on_policy=0.25", "distill.rollouts=16")
    model = with_lora(lab.base, mixed.lora, 0, None)
    try:
        teacher = open_teacher(replace(lab, config=mixed), model, "Say A.")
        drawn = [
            one.by_student
            for step in range(3)
            for one in collect(mixed, lab.rollouts.by(student_adapter(model)), teacher, None, step).drawn
        ]
    finally:
        remove_lora(model)
    assert drawn == [False, False, False, True] * 3


def test_sampler_and_trainer_agree(lab: Lab, tmp_path: Path) -> None:
    row = first_row(lab, tmp_path)
    assert 0 <= row["mismatch_kl"] < 1e-9
    assert row["geo_ratio"] == pytest.approx(1, abs=1e-4)
    assert row["ratio_masked_share"] == 0


def test_a_group_of_equal_rewards_is_drawn_again_and_then_left_out(lab: Lab, tmp_path: Path) -> None:
    """The random model scores 0 throughout, so nothing is trained and the adapter stays where it began."""
    sets = "objective.type=grpo", "objective.redraw=1", "objective.drop_equal=true"
    rows: list[dict[str, Any]] = []
    train(lab, tmp_path, *sets, progress=rows.append)
    assert [row["trained_share"] for row in rows] == [0.0] * 3
    assert [row["grad_norm"] for row in rows] == [0.0] * 3


def test_an_update_whose_tokens_are_all_masked_moves_nothing(lab: Lab, tmp_path: Path) -> None:
    """Not even weight decay or old momentum does."""
    sets = "objective.token_mask=[5, 8]", "distill.weight_decay=0.5", "distill.steps=1"
    rows: list[dict[str, Any]] = []
    moved = train(lab, tmp_path / "a", *sets, progress=rows.append).adapter
    assert rows[0]["ratio_masked_share"] == 1
    model = with_lora(lab.base, smoke().lora, derive_seed(0, "lora"), None)
    start = student_adapter(model)
    remove_lora(model)
    assert moved.fingerprint == start.fingerprint


def test_a_cut_completion_is_worth_nothing_where_that_is_asked(scored: Lab) -> None:
    """Also where groups of equal scores are looked for; every reply here is cut after two tokens."""
    sets = "distill.rollouts=16", "sampling.max_tokens=2", "objective.type=grpo", "objective.drop_equal=true"
    model = with_lora(scored.base, smoke(*sets).lora, 0, None)
    try:
        found = [
            collect(smoke(*sets, f"objective.truncated={how}"), scored.rollouts.by(student), None, None, 0)
            for student in [student_adapter(model)]
            for how in ("keep", "zero_reward")
        ]
    finally:
        remove_lora(model)
    kept, zeroed = found
    assert kept.batch.truncated_C.float().mean() > 0.8
    assert kept.batch.reward_C.sum() > 2 and kept.trained_C.any()
    assert zeroed.batch.reward_C.sum() == zeroed.batch.reward_C[~zeroed.batch.truncated_C].sum()
    for group in range(4):
        rows = zeroed.batch.groups_C == group
        assert bool(zeroed.trained_C[rows].any()) == (len(set(zeroed.batch.reward_C[rows].tolist())) > 1)


def test_early_stop_after_checks_without_gain(lab: Lab, tmp_path: Path) -> None:
    done = train(lab, tmp_path, "distill.steps=9", "distill.check_every=1", "distill.patience=2")
    assert done.last_step == 4  # the score is 0 from the first check on
    assert done.ended == "as the held-out score did not rise over the last 2 checks"


def test_learning_rates_by_hand() -> None:
    config = smoke("distill.steps=6", "distill.warmup=2", "distill.schedule=cosine", "distill.lr=1.0")
    rates = [learning_rate(config.distill, done) for done in range(6)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.25, 0.0])
    assert learning_rate(smoke("distill.lr=1.0").distill, 100) == 1.0


@pytest.mark.parametrize("name", sorted(presets()))
def test_two_steps_of_every_preset(scored: Lab, tmp_path: Path, name: str) -> None:
    recipe = load_config(name, env={})
    sets = ["distill.steps=2", "distill.check_every=2", "sampling.max_tokens=8"]
    sets.append(f"distill.rollouts={recipe.distill.group * max(4, recipe.distill.updates)}")
    if recipe.distill.horizon:
        sets.append("distill.horizon=[[0, 4], [1, 8]]")
    if recipe.teacher.kind == "model":
        sets += ["teacher.name=random:tiny", "teacher.dtype=float32", "teacher.device=cpu"]
    lab = replace(scored, config=load_config(name, sets, env={})).for_training()
    done = distill(
        lab,
        Candidate("Answer with one number."),
        tmp_path,
        stack=None,
        before=dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0),
        progress=lambda row: None,
    )
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert max(row["grad_norm"] for row in rows) > 0
    assert any(bool(tensor.any()) for key, tensor in done.adapter.tensors.items() if "lora_B" in key)


def test_a_sampler_that_differs_finishes_no_distillation(lab: Lab, tmp_path: Path) -> None:
    for _ in range(2):  # also when the same command is run again
        with pytest.raises(
            ModelError, match=r"differ from the trained model's by .* sampling\.canary allows"
        ):
            train(lab, tmp_path, "sampling.canary=1e-12", "distill.steps=1")
        assert not (tmp_path / "result.json").exists()


def test_a_student_of_another_stack_is_refused(lab: Lab, tmp_path: Path) -> None:
    first = train(lab, tmp_path, "distill.steps=1")
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    below = {"before": before, "progress": lambda row: None}
    with pytest.raises(
        RunDirectoryError, match=f"on top of the bare base, and it is the adapter {first.adapter.fingerprint}"
    ):
        distill(lab, Candidate("Answer with one number."), tmp_path, stack=first.adapter, **below)


def test_checks_show_pass_at_k_and_a_control_task(scored: Lab, tmp_path: Path) -> None:
    sets = (
        "distill.pass_at=4",
        "distill.control={name = 'gcd', splits = {train = 1, pareto = 5, select = 1, test = 1}}",
        "distill.check_every=1",
        "distill.steps=1",
    )
    train(scored, tmp_path, *sets)
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert (
        row["held_out_score"] < row["pass_at_k"] <= 1
    )  # about half of the replies score, four draws catch more
    assert row["control_score"] < 0.2  # scored by its own task, which a random model solves by luck alone


def test_weights_of_teacher_and_control_are_part_of_a_runs_identity(lab: Lab, tmp_path: Path) -> None:
    model, tokenizer = random_tiny(torch.float32)
    tokenizer.save_pretrained(tmp_path / "teacher")
    control = tmp_path / "control.jsonl"
    control.write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(20)))
    (tmp_path / "c.toml").write_text(
        f"""preset = "smoke"
[teacher]
kind = "model"
name = "{tmp_path / "teacher"}"
device = "cpu"
[distill.control]
kind = "jsonl"
name = "control.jsonl"
splits = {{train = 1, pareto = 5, select = 1, test = 1}}
"""
    )

    def identity() -> dict[str, Any]:
        model.save_pretrained(tmp_path / "teacher")
        config = load_config(str(tmp_path / "c.toml"), env={}, cwd=Path("/"))
        return lab.under(config).identity()

    first = identity()
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] += 1
    second = identity()
    assert {key for key in first if first[key] != second[key]} == {"teacher.fingerprint"}
    control.write_text(control.read_text().replace('"1', '"2'))
    third = identity()
    assert {key for key in first if third[key] != second[key]} == {"control.fingerprint"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"question": "a<|im_end|>", "answer": "1"}', "contains '<|im_end|>'"),
        ('{"question": "a", "answer": ["1"]}', "c.jsonl:4: answer is ['1']"),
        ('{"question": "a"}', "distill.control.splits"),
        ("", "distill.control.splits.select = 1"),
    ],
)
def test_a_control_task_is_checked_before_the_first_step(
    lab: Lab, tmp_path: Path, record: str, message: str
) -> None:
    lines = [f'{{"question": "{n}?", "answer": "{n}"}}' for n in range(3)]
    (tmp_path / "c.jsonl").write_text("\n".join([*lines, record, ""]) if record else "\n".join(lines[:1]))
    splits = "{train = 1, pareto = 1, select = 1, test = 1}"
    name = tmp_path / "c.jsonl"
    with pytest.raises(ConfigError) as caught:
        lab.under(smoke(f"distill.control={{kind = 'jsonl', name = '{name}', splits = {splits}}}"))
    assert message in str(caught.value)


def test_an_item_that_comes_twice_gets_other_completions(lab: Lab) -> None:
    """More groups in a step than the split has items; the same completions again would count double."""
    config = smoke("distill.rollouts=68", "distill.group=2")
    model = with_lora(lab.base, config.lora, 0, None)
    try:
        drawn = collect(config, lab.rollouts.by(student_adapter(model)), None, None, 0).drawn
    finally:
        remove_lora(model)
    assert len(drawn) == 34 and len({one.item.id for one in drawn}) == 16
    flat = [(one.item.id, completion.token_ids) for one in drawn for completion in one.completions]
    assert len(set(flat)) == 68


def test_a_sampler_that_stays_with_the_rounds_before_is_found_out(lab: Lab, tmp_path: Path) -> None:
    stack = train(lab, tmp_path / "first", "distill.lr=0.05").adapter

    class Stays(TorchSampler):
        def generate(self, prompts: Any, sampling: Any, seeds: Any, adapter: Adapter | None) -> Any:
            return super().generate(prompts, sampling, seeds, stack)

    config = smoke("distill.lr=0.05", "distill.steps=6", "sampling.canary=50")
    stays = replace(lab.under(config), rollouts=replace(lab.rollouts, sampler=Stays(lab.base, 64)))
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    with pytest.raises(ModelError, match="nearer to the model with the adapter of the earlier rounds"):
        distill(
            stays,
            Candidate("Answer with one number."),
            tmp_path / "second",
            stack=stack,
            before=before,
            progress=lambda row: None,
        )


def test_groups_are_redrawn_also_when_every_item_is_taken(scored: Lab) -> None:
    """As in `dapo`, whose step has more groups than the split has items."""
    sets = "distill.rollouts=64", "distill.group=2", "objective.type=grpo"
    model = with_lora(scored.base, smoke(*sets).lora, 0, None)
    try:
        dull = []
        for redraw in (0, 4):
            drawn = collect(
                smoke(*sets, f"objective.redraw={redraw}"),
                scored.rollouts.by(student_adapter(model)),
                None,
                None,
                0,
            ).drawn
            dull.append(sum(one.equal for one in drawn))
    finally:
        remove_lora(model)
    assert dull[0] > 10 and dull[1] < dull[0] / 2

"""Teachers: what each kind says at first and later, and which are refused before anything is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, ModelError, PromptError, TaskError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.files import write_adapter
from gepa_loop.model.origin import Origin
from gepa_loop.run.files import read_jsonl
from gepa_loop.task.prompts import Candidate
from gepa_loop.training.batch import Group
from gepa_loop.training.teacher.choose import check_teacher
from gepa_loop.training.teacher.local import LocalTeacher
from gepa_loop.training.trainer import distill


def smoke(*sets: str) -> Config:
    return load_config("smoke", sets, env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(smoke())


def train(lab: Lab, folder: Path, *sets: str, prompt: str = "Answer with one number.") -> Any:
    return distill(
        lab.under(smoke(*sets)),
        Candidate(prompt),
        folder,
        stack=None,
        before=dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0),
        progress=lambda row: None,
    )


def first_row(lab: Lab, folder: Path, *sets: str, prompt: str = "Answer with one number.") -> dict[str, Any]:
    train(lab, folder, "distill.steps=1", *sets, prompt=prompt)
    return read_jsonl(folder / "metrics.jsonl")[0]


def test_teachers_differ_as_they_should(lab: Lab, tmp_path: Path) -> None:
    """At step 1 the student is the base, so base, live, average and a second copy of the model say the same."""
    kinds = {
        "base": (),
        "live": ("teacher.kind=live",),
        "ema": ("teacher.kind=ema",),
        "model": (
            "teacher.kind=model",
            "teacher.name=random:tiny",
            "teacher.dtype=float32",
            "teacher.device=cpu",
        ),
    }
    first = {name: first_row(lab, tmp_path / name, *sets)["reverse_kl"] for name, sets in kinds.items()}
    assert first["base"] > 0
    assert first["live"] == first["ema"] == first["base"] == pytest.approx(first["model"], rel=1e-5)

    third = {}
    for name, sets in kinds.items():
        train(lab, tmp_path / f"{name}3", "distill.steps=3", "distill.lr=0.05", *sets)
        third[name] = read_jsonl(tmp_path / f"{name}3" / "metrics.jsonl")[2]["reverse_kl"]
    assert len({third["base"], third["live"], third["ema"]}) == 3
    assert third["model"] == pytest.approx(third["base"], rel=1e-4)


def test_an_adapter_as_teacher_is_read_from_its_folder(lab: Lab, tmp_path: Path) -> None:
    train(lab, tmp_path / "other", "distill.steps=1", "distill.lr=0.1", "lora.rank=2")
    sets = "teacher.kind=adapter", f"teacher.path={tmp_path / 'other' / 'adapter'}"
    assert first_row(lab, tmp_path / "a", *sets, prompt="")["reverse_kl"] > 0
    assert first_row(lab, tmp_path / "b", prompt="")["reverse_kl"] == 0


def test_the_privileged_field_reaches_the_teacher_only(lab: Lab, tmp_path: Path) -> None:
    plain = first_row(lab, tmp_path / "a", prompt="")
    told = first_row(lab, tmp_path / "b", "teacher.privileged=answer", prompt="")
    assert plain["reverse_kl"] == 0 < told["reverse_kl"]
    assert plain["reward_mean"] == told["reward_mean"]  # the student answered as before
    with pytest.raises(TaskError, match="has no field 'solution'"):
        first_row(lab, tmp_path / "c", "teacher.privileged=solution")


def test_a_teacher_whose_vocabulary_is_filled_up_to_another_length(lab: Lab, tmp_path: Path) -> None:
    """As those of Qwen 2.5 with 0.5B and with 7B parameters: 151,936 and 152,064 rows for 151,665 tokens."""
    other, tokenizer = random_tiny(torch.float32)
    other.resize_token_embeddings(320)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    own = train(lab, tmp_path / "own", "distill.steps=2")
    sets = "teacher.kind=model", f"teacher.name={tmp_path / 'other'}", "teacher.device=cpu", "distill.steps=2"
    sets = (*sets, "teacher.dtype=float32")  # as the student, also where the processor has bfloat16
    padded = train(lab, tmp_path / "padded", *sets)
    for name, tensor in own.adapter.tensors.items():
        torch.testing.assert_close(padded.adapter.tensors[name], tensor, atol=1e-4, rtol=1e-3)

    teacher = LocalTeacher(lab.base, None, (), {"x": (9, 8, 7)}, 0)
    teacher.read([Group((9,), (9, 8, 7), ((1, 258),))], lab.base.device)
    with pytest.raises(
        ModelError, match="a sampled token, 259, is none of the 259 of random:tiny's vocabulary"
    ):
        teacher.read([Group((9,), (9, 8, 7), ((1, 259),))], lab.base.device)


def test_what_a_teacher_reads_goes_to_the_losses_and_its_output_layer_once(lab: Lab) -> None:
    teacher, groups = (
        LocalTeacher(lab.base, None, (), {"x": (9, 8, 7)}, 0),
        [Group((9,), (9, 8, 7), ((1, 2),))],
    )
    elsewhere = torch.device("meta")
    first, again = (teacher.read(groups, elsewhere) for _ in range(2))
    assert first.hidden_NH.device == first.head_VH.device == elsewhere and again.head_VH is first.head_VH
    here = teacher.read(groups, lab.base.device)
    assert here.head_VH is lab.base.model.get_output_embeddings().weight


def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(lab: Lab, tmp_path: Path) -> None:
    other, tokenizer = random_tiny(torch.float32)
    tokenizer.add_tokens(["<more>"])
    other.resize_token_embeddings(len(tokenizer))
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    sets = "teacher.kind=model", f"teacher.name={tmp_path / 'other'}", "teacher.device=cpu"
    with pytest.raises(ModelError, match="its vocabulary is not that of random:tiny"):
        train(lab, tmp_path / "a", *sets)

    same, tokenizer = random_tiny(torch.float32)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "robot")
    same.save_pretrained(tmp_path / "same")
    tokenizer.save_pretrained(tmp_path / "same")
    with pytest.raises(PromptError, match="starts a reply with other tokens"):
        train(
            lab,
            tmp_path / "b",
            "teacher.kind=model",
            f"teacher.name={tmp_path / 'same'}",
            "teacher.device=cpu",
        )

    for objective in ("full_kl", "grpo"):
        with pytest.raises(PromptError, match="over the model's context"):
            train(lab, tmp_path / "c", f"objective.type={objective}", "distill.horizon=[[0, 8], [2, 100000]]")
    assert not any((tmp_path / name / "metrics.jsonl").exists() for name in "abc")


def test_the_teacher_is_checked_before_anything_is_spent(lab: Lab, tmp_path: Path) -> None:
    for sets, message in (
        ("distill.horizon=[[0, 8], [2, 100000]]", "over the model's context"),
        ("teacher.privileged=solution", "has no field 'solution'"),
        ("lora.targets=['qkv']", "names no linear layer"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_teacher(lab.under(smoke(sets)), "Answer.")
    marked = replace(lab.task.splits["train"][3], answer="<|im_end|>")
    splits = {**lab.task.splits, "train": (*lab.task.splits["train"], marked)}
    with pytest.raises(PromptError, match=f"privileged = 'answer', item {marked.id}: contains"):
        check_teacher(
            replace(lab.under(smoke("teacher.privileged=answer")), task=replace(lab.task, splits=splits)),
            "A.",
        )
    samples = lab.under(
        smoke(
            "teacher.kind=model", "teacher.name=random:tiny", "distill.on_policy=0.5", "sampling.engine=torch"
        )
    )
    elsewhere = samples.config.sampling.model_copy(update={"engine": "cuda"})
    samples = replace(samples, config=samples.config.model_copy(update={"sampling": elsewhere}))
    with pytest.raises(ConfigError, match=r"teacher.name = 'random:tiny': sampling.engine = 'cuda'"):
        check_teacher(samples, "Answer.")
    check_teacher(lab, "Answer.")  # and the base is clean again


def test_an_adapter_for_other_layers_is_refused(lab: Lab, tmp_path: Path) -> None:
    for target in ("c_attn", "lm_head"):
        name = f"base_model.model.{target}"
        tensors = {f"{name}.lora_A.weight": torch.zeros(2, 8), f"{name}.lora_B.weight": torch.zeros(8, 2)}
        write_adapter(tmp_path / target, Adapter(2, 4.0, (target,), tensors), Origin("other", "0" * 16))
        with pytest.raises(ConfigError, match=f"teacher.path = .*{target}. names no linear layer"):
            train(lab, tmp_path / "run", "teacher.kind=adapter", f"teacher.path={tmp_path / target}")
    train(lab, tmp_path / "run", "distill.steps=1")  # and the base is clean


def test_a_missing_teacher_model_is_named_as_the_teacher(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"^teacher\.name = .* has no config.json"):
        train(lab, tmp_path / "run", "teacher.kind=model", f"teacher.name={tmp_path / 'empty'}")


def test_a_teacher_whose_template_cannot_be_used_is_named_as_the_teacher(lab: Lab, tmp_path: Path) -> None:
    model, tokenizer = random_tiny(torch.float32)
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "in messages", "in messages if message.role != 'system'"
    )
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    own = lab.under(smoke("teacher.kind=model", f"teacher.name={tmp_path}", "teacher.device=cpu"))
    with pytest.raises(ModelError, match=r"^teacher\.name = '.*': its chat template drops system turns"):
        check_teacher(own, "Answer.")


def test_a_teacher_need_not_read_the_arguments_of_the_students_template(lab: Lab, tmp_path: Path) -> None:
    model, tokenizer = random_tiny(torch.float32)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template + "{% if loud %}{% endif %}"
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "student")
    own = lab.under(
        smoke(
            f"model.name={tmp_path / 'student'}",
            "model.template.loud=true",
            "teacher.kind=model",
            f"teacher.name={tmp_path / 'teacher'}",
            "teacher.device=cpu",
        )
    )
    check_teacher(own, "Answer.")
    assert own.rollouts.renderer.chat.arguments == {"loud": True}

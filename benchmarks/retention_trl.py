"""TRL's SDFTTrainer or DistillationTrainer distills a prompt, for retention.py, in a process of its own.

Both get what ours gets: the same questions as ours renders them, the teacher's prompt as system turn, rollouts a step, completions
of one item, longest completion and LoRA; everything else is TRL's default or given. The learning rate falls to 0 over the
wall-clock budget, as TRL's default schedule does over its steps. DistillationTrainer's teacher reads what the student reads, so
here it is given the prompt in between. cuDNN's attention, which gave gradients that are not finite on Qwen2.5, is off.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder

from benchmarks.cases import LORA
from gepa_loop.config.load import load_config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.base import calm_host
from gepa_loop.task.prompts import NO_PROMPT, read_prompt

ROWS = 16
"""Rollouts of one forward and backward pass."""


class SystemTurn(DemonstrationTeacherContextBuilder):  # type: ignore[misc]
    """The teacher's prompt as system turn, in the place of the empty one that some templates need."""

    def _compose_teacher_prompt(self, prompt: Any, privileged_context: str) -> Any:
        turns = [turn for turn in prompt if turn != {"role": "system", "content": ""}]
        return [{"role": "system", "content": privileged_context}, *turns]


class WallClock(TrainerCallback):  # type: ignore[misc]
    """Ends training after `seconds` and lowers the learning rate to 0 until then."""

    def __init__(self, seconds: float, lr: float) -> None:
        self.seconds, self.lr, self.start, self.steps = seconds, lr, 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps += 1
        control.should_training_stop = self.elapsed >= self.seconds

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.lr * max(0.0, 1 - self.elapsed / self.seconds)

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.start


class PromptedTeacher(DistillationTrainer):  # type: ignore[misc]
    """A DistillationTrainer whose teacher reads another prompt than the student before the same completion."""

    prompts: Mapping[tuple[int, ...], Sequence[int]]
    """The student's token ids of a question -> the teacher's."""

    def _get_last_hidden_state(
        self, unwrapped_model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **more: Any
    ) -> Any:
        if unwrapped_model is self.accelerator.unwrap_model(self.teacher_model):
            input_ids, attention_mask = self._prompted(input_ids, attention_mask, logits_to_keep)
        return super()._get_last_hidden_state(
            unwrapped_model, input_ids, attention_mask, logits_to_keep, **more
        )

    def _prompted(self, ids_B_L: torch.Tensor, mask_B_L: torch.Tensor, new: int) -> tuple[Any, Any]:
        """Rows whose prompts are replaced, padded on the left again; the last `new` columns stay."""
        old = ids_B_L.shape[1] - new
        rows = [
            self.prompts[tuple(ids[:old][mask[:old].bool()].tolist())]
            for ids, mask in zip(ids_B_L, mask_B_L, strict=True)
        ]
        width = max(map(len, rows))
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return (
            torch.cat([ids.to(ids_B_L), ids_B_L[:, old:]], dim=1),
            torch.cat([mask.to(mask_B_L), mask_B_L[:, old:]], dim=1),
        )


def run(
    kind: str, lab: Lab, prompt: str, seconds: float, own: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Train for `seconds` of wall clock and write the adapter; what came of it.

    Args:
        kind: `sdft` or `distillation`.
        lab: Of the program: its model, task and seed are trained on.
        prompt: The teacher's.
        seconds: Of training.
        own: Arguments of TRL's config beside those that ours shares.
        out: Folder of the adapter.
    """
    config, base, renderer = lab.config, lab.base, lab.rollouts.renderer
    items, settings = lab.task.splits["train"], config.distill
    calm_host(base.device)
    cuda = base.device.type == "cuda"
    group = settings.group if kind == "sdft" else 1
    asked = items if kind == "sdft" else [item for item in items for _ in range(settings.group)]
    student = [renderer.messages(NO_PROMPT, item) for item in asked]
    shared = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": 100_000,
        "per_device_train_batch_size": min(ROWS, settings.rollouts),
        "gradient_accumulation_steps": settings.rollouts // min(ROWS, settings.rollouts),
        "lr_scheduler_type": "constant",
        "bf16": False,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": config.seed,
        "max_completion_length": config.sampling.max_tokens,
        "temperature": 1.0,
    }
    if kind == "sdft":
        args: Any = SDFTConfig(**shared, num_generations=group, max_prompt_length=None, **own)
    else:
        args = DistillationConfig(**shared, **own)
    clock = WallClock(seconds, args.learning_rate)
    tokenizer = base.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    columns: dict[str, list[Any]] = {"prompt": student}
    if kind == "sdft":
        columns["privileged_context"] = [prompt] * len(student)
    more: dict[str, Any] = {
        "args": args,
        "train_dataset": Dataset(InMemoryTable.from_pydict(columns), fingerprint="benchmark"),
        "processing_class": tokenizer,
        "peft_config": LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
            target_modules=LORA["targets"],
        ),
        "callbacks": [clock],
    }
    model, teacher = plain(base.model), plain(base.model)
    base.model.to("cpu")
    if kind == "sdft":
        trainer: Any = SDFTTrainer(model=model, **more)
        trainer.teacher_context_builder = SystemTurn(trainer)
    else:
        trainer = PromptedTeacher(model=model, teacher_model=teacher, **more)
        trainer.prompts = {
            tuple(renderer.tokens(NO_PROMPT, item)): renderer.tokens(prompt, item) for item in items
        }
    trainer.train()
    seen = clock.elapsed
    trainer.model.save_pretrained(str(out))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {
        "steps": clock.steps,
        "seconds": seen,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }


def plain(model: Any) -> Any:
    """The same weights in transformers' own model, without our attention."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype)
    try:
        with torch.device(model.device):
            fresh = AutoModelForCausalLM.from_config(model.config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    fresh.load_state_dict(model.state_dict())
    fresh.get_decoder().rotary_emb = model.get_decoder().rotary_emb  # its frequencies stay float32
    fresh.generation_config = model.generation_config
    return fresh


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("sdft", "distillation"), required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--prompt", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--own", default="{}", help="JSON: arguments of TRL's config")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lab = open_lab(load_config(given.config, given.set))
    text = read_prompt(given.prompt).text
    print(json.dumps(run(given.kind, lab, text, given.seconds, json.loads(given.own), given.out)))

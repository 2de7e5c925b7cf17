"""TRL's SDFTTrainer on a case of the benchmark, timed by phase; run by step.py in a process of its own.

The closest of TRL's local trainers: its teacher is the model without the adapter and reads another prompt. Traps that
are avoided here: `max_prompt_length` cuts the teacher's prompt without a word, the default teacher's context goes into the
last user turn, and generation happens in the data fetch, so a step is measured from one end to the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import tempfile
import time
from collections import Counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from peft import LoraConfig
from transformers import TrainerCallback
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder

from benchmarks.cases import (
    CASES,
    LORA,
    LR,
    SHAPES,
    Case,
    fixed_completion,
    make_model,
    make_texts,
    make_tokenizer,
)


class SystemTurn(DemonstrationTeacherContextBuilder):  # type: ignore[misc]
    """The teacher's prompt: the context as system turn, then the student's conversation."""

    def _compose_teacher_prompt(self, prompt: Any, privileged_context: str) -> Any:
        return [{"role": "system", "content": privileged_context}, *prompt]


class Timer(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.rows: list[dict[str, float]] = []
        self.last = time.perf_counter()

    def timed(self, owner: Any, attribute: str, name: Any) -> None:
        inner = getattr(owner, attribute)

        def outer(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            found = inner(*args, **kwargs)
            phase = name() if callable(name) else name
            self.phases[phase] = self.phases.get(phase, 0.0) + self.now() - start
            return found

        setattr(owner, attribute, outer)

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = self.now()
        self.rows.append({"step": now - self.last, **self.phases})
        self.last, self.phases = now, {}


def rows_at_once(case: Case) -> int:
    """Rows of one forward and backward pass: as many as 60 GB hold with activations and dense logits."""
    sizes = SHAPES[case.shape][1]
    layer = 16 * sizes["hidden_size"] + 6 * sizes["intermediate_size"]
    position = 2 * sizes["num_hidden_layers"] * layer
    row = (case.prompt + case.new) * position + 12 * case.new * sizes["vocab_size"]
    return max(
        n for n in range(1, case.rollouts + 1) if case.rollouts % n == 0 and (n == 1 or n * row <= 60e9)
    )


def run(case: Case, steps: int, warmup: int) -> dict[str, Any]:
    context, questions = make_texts(case)
    count = (steps + warmup + 1) * len(questions)
    rows = [[{"role": "user", "content": questions[n % len(questions)]}] for n in range(count)]
    cuda = case.device == "cuda"
    args = SDFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps + warmup + 1,
        per_device_train_batch_size=rows_at_once(case),
        gradient_accumulation_steps=case.rollouts // rows_at_once(case),
        learning_rate=LR,
        lr_scheduler_type="constant",
        warmup_steps=0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not cuda,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=0,
        shuffle_dataset=False,
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        distillation_mode="full_logits",
        distillation_alpha=1.0,
        distillation_is_clip=None,
        teacher_model_kind="base",
        num_generations=case.group,
        max_completion_length=case.new,
        max_prompt_length=None,
        num_loss_tokens_to_skip=0,
        temperature=1.0,
        generation_kwargs={"min_new_tokens": case.new},
    )
    timer = Timer()
    model = make_model(case)
    vocabulary = model.config.vocab_size
    trainer = SDFTTrainer(
        model=model,
        args=args,
        # With a fingerprint of our own: datasets 5.2 cannot pickle pyarrow 26 on Python 3.12 to make one.
        train_dataset=Dataset(
            InMemoryTable.from_pydict({"prompt": rows, "privileged_context": [context] * count}),
            fingerprint="benchmark",
        ),
        processing_class=make_tokenizer(),
        peft_config=LoraConfig(
            r=case.rank,
            lora_alpha=2 * case.rank,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
            target_modules=LORA["targets"],
        ),
        callbacks=[timer],
    )
    trainer.teacher_context_builder = SystemTurn(trainer)

    generate, calls = trainer._generate, Counter[str]()

    def first_fixed(prompt_ids: list[list[int]]) -> Any:
        """The first step reads known completions, so that its loss can be compared; later ones are sampled."""
        calls["generate"] += 1
        if calls["generate"] > 1:
            return generate(prompt_ids)
        seen, out = Counter[str](), []
        for prompt in prompt_ids:
            assert len(prompt) == case.prompt, len(prompt)
            out.append(fixed_completion(case, vocabulary, prompt, seen[str(prompt)]))
            seen[str(prompt)] += 1
        return prompt_ids, out

    trainer._generate = first_fixed
    timer.timed(trainer, "_generate", "generate")
    timer.timed(trainer, "_forward_logits", lambda: "forward" if torch.is_grad_enabled() else "teacher")
    timer.timed(trainer, "_compute_self_distillation_loss", "loss")
    timer.timed(trainer.accelerator, "backward", "backward")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    timer.last = timer.now()
    trainer.train()
    kept = timer.rows[warmup + 1 :]
    names = sorted({name for row in kept for name in row})
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return {
        "name": "TRL 1.16 SDFTTrainer, HF generate",
        "seconds": {name: statistics.median(row.get(name, 0.0) for row in kept) for name in names},
        "steps": [row["step"] for row in timer.rows],
        "peak_gib": peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "fixed_loss": next(row["loss"] for row in trainer.state.log_history if "loss" in row),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", default="tiny")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--override", default="{}")
    given = parser.parse_args()
    case = dataclasses.replace(CASES[given.case], **json.loads(given.override))
    print(json.dumps(run(case, given.steps, given.warmup)))

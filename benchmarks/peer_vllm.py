"""vLLM's decoding of a case of the benchmark, timed; run by step.py in a process of its own.

vLLM trains nothing: step.py adds what TRL took to train the same step. Random weights and prompts, an adapter that is not
zero, the log-probability of each sampled token, and as many tokens as the case says. Starts with vLLM's own settings; where
torch.compile cannot be had, with graphs alone, and says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.cases import CASES, HEADS, LORA, SHAPES, Case, make_config, make_texts, make_tokenizer
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.files import write_adapter
from gepa_loop.model.origin import Origin
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.vllm.options import (
    capture_sizes,
    installed_version,
    sampling_options,
    served_rank,
    set_environment,
)
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Renderer


def write_model(case: Case, folder: Path) -> None:
    """The case's config alone: vLLM draws the weights itself, since none can be wrong here."""
    config = make_config(case)
    names = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    config.architectures, config.dtype = [names[SHAPES[case.shape][0]]], case.dtype
    config.save_pretrained(folder)


def write_lora(case: Case, folder: Path) -> None:
    """An adapter of the case's rank on all its layers."""
    _, sizes = SHAPES[case.shape]
    heads, kv_heads, width = HEADS[case.shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    shapes = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (kv_heads * width, hidden),
        "self_attn.v_proj": (kv_heads * width, hidden),
        "self_attn.o_proj": (hidden, heads * width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    source, tensors = torch.Generator().manual_seed(0), {}
    for layer in range(sizes["num_hidden_layers"]):
        for name, (rows, columns) in shapes.items():
            key = f"base_model.model.model.layers.{layer}.{name}.lora_{{}}.weight"
            tensors[key.format("A")] = torch.randn(case.rank, columns, generator=source) * 0.02
            tensors[key.format("B")] = torch.randn(rows, case.rank, generator=source) * 0.02
    targets: Any = LORA["targets"]
    write_adapter(
        folder, Adapter(case.rank, 2.0 * case.rank, tuple(targets), tensors), Origin(case.shape, "")
    )


def start(case: Case, folder: Path, how: str) -> tuple[Any, str]:
    """The engine, and how it was started."""
    from vllm import LLM

    options: dict[str, Any] = {
        "model": str(folder),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": case.dtype,
        "generation_config": "vllm",
        "max_model_len": case.prompt + case.new + 16,
        "max_num_seqs": case.rollouts,
        "enable_prefix_caching": True,
        "enable_lora": True,
        "max_lora_rank": served_rank(case.rank),
        "seed": 0,
    }
    if case.device == "cpu":
        # Two slots: on the CPU the last one is taken for rows without an adapter.
        return LLM(**options, max_loras=2, enforce_eager=True), "eager"
    options |= {"max_loras": 1, "gpu_memory_utilization": 0.5}
    if how == "auto":
        try:
            return LLM(**options), "compiled, graphs"
        except Exception as error:  # noqa: BLE001 (its start raises plain ones)
            print(f"vLLM's own settings do not start here: {error}", file=sys.stderr)
    graphs = {
        "mode": 0,
        "cudagraph_mode": "FULL_DECODE_ONLY",
        "cudagraph_capture_sizes": capture_sizes(case.rollouts),
    }
    return LLM(**options, compilation_config=graphs), "graphs, not compiled"


def run(case: Case, steps: int, warmup: int, how: str) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    _, questions = make_texts(case)
    renderer = Renderer(make_tokenizer(), 32768)
    items = [Item("x", (("user", text),), "", {}) for text in questions]
    prompts = [renderer.tokens("", item) for item in items for _ in range(case.group)]
    with tempfile.TemporaryDirectory() as scratch:
        write_model(case, Path(scratch) / "model")
        write_lora(case, Path(scratch) / "lora")
        engine, started = start(case, Path(scratch) / "model", how)
        request = LoRARequest("lora", 1, str(Path(scratch) / "lora"))
        seconds = []
        for step in range(warmup + steps):
            # In training each step has another adapter, for which nothing is cached.
            engine.reset_prefix_cache()
            params = [
                SamplingParams(**sampling_options(Sampling(1.0, case.new), step * len(prompts) + row, ()))
                for row in range(len(prompts))
            ]
            begin = time.perf_counter()
            found = engine.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts],
                params,
                lora_request=request,
                use_tqdm=False,
            )
            seconds.append(time.perf_counter() - begin)
            outputs = [output.outputs[0] for output in found]
            assert {len(output.token_ids) for output in outputs} == {case.new}
            assert all(len(output.logprobs) == case.new for output in outputs)
        engine.llm_engine.engine_core.shutdown()
    return {
        "name": f"vLLM {installed_version()} ({started})",
        "seconds": {"generate": statistics.median(seconds[warmup:])},
        "steps": seconds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", default="tiny")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--override", default="{}")
    parser.add_argument("--start", choices=("auto", "graphs"), default="auto")
    given = parser.parse_args()
    case = dataclasses.replace(CASES[given.case], **json.loads(given.override))
    set_environment(torch.device(case.device))
    print(json.dumps(run(case, given.steps, given.warmup, given.start)))

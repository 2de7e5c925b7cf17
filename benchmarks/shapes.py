"""A folder with a model of Qwen3's layers and random weights, to see what fits, and how fast it is, before one is downloaded.

    python -m benchmarks.shapes FOLDER --tokenizer MODEL --like 32B [--layers 92]

Its replies never end by themselves, so that the work of a step is known. Weights go to disk layer by layer; two folders that are made
of one `--like` may share them by `--beside` the larger one.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "4B": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "32B": {
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "tie_word_embeddings": False,
    },
}
"""Of Qwen3-4B and Qwen3-32B."""
REST = "rest.safetensors"


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", required=True, help="hub id or folder of a chat model of the family")
    parser.add_argument("--like", choices=SHAPES, required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument(
        "--beside", type=Path, help="a folder of at least as many layers, whose files are linked"
    )
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer)
    shape = SHAPES[asked.like] | ({"num_hidden_layers": asked.layers} if asked.layers else {})
    own = {
        "vocab_size": 151_936,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
    }
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model("qwen3", dtype="bfloat16", **shape, **own, **ends)
    files = files_of(config)
    asked.folder.mkdir(parents=True)
    if asked.beside:
        for name in files:
            os.link(asked.beside / name, asked.folder / name)
    else:
        with ThreadPoolExecutor() as pool:
            list(pool.map(write, [asked.folder / name for name in files], files.values(), range(len(files))))
    index = {tensor: name for name, tensors in files.items() for tensor in tensors}
    (asked.folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    config.save_pretrained(asked.folder)
    tokenizer.save_pretrained(asked.folder)


def files_of(config: Any) -> dict[str, dict[str, torch.Size]]:
    """The tensors of each file: one for each layer, and one for the rest."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    files: dict[str, dict[str, torch.Size]] = {}
    for name, tensor in model.named_parameters():  # a tied output layer is the embedding
        _, _, layer = name.partition(".layers.")
        file = f"layer-{int(layer.partition('.')[0]):03}.safetensors" if layer else REST
        files.setdefault(file, {})[name] = tensor.shape
    return files


def write(path: Path, shapes: dict[str, torch.Size], seed: int) -> None:
    """Norms of 1 and normal numbers of .02, made on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        weight = torch.ones(shape, dtype=torch.bfloat16, device=device)
        tensors[name] = (weight if len(shape) == 1 else weight.normal_(0, 0.02, generator=generator)).cpu()
    save_file(tensors, path, {"format": "pt"})


if __name__ == "__main__":
    main()

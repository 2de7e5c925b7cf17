"""What is asked of a model before it is loaded: a folder's files, or whether the hub has it; and why loading failed."""

from __future__ import annotations

from pathlib import Path

from gepa_loop.errors import ModelError
from gepa_loop.model.bundled import SMOLLM, TINY, smollm_folder
from gepa_loop.outside.files import found_at

UNLOADABLE = (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, ImportError)
"""What transformers raises for configs and weights that it cannot use: an unknown activation is a KeyError, say."""


def load_reason(error: Exception) -> str:
    """transformers' words: the first line, with the next where it ends in a colon; with the kind where it is no sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, LookupError | AttributeError | TypeError):
        return f"its config holds what transformers cannot use: {type(error).__name__}: {lines[0]}"
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


HUB_SECONDS = 10.0
"""Longest wait for the hub's answer."""


def is_built_in(name: str) -> bool:
    """Whether a name is one of a model that comes with gepa-loop, or would be."""
    return name.startswith(("bundled:", "random:"))


def model_place(name: str, seconds: float = HUB_SECONDS) -> str:
    """Where transformers finds a model: the path of its folder, or its id on the hub, which is asked for `seconds` at most.

    Raises:
        ModelError: There is no such model, or it cannot be asked whether there is.
    """
    if name == SMOLLM:
        return str(smollm_folder())
    if is_built_in(name):
        raise ModelError(f"model.name = {name!r}: no such built-in model", f"There are {SMOLLM} and {TINY}.")
    folder = Path(name).expanduser()
    if found_at(folder, Path.is_dir):
        check_folder(name, folder)
        return str(folder)
    check_hub(name, seconds)
    return name


def check_folder(name: str, folder: Path) -> None:
    hint = "It must hold config.json, the tokenizer's files and *.safetensors of a causal language model."
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.name = {name!r}: the folder has no config.json", hint)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"model.name = {name!r}: the folder has no weights (*.safetensors)", hint)
    for file in sorted(folder.glob("*.safetensors")):
        _refuse_narrow_weights(name, file)


def _refuse_narrow_weights(name: str, file: Path) -> None:
    """transformers casts 8-bit numbers to the model's type as they are, without their scales, unless the config says more."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            types = {key: tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return  # loading will say it
    for key, kind in types.items():
        if key.endswith(".weight") and not kind.endswith(("16", "32", "64")):
            raise ModelError(
                f"model.name = {name!r}: {key} is quantised ({kind}), and adapters are trained on plain weights",
                "Choose the model it was quantised from.",
            )


def check_hub(name: str, seconds: float = HUB_SECONDS) -> None:
    """Ask the hub for a model that is not cached, once: transformers would retry for 45 s."""
    import httpx
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=seconds)
    except (HFValidationError, RepositoryNotFoundError):
        raise ModelError(
            f"model.name = {name!r}: neither a folder nor a model of the Hugging Face hub",
            f"Check the spelling, or log in for a private model. Without a download: {SMOLLM}.",
        ) from None
    except (httpx.HTTPError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"model.name = {name!r}: no such folder, and the Hugging Face hub cannot be asked: {reason}",
            f"Connect to the network, or use a local folder or {SMOLLM}.",
        ) from error

"""Whether what a configuration names can be had: files, datasets, servers, keys. Nobody is asked for more than whether it is there."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from gepa_loop.config.tables import FILES, CallConfig, TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import EnvironmentFault, ModelError, ProviderError, TaskError

WITH_KEYS = ("anthropic", "openai", "mistral", "groq", "deepseek")
"""Providers that want a key of their name and no other. litellm knows more, and takes two seconds to say so."""

NETWORK_SECONDS = 3.0
"""Longest wait for a server of the network."""


def check_reach(config: Config, searches: bool) -> None:
    """Refuse a run whose model, device or key cannot be had, before items are made, which may take minutes.

    Args:
        config: The run's.
        searches: A reflection model will be asked.

    Raises:
        ConfigError: There is no such device.
        ModelError: Neither a folder nor the hub has the model, or the device is not there.
        ProviderError: A key is missing.
    """
    from gepa_loop.model.base import find_device
    from gepa_loop.model.bundled import TINY
    from gepa_loop.model.files import model_place
    from gepa_loop.stages.search import proposer_name

    find_device(config.model.device)
    if config.model.name != TINY:
        model_place(config.model.name)
    if searches and (name := proposer_name(config.optimize.reflection)) != "offline":
        need_key("optimize.reflection", name)
    if config.task.judge is not None:
        need_key("task.judge", config.task.judge.model)


def find_task(task: TaskConfig) -> list[str]:
    """What a task is made from, a sentence each.

    Raises:
        TaskError: There is no such file, dataset or task.
        EnvironmentFault: What reads it is not installed, or the hub cannot be asked.
    """
    from gepa_loop.outside.files import check_regular
    from gepa_loop.task import examples
    from gepa_loop.task.made import code_of

    found: list[str] = []
    if task.kind in FILES:
        path = Path(task.name)
        try:
            size = check_regular(path)
            with path.open("rb"):
                pass
        except OSError as error:
            raise TaskError(
                f"task.name = {task.name!r}: {error.strerror or error}", "Name an existing file."
            ) from None
        if task.kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise EnvironmentFault(
                "Parquet is read by pyarrow, which is not installed", "pip install 'gepa-loop[data]'."
            )
        found.append(f"{task.name}: {size:,} bytes, read as {task.kind}")
    elif task.kind == "hf":
        if importlib.util.find_spec("datasets") is None:
            raise EnvironmentFault(
                "datasets are read by `datasets`, which is not installed", "pip install 'gepa-loop[data]'."
            )
        if not Path(task.name).is_dir():
            _ask_hub(task.name)
        found.append(f"{task.name}: it is there")
    elif task.kind == "example":
        if task.name not in examples.NAMES:
            raise TaskError(
                f"task.name = {task.name!r}: no such example", f"There are {', '.join(examples.NAMES)}."
            )
        found.append(f"{task.name}, which comes with gepa-loop")
    elif task.kind == "reasoning_gym":
        from reasoning_gym.factory import DATASETS

        if task.name not in DATASETS:
            raise TaskError(f"task.name = {task.name!r}: reasoning-gym has no such task")
        found.append(f"{task.name} of reasoning-gym")
    return [*found, *(f"{file} would be run" for file in code_of(task))]


def need_key(key: str, model: str) -> None:
    """A model behind an API without a key in the environment is a fault; nobody is asked."""
    provider, slash, _ = model.partition("/")
    own = f"{provider.upper()}_API_KEY"
    if slash and os.environ.get(own, "").strip():
        return
    if slash and provider in WITH_KEYS:
        raise ProviderError(f"{key}.model = {model!r}: {own} is not set", "Set it in the environment.")
    from gepa_loop.lm.remote import RemoteModel

    RemoteModel(model, CallConfig(model=model, max_tokens=1), key).provider()


def _ask_hub(name: str) -> None:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=NETWORK_SECONDS)
    except (HFValidationError, RepositoryNotFoundError):
        raise TaskError(
            f"task.name = {name!r}: neither a folder nor a dataset of the Hugging Face hub",
            "Check the spelling; private ones need HF_TOKEN.",
        ) from None
    except (httpx.HTTPError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise EnvironmentFault(
            f"task.name = {name!r}: the Hugging Face hub cannot be asked: {reason}",
            "A dataset that was loaded before still may be had.",
        ) from error


def ask_server(url: str, name: str) -> None:
    """Ask a vLLM server whether it serves a model; ModelError where it does not."""
    import httpx

    key = os.environ.get("VLLM_API_KEY", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{url.rstrip('/')}/v1/models", headers=headers, timeout=NETWORK_SECONDS)
        served = [model["id"] for model in reply.raise_for_status().json()["data"]]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"teacher.url = {url!r}: {type(error).__name__}: {error}",
            "Start the server, or mend the address.",
        ) from error
    if name not in served:
        raise ModelError(
            f"teacher.name = {name!r}: {url} does not serve it",
            f"It serves {', '.join(served) or 'nothing'}.",
        )

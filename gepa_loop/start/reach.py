"""Whether what a configuration names can be had: files, datasets, servers, keys. Nobody is asked for more than whether it is there."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gepa_loop.config.tables import FILES, CallConfig, TaskConfig
from gepa_loop.config.track import TRACKERS
from gepa_loop.config.whole import Config
from gepa_loop.errors import EnvironmentFault, ModelError, ProviderError, TaskError
from gepa_loop.outside.modules import module_file
from gepa_loop.start.asking import Ask

WITH_KEYS = ("anthropic", "openai", "mistral", "groq", "deepseek")
"""Providers that want a key of their name and no other. litellm knows more, and takes two seconds to say so."""

NETWORK_SECONDS = 3.0
"""Longest wait for servers of the network."""


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


def asks_of(config: Config, seconds: float) -> dict[str, Ask[Any]]:
    """What of a configuration servers are asked, by what it is about: each question for `seconds` at most."""
    from gepa_loop.model.files import is_built_in, model_place

    asks: dict[str, Ask[Any]] = {}
    for about, task in (("task", config.task), ("control", config.distill.control)):
        if task is not None and is_of_hub(task):
            asks[about] = Ask(f"task.name = {task.name!r}", partial(ask_hub, task.name, seconds))
    names = {"model": config.model.name}
    if config.teacher.kind == "model":
        names["teacher"] = config.teacher.name
    for about, name in names.items():
        if not is_built_in(name):
            asks[about] = Ask(f"{about}.name = {name!r}", partial(model_place, name, seconds))
    if config.teacher.kind == "server":
        url = config.teacher.url
        asks["teacher"] = Ask(
            f"teacher.url = {url!r}", partial(ask_server, url, config.teacher.name, seconds)
        )
    if asks:
        # Before the threads, whose time they would take.
        import httpx  # noqa: F401
        from huggingface_hub import HfApi  # noqa: F401
    return asks


def is_of_hub(task: TaskConfig) -> bool:
    """Whether its dataset is one of the hub, which can be asked for it."""
    return task.kind == "hf" and not Path(task.name).exists()


def find_task(task: TaskConfig, ask: Callable[[str], None] | None = None) -> list[str]:
    """What a task is made from, a sentence each.

    Args:
        task: Its configuration.
        ask: Asks the hub for a dataset; None is `ask_hub`.

    Raises:
        TaskError: There is no such file, dataset or task.
        EnvironmentFault: What reads it is not installed, or the hub cannot be asked.
    """
    from gepa_loop.outside.files import check_regular
    from gepa_loop.task import examples
    from gepa_loop.task.hub import refuse_file
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
        refuse_file(task.name)
        if importlib.util.find_spec("datasets") is None:
            raise EnvironmentFault(
                "datasets are read by `datasets`, which is not installed", "pip install 'gepa-loop[data]'."
            )
        if is_of_hub(task):
            (ask or ask_hub)(task.name)
        found.append(f"{task.name}: it is there")
    elif task.kind == "example":
        if task.name not in examples.NAMES:
            raise TaskError(
                f"task.name = {task.name!r}: no such example", f"There are {', '.join(examples.NAMES)}."
            )
        found.append(f"{task.name}, which comes with gepa-loop")
    elif task.kind == "reasoning_gym":
        if not _is_of_gym(task.name):
            raise TaskError(f"task.name = {task.name!r}: reasoning-gym has no such task")
        found.append(f"{task.name} of reasoning-gym")
    return [*found, *(f"{file} would be run" for file in code_of(task))]


def _is_of_gym(name: str) -> bool:
    """Whether reasoning-gym has a task. Importing it takes a second, and its files say their names, each on a line of its own."""
    line = f'DATASET_NAME = "{name}"'
    spec = importlib.util.find_spec("reasoning_gym")
    places = spec.submodule_search_locations if spec is not None else None
    files = (file for place in places or () for file in Path(place).rglob("*.py"))
    if any(line in file.read_text("utf-8").splitlines() for file in files):
        return True
    from reasoning_gym.factory import DATASETS

    return name in DATASETS


def find_tracker(kind: str) -> Path | None:
    """The user's file that a tracker's module is, which is not run; None of a library, which is there.

    Raises:
        EnvironmentFault: It is not installed.
        TaskError: There is no such file, or none that may be run.
    """
    if kind not in TRACKERS:
        return module_file(kind.partition(":")[0], f"track.kind = {kind!r}")
    if importlib.util.find_spec(kind) is None:
        raise EnvironmentFault(
            f"track.kind = {kind!r}: {kind} is not installed", f"pip install 'gepa-loop[track-{kind}]'."
        )
    return None


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


def ask_hub(name: str, seconds: float = NETWORK_SECONDS) -> None:
    """Ask the hub for a dataset.

    Raises:
        TaskError: It has none of this name.
        EnvironmentFault: It cannot be asked.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=seconds)
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


def ask_server(url: str, name: str, seconds: float = NETWORK_SECONDS) -> None:
    """Ask a vLLM server whether it serves a model; ModelError where it does not."""
    import httpx

    key = os.environ.get("VLLM_API_KEY", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{url.rstrip('/')}/v1/models", headers=headers, timeout=seconds)
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

"""vLLM as the server of a student: what it is given, and the process that becomes it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from gepa_loop.errors import ConfigError, EnvironmentFault
from gepa_loop.model.base import find_device, load_base
from gepa_loop.model.bundled import TINY
from gepa_loop.model.files import model_place
from gepa_loop.model.lora.files import read_adapter, write_adapter
from gepa_loop.model.lora.rank import padded
from gepa_loop.model.origin import check_origin
from gepa_loop.model.split import SPLIT
from gepa_loop.outside.cache import cache_folder
from gepa_loop.run.files import disk_errors, write_text
from gepa_loop.sampling.vllm.options import install_hint, missing, served_rank
from gepa_loop.serving.finished import Finished
from gepa_loop.serving.template import served_template
from gepa_loop.task.prompts import Renderer
from gepa_loop.task.template import Chat

SEVERAL = f"model.device = {SPLIT!r}, and vLLM is started for one GPU"
STUDENT, BARE = "student", "bare"
"""Names under which the student and the model without an adapter are asked."""


@dataclass(frozen=True)
class Serving:
    """What a server is told."""

    host: str
    port: int
    temperature: float
    """Of requests that name none."""
    max_tokens: int
    """The same."""


def check_vllm(finished: Finished) -> str | None:
    """Why vLLM does not serve a run by itself; None where it does: on a GPU, where it is installed."""
    settings = finished.config.model
    if settings.name == TINY:
        return f"vLLM does not load {TINY}"
    if settings.device == SPLIT:
        return SEVERAL
    device = find_device(settings.device)
    if device.type != "cuda":
        return f"the model lies on {device.type}"
    return missing(device)


def need_vllm(finished: Finished) -> None:
    """Raise where `--engine vllm` cannot be had."""
    settings = finished.config.model
    if settings.name == TINY:
        raise ConfigError(f"--engine vllm: it does not load {TINY}", "Leave --engine out.")
    if settings.device == SPLIT:
        raise ConfigError(
            f"--engine vllm: {SEVERAL}", "Leave --engine out, or export the student for a vLLM of your own."
        )
    device = find_device(settings.device)
    if (why := missing(device)) is not None:
        raise EnvironmentFault(f"--engine vllm: {why}", install_hint(device))


def vllm_words(finished: Finished, serving: Serving) -> list[str]:
    """The words behind `vllm` that serve a run's student; its adapter and chat template are written into the user's cache.

    Raises:
        ConfigError: Its rank is more than vLLM serves, or its template cannot be written for others.
        ModelError: The model cannot be loaded, or has other weights than the student was trained on.
        EnvironmentFault: The cache cannot be written.
    """
    own = finished.config.model
    # Its weights are compared with those that the student was trained on; this process and they are gone when vLLM begins.
    base, student = load_base(own), read_adapter(finished.adapter)
    check_origin(student.origin, base.origin, str(finished.adapter))
    renderer = Renderer(base.tokenizer, base.context, Chat(own.template, finished.day, own.system))
    template, rank = served_template(renderer), served_rank(student.rank)
    folder = cache_folder() / "served" / student.fingerprint
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_adapter(folder, padded(student, rank), base.origin)
    write_text(folder / "chat_template.jinja", template)
    unasked = {"temperature": serving.temperature, "max_new_tokens": serving.max_tokens}
    return [
        "serve",
        model_place(own.name),
        *("--served-model-name", BARE),
        "--enable-lora",
        *("--max-lora-rank", str(rank)),
        *("--lora-modules", f"{STUDENT}={folder}"),
        *("--chat-template", str(folder / "chat_template.jinja")),
        # The model's own file would change temperature and more of requests that say nothing of them.
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps(unasked)),
        *("--host", serving.host),
        *("--port", str(serving.port)),
    ]


def become_vllm(words: Sequence[str]) -> NoReturn:
    """Replace this process by vLLM's server, whose signals are then its own."""
    sys.stdout.flush()
    # -P: a folder of that name in the working directory is none of it.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", *words])

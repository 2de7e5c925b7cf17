"""The command that serves what a run has made."""

from __future__ import annotations

import shlex
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gepa_loop.cli.chat import TemperatureOption, TokensOption
from gepa_loop.cli.options import StudentArgument
from gepa_loop.show.loading import say_loading
from gepa_loop.show.names import named
from gepa_loop.show.terminal import err, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gepa_loop.serving.by_vllm import Serving
    from gepa_loop.serving.finished import Finished


class ServeEngine(StrEnum):
    """What answers for `serve`."""

    AUTO = "auto"
    TORCH = "torch"
    VLLM = "vllm"


def serve(
    run: StudentArgument,
    host: Annotated[
        str, typer.Option("--host", help="Who may ask: this machine alone, or 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    engine: Annotated[
        ServeEngine,
        typer.Option("--engine", help="vllm, torch (the program's own sampler), or vllm where it is there."),
    ] = ServeEngine.AUTO,
    temperature: TemperatureOption = None,
    max_tokens: TokensOption = None,
) -> None:
    """Serve the student of a run by an OpenAI-compatible endpoint: vLLM's on a GPU where it is installed."""
    say_loading(f"run {run}", err)
    from gepa_loop.serving.by_vllm import Serving, check_vllm, need_vllm
    from gepa_loop.serving.finished import read_finished

    finished = read_finished(run)
    sampling = finished.sampling(temperature, max_tokens)
    serving = Serving(host, port, sampling.temperature, sampling.max_tokens)
    if engine is ServeEngine.VLLM:
        need_vllm(finished)
        _serve_by_vllm(finished, serving)
    why = "as --engine says" if engine is ServeEngine.TORCH else check_vllm(finished)
    if why is None:
        _serve_by_vllm(finished, serving)
    _serve_here(finished, serving, why)


def _serve_by_vllm(finished: Finished, serving: Serving) -> NoReturn:
    from gepa_loop.serving.by_vllm import BARE, STUDENT, become_vllm, vllm_words
    from gepa_loop.serving.listen import free_socket

    with free_socket(serving.host, serving.port) as listener:
        serving = replace(serving, port=listener.getsockname()[1])
    words = vllm_words(finished, serving)
    out.print(
        f"student of prompt {named(finished.prompt.id)} on {finished.config.model.name}; served by vLLM, as\n  {shlex.join(['vllm', *words])}",
        highlight=False,
    )
    _say_address(serving.host, serving.port, (STUDENT, BARE))
    become_vllm(words)


def _serve_here(finished: Finished, serving: Serving, why: str) -> None:
    from gepa_loop.serving.listen import check_packages, free_socket, serve_until_ended

    check_packages("the endpoint")
    from gepa_loop.serving.endpoint import Endpoint
    from gepa_loop.serving.talk import open_talker

    with free_socket(serving.host, serving.port) as listener:
        talker = open_talker(finished)
        batch = finished.config.sampling.batch
        endpoint = Endpoint(talker, serving.temperature, serving.max_tokens, batch)
        out.print(
            f"student of prompt {named(finished.prompt.id)} on {talker.base.name}; sampler {talker.engine}; not vLLM: {why}",
            highlight=False,
        )
        listener.listen()  # before anybody reads where
        _say_address(serving.host, listener.getsockname()[1], list(endpoint.models))
        serve_until_ended(endpoint.app(), listener)


def _say_address(host: str, port: int, models: Sequence[str]) -> None:
    from gepa_loop.serving.listen import address_of

    address = f"{address_of(host, port)}/v1"
    out.print(f"{address} serves {', '.join(models)}; Ctrl-C ends it", highlight=False)
    body = '{"model": "student", "messages": [{"role": "user", "content": "..."}]}'
    out.print(
        f"try: curl {address}/chat/completions -H 'Content-Type: application/json' -d '{body}'",
        highlight=False,
    )

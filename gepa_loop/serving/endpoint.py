"""An OpenAI-compatible endpoint for a student, by this program's own sampler: what answers is what was scored.

Chats that come while others are answered wait, and are then answered in one batch. A sampled reply depends on its seed alone, not on
what it is answered with.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gepa_loop.errors import ConfigError, GepaLoopError, ModelError
from gepa_loop.sampling.base import Sampling
from gepa_loop.serving.talk import Reply, Talker, Who

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST = 2**22
"""Bytes of the largest request."""

IGNORED = {
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "stream_options",
    "parallel_tool_calls",
}
"""What clients send that changes no reply here."""


class Part(BaseModel):
    """A part of a turn's content."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def pair(self) -> tuple[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return "system" if self.role == "developer" else self.role, text


class Asked(BaseModel):
    """A request for a reply. What would change a reply and is not known here is refused."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    n: Literal[1] = 1
    top_p: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None


class Refused(Exception):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Failed(Exception):
    """What went wrong while a chat was answered, which is no fault of the one who asked."""


@dataclass
class _Waiting:
    asked: Asked
    who: Who
    reply: asyncio.Future[Reply]


class Endpoint:
    """The routes, and the one worker that answers.

    Args:
        talker: Who answers.
        temperature: Of requests that name none.
        max_tokens: Longest reply of those.
        batch: Most chats in one batch.
    """

    def __init__(self, talker: Talker, temperature: float, max_tokens: int, batch: int) -> None:
        self.talker, self.temperature, self.max_tokens, self.batch = talker, temperature, max_tokens, batch
        self.models: dict[str, Who] = {
            talker.finished.name: "student",
            "student": "student",
            "bare": "bare",
            "prompted": "prompted",
        }
        self.created = int(time.time())
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()

    def app(self) -> Starlette:
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        @asynccontextmanager
        async def working(_app: Starlette) -> AsyncIterator[None]:
            worker = asyncio.create_task(self._work())
            yield
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker

        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._list),
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
            ],
            lifespan=working,
        )

    async def _health(self, _request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok"})

    async def _list(self, _request: Request) -> Response:
        from starlette.responses import JSONResponse

        data = [
            {"id": name, "object": "model", "created": self.created, "owned_by": "gepa-loop"}
            for name in self.models
        ]
        return JSONResponse({"object": "list", "data": data})

    async def _complete(self, request: Request) -> Response:
        from starlette.responses import JSONResponse, StreamingResponse

        try:
            asked = await _read(request)
            who = self.models.get(asked.model)
            if who is None:
                raise Refused(404, f"there is no model {asked.model!r}; there are {', '.join(self.models)}")
            waiting = _Waiting(asked, who, asyncio.get_running_loop().create_future())
            await self._queue.put(waiting)
            reply = await waiting.reply
        except Failed as error:
            return JSONResponse({"error": {"message": str(error), "type": "server_error"}}, status_code=500)
        except (Refused, GepaLoopError) as error:
            status = error.status if isinstance(error, Refused) else 400
            return JSONResponse(
                {"error": {"message": str(error), "type": "invalid_request_error"}}, status_code=status
            )
        name, id_ = asked.model, f"chatcmpl-{secrets.token_hex(12)}"
        text, reason = _ended(reply, asked.stop)
        if asked.stream:
            return StreamingResponse(_chunks(id_, name, text, reason), media_type="text/event-stream")
        usage = {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.tokens,
            "total_tokens": reply.prompt_tokens + reply.tokens,
        }
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": reason,
            "logprobs": None,
        }
        whole = {"id": id_, "object": "chat.completion", "created": int(time.time()), "model": name}
        return JSONResponse({**whole, "choices": [choice], "usage": usage})

    async def _work(self) -> None:
        """Answer what waits, batch by batch: chats of one batch are answered by the same model at the same temperature."""
        while True:
            waiting = [await self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            groups: dict[tuple[Who, float], list[_Waiting]] = {}
            for one in waiting:
                groups.setdefault((one.who, self._temperature(one.asked)), []).append(one)
            for (who, temperature), group in groups.items():
                for start in range(0, len(group), self.batch):
                    await self._answer(who, temperature, group[start : start + self.batch])

    async def _answer(self, who: Who, temperature: float, group: list[_Waiting]) -> None:
        ready: list[_Waiting] = []
        for one in group:
            try:  # what one of them does wrong is no fault of the others
                tokens = self.talker.tokens(who, _chat(one.asked))
                self.talker.check_room(len(tokens))
                ready.append(one)
            except Exception as error:  # noqa: BLE001 (without its worker the server would answer nobody any more)
                _fail(one, error)
        if not ready:
            return
        # The longest; a row does not depend on how far others go, so each is cut where it asked to be.
        limits = [one.asked.max_completion_tokens or one.asked.max_tokens or self.max_tokens for one in ready]
        seeds = [
            secrets.randbits(62) if one.asked.seed is None else abs(one.asked.seed) % 2**62 for one in ready
        ]
        chats = [_chat(one.asked) for one in ready]
        sampling = Sampling(temperature, max(limits))
        try:
            replies = await asyncio.to_thread(self.talker.reply, who, chats, sampling, seeds, limits)
        except Exception as error:  # noqa: BLE001 (as above: memory of a GPU that runs out, say)
            for one in ready:
                _fail(one, error)
            return
        for one, reply in zip(ready, replies, strict=True):
            if not one.reply.done():
                one.reply.set_result(reply)

    def _temperature(self, asked: Asked) -> float:
        return self.temperature if asked.temperature is None else asked.temperature


def _fail(one: _Waiting, error: Exception) -> None:
    if not one.reply.done():
        asked = isinstance(error, ConfigError | ModelError)
        one.reply.set_exception(error if asked else Failed(f"{type(error).__name__}: {error}"))


def _chat(asked: Asked) -> tuple[tuple[str, str], ...]:
    return tuple(turn.pair for turn in asked.messages)


async def _read(request: Request) -> Asked:
    """A request's body, checked; raises Refused."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST:
            raise Refused(413, f"the request has over {LARGEST:,} bytes")
    try:
        asked = Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(400, f"{where}: {first['msg']}" if where else first["msg"]) from None
    extra: dict[str, Any] = asked.model_extra or {}
    if odd := [
        key for key, value in extra.items() if key not in IGNORED and value not in (None, [], {}, False)
    ]:
        raise Refused(400, f"{odd[0]} is not known here")
    if asked.messages[-1].role != "user":
        raise Refused(400, "the last message is not the user's")
    return asked


def _ended(reply: Reply, stop: str | list[str] | None) -> tuple[str, str]:
    """The reply up to the first text that ends it, and why it ends."""
    ends = [stop] if isinstance(stop, str) else stop or []
    places = [place for end in ends if end and (place := reply.text.find(end)) >= 0]
    if places:
        return reply.text[: min(places)], "stop"
    return reply.text, "length" if reply.cut else "stop"


async def _chunks(id_: str, name: str, text: str, reason: str) -> AsyncIterator[str]:
    """The reply in the form of a stream: it is whole before it is sent, since chats are answered in batches."""
    head = {"id": id_, "object": "chat.completion.chunk", "created": int(time.time()), "model": name}
    parts: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": text}, None),
        ({}, reason),
    ]
    for delta, ended in parts:
        choice = {"index": 0, "delta": delta, "finish_reason": ended}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"

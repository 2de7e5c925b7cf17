"""A teacher behind a vLLM server: log-probabilities of its K likeliest tokens at each position, over HTTP.

The server reads token ids (`prompt` of /v1/completions) and answers `prompt_logprobs`; nothing is decoded between the
two. Everything that can be wrong with it is found before the first step: no server, another vocabulary, fewer
log-probabilities than asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import torch
from torch import Tensor

from gepa_loop.config.tables import SamplingConfig
from gepa_loop.config.teachers import ServerTeacher
from gepa_loop.errors import ModelError, PromptError
from gepa_loop.lm.connections import connecting
from gepa_loop.lm.deadline import within
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.outside.redact import redacted
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item
from gepa_loop.training.batch import Group
from gepa_loop.training.head.chunked import TopK

KEY = "VLLM_API_KEY"
"""The environment variable of the server's key, where it wants one."""


@dataclass(frozen=True)
class ServedTeacher:
    """Reads completions after its own prompts on a server; see `base.Teacher`."""

    settings: ServerTeacher
    prompts: Mapping[str, tuple[int, ...]]
    rows: int
    """Of the student's output layer."""
    client: httpx.Client
    follows: bool = False

    def after_prefix(self, item: Item) -> tuple[int, ...]:
        return self.prompts[item.id]

    def read(self, groups: Sequence[Group], device: torch.device) -> TopK:
        """The server's likeliest tokens at the positions that predict the groups' completion tokens, on `device`."""
        prompts = [[*g.teacher_prompt, *c] for g in groups for c in g.completions]
        wanted = [(len(g.teacher_prompt), c) for g in groups for c in g.completions]
        rows = []
        for listed, (start, completion) in zip(self._prompt_logprobs(prompts), wanted, strict=True):
            for token, entry in zip(completion, listed[start:], strict=True):
                rows.append(self._position(token, entry))
        ids, logprobs, sampled = zip(*rows, strict=True)
        return TopK(
            torch.tensor(ids, device=device),
            torch.tensor(logprobs, device=device),
            torch.tensor(sampled, device=device),
        )

    def logprobs(self, groups: Sequence[Group], device: torch.device, temperature: float) -> Tensor:
        if temperature != 1:
            raise NotImplementedError("the config refuses a server at another temperature")
        return self.read(groups, device).token_N

    def moved(self) -> None:
        """It looks at nobody."""

    def restored(self) -> None:
        """It looks at nobody."""

    def follow(self) -> None:
        """It does not move."""

    def release(self) -> None:
        """Nothing of it lies here."""

    def answers(self, rollouts: Rollouts, stack: Adapter | None, settings: SamplingConfig) -> Rollouts:
        raise NotImplementedError("the config refuses a server that samples")

    def check(self, text: str, horizon: int) -> None:
        """Ask for the served models, and for one prompt's tokens and log-probabilities.

        Args:
            text: The rendered chat of the first prompt.
            horizon: Longest completion, in tokens.

        Raises:
            ModelError: The server cannot be reached, does not serve the model, has another vocabulary, or answers too
                few log-probabilities.
            PromptError: The longest prompt and a completion do not fit the model's context there.
        """
        served = {model["id"]: model for model in self._ask("GET", "/v1/models").get("data", [])}
        if self.settings.name not in served:
            raise ModelError(
                f"teacher.name = {self.settings.name!r}: {self.settings.url} does not serve it",
                f"It serves {', '.join(served) or 'nothing'}.",
            )
        longest = max(map(len, self.prompts.values()))
        # One more: a completions request samples at least one token.
        context = served[self.settings.name].get("max_model_len")
        if context is not None and longest + horizon + 1 > context:
            raise PromptError(
                f"{self._where}: the teacher's prompt takes {longest} tokens and a completion up to {horizon}, "
                f"over its context of {context}, less one",
                "Start it with a larger --max-model-len, or lower sampling.max_tokens or distill.horizon.",
            )
        item, ours = next(iter(self.prompts.items()))
        theirs = self._post("/tokenize", {"prompt": text, "add_special_tokens": False}).get("tokens")
        if theirs != list(ours):
            raise ModelError(
                f"{self._where}: it reads item {item} as other tokens than the student",
                "Its probabilities are of other tokens; serve a model of the same family.",
            )
        for listed in self._prompt_logprobs([list(ours)]):
            self._position(ours[-1], listed[-1])

    @property
    def _where(self) -> str:
        return f"teacher.url = {self.settings.url!r}"

    def _prompt_logprobs(self, prompts: Sequence[Sequence[int]]) -> list[list[Mapping[str, Any]]]:
        body = {"prompt": list(map(list, prompts)), "max_tokens": 1, "temperature": 0.0}
        answer = self._post("/v1/completions", {**body, "prompt_logprobs": self.settings.top_k})
        choices = sorted(answer.get("choices", []), key=lambda choice: choice["index"])
        found = [choice.get("prompt_logprobs") or [] for choice in choices]
        if [len(listed) for listed in found] != [len(prompt) for prompt in prompts]:
            raise ModelError(
                f"{self._where}: it answers log-probabilities of other positions than were asked"
            )
        return found

    def _position(self, token: int, entry: Mapping[str, Any]) -> tuple[list[int], list[float], float]:
        """Ids and log-probabilities of the K likeliest tokens, and the log-probability of `token`."""
        top = sorted(entry.items(), key=lambda pair: (-float(pair[1]["logprob"]), int(pair[0])))
        top = top[: self.settings.top_k]
        if len(top) < self.settings.top_k or str(token) not in entry:
            raise ModelError(
                f"{self._where}: {len(top)} log-probabilities at a position where teacher.top_k = "
                f"{self.settings.top_k} were asked, {'with' if str(token) in entry else 'without'} the sampled token's",
                "Lower teacher.top_k, or start the server with --max-logprobs.",
            )
        ids = [int(name) for name, _ in top]
        if (largest := max(ids)) >= self.rows:
            raise ModelError(
                f"{self._where}: a likely token there, {largest}, is none of the {self.rows} rows of the student's output layer",
                "Rows that fill up an output layer are no tokens, and no trained model finds one likely: is it another family?",
            )
        return ids, [float(value["logprob"]) for _, value in top], float(entry[str(token)]["logprob"])

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("POST", path, {"model": self.settings.name, **body})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = within(self.settings.seconds, lambda: self.client.request(method, path, json=body))
            answer.raise_for_status()
            return answer.json()
        except httpx.HTTPStatusError as error:
            status, said = error.response.status_code, error.response.text[:200].replace("\n", " ")
            hint = (
                "Lower teacher.top_k, or start the server with --max-logprobs." if "logprobs" in said else ""
            )
            if status < 400:
                said, hint = "it points to another address", "Name the address that answers itself."
            if status in (401, 403):
                said, hint = "the key is refused", f"Set {KEY} in the environment to the server's key."
            raise ModelError(f"{self._where}: {status} from {path}: {redacted(said)}", hint) from None
        except TimeoutError as error:
            raise ModelError(
                f"{self._where}: {error} from {path}", "Raise teacher.seconds if it is only slow."
            ) from None
        except (httpx.HTTPError, ValueError) as error:
            raise ModelError(
                f"{self._where}: no answer from {path}: {error or type(error).__name__}",
                "Is vLLM running there?",
            ) from None


def open_server(
    settings: ServerTeacher, prompts: Mapping[str, tuple[int, ...]], rows: int, text: str, horizon: int
) -> ServedTeacher:
    """A teacher on the server, checked; arguments and errors are those of `ServedTeacher` and its `check`."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ModelError(f"teacher.url = {settings.url!r}: {KEY} holds a character that no key has")
    with connecting(f"teacher.url = {settings.url!r}"):
        client = httpx.Client(
            base_url=settings.url.rstrip("/"),
            timeout=httpx.Timeout(settings.seconds, connect=10.0),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            transport=httpx.HTTPTransport(retries=3),
            follow_redirects=False,
        )
    teacher = ServedTeacher(settings, prompts, rows, client)
    teacher.check(text, horizon)
    return teacher

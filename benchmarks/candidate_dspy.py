"""Stock DSPy's evaluation of a candidate on our sampler, as `dspy.GEPA` drives it; run by optimize.py.

Of DSPy: `dspy.Predict`, its GEPA adapter and `dspy.Evaluate` with its pool of threads. The model reads the tokens that it
reads on our side (the field-name adapter), and DSPy's caches are off. The sampler answers one request after the other, as
an in-process model does behind a lock, or gathers what its threads ask for at a time, as a server does.
"""

from __future__ import annotations

import argparse
import queue
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.teleprompt.gepa.gepa_utils import DspyAdapter

from benchmarks.candidate import Scored, Setting, Side, measure_side
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.search.adapter import COMPONENT, FieldAdapter, disable_caches, example, program
from gepa_loop.task.prompts import Candidate

PATIENCE_SECONDS = 0.005
"""How long the gathering sampler waits for one more request when fewer are there than there are threads."""


class OneByOne(dspy.BaseLM):  # type: ignore[misc]
    """A language model that asks the sampler for one completion at a time."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(
            "in-process", temperature=0.0, max_tokens=setting.config.sampling.max_tokens, cache=False
        )
        self.rollouts = setting.rollouts
        self.sampling = Sampling(0.0, setting.config.sampling.max_tokens)
        self.lock = threading.Lock()
        self.asked: list[tuple[int, ...]] = []
        """The prompts of all requests, as tokens."""

    def forward(self, prompt: Any = None, messages: Any = None, **_: Any) -> Any:
        tokens = self.rollouts.renderer.encode(messages)
        self.asked.append(tuple(tokens))
        completion = self.complete(tokens)
        text = self.rollouts.renderer.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        choice = SimpleNamespace(
            message=SimpleNamespace(content=text), finish_reason=completion.finish_reason
        )
        return SimpleNamespace(choices=[choice], usage={}, model=self.model)

    def complete(self, tokens: list[int]) -> Completion:
        with self.lock:
            return self.rollouts.sampler.generate([tokens], self.sampling, [0], None)[0]


class Gathering(OneByOne):
    """A language model whose sampler answers together what up to `threads` threads ask for while it is busy."""

    def __init__(self, setting: Setting, threads: int) -> None:
        super().__init__(setting)
        self.threads = threads
        self.waiting: queue.SimpleQueue[tuple[list[int], Future[Completion]]] = queue.SimpleQueue()
        threading.Thread(target=self.serve, daemon=True).start()

    def complete(self, tokens: list[int]) -> Completion:
        future: Future[Completion] = Future()
        self.waiting.put((tokens, future))
        return future.result()

    def serve(self) -> None:
        while True:
            gathered = [self.waiting.get()]
            while len(gathered) < self.threads:
                try:
                    gathered.append(self.waiting.get(timeout=PATIENCE_SECONDS))
                except queue.Empty:
                    break
            prompts, futures = zip(*gathered, strict=True)
            try:
                found = self.rollouts.sampler.generate(prompts, self.sampling, [0] * len(prompts), None)
            except Exception as error:  # noqa: BLE001 (it goes to whoever asked)
                for future in futures:
                    future.set_exception(error)
                continue
            for future, completion in zip(futures, found, strict=True):
                future.set_result(completion)


def open_dspy(threads: int | None, gather: bool) -> Side:
    """The side with so many threads; None is what `dspy.GEPA` uses when it is told nothing."""

    def open_side(setting: Setting) -> Any:
        disable_caches()
        rollouts = setting.rollouts
        lm = Gathering(setting, threads or dspy.settings.num_threads) if gather else OneByOne(setting)

        def metric(example: Any, prediction: Any, *_: Any) -> float:
            return rollouts.task.score(example.item, prediction.answer).value

        adapter = DspyAdapter(program(Candidate("unused")), metric, {COMPONENT: metric}, num_threads=threads)
        batch = [example(item) for item in setting.items]

        def score(prompt: Candidate) -> Scored:
            lm.asked.clear()
            with dspy.context(lm=lm, adapter=FieldAdapter()):
                found = adapter.evaluate(batch, {COMPONENT: prompt.text})
            wanted = [tuple(rollouts.renderer.tokens(prompt.text, item)) for item in setting.items]
            assert sorted(lm.asked) == sorted(wanted), "DSPy asked for other prompts than ours does"
            return Scored([getattr(output, "answer", "") for output in found.outputs], list(found.scores), [])

        return score

    return open_side


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gather", action="store_true")
    given, _ = parser.parse_known_args()
    count = given.threads or dspy.settings.num_threads
    how = "requests of all threads together" if given.gather else "one request at a time"
    measure_side(f"DSPy {dspy.__version__}, {count} threads, {how}", open_dspy(given.threads, given.gather))

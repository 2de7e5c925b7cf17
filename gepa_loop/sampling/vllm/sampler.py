"""The vLLM sampler: an engine in processes of its own, with a copy of the base model and one adapter at a time.

The engine starts with the first `generate`. Only adapters are sent to it, each under a name and a number that never come
again: vLLM keys what it keeps of prompts by the adapter's name. After each change a canary compares its log-probabilities
with the trained model's.
"""

from __future__ import annotations

import atexit
import multiprocessing
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from gepa_loop.errors import ConfigError, Diverged, ModelError
from gepa_loop.model.lora.files import write_adapter
from gepa_loop.model.lora.low_rank import check_fits
from gepa_loop.run.files import disk_errors
from gepa_loop.sampling.base import Completion, Sampling, SelfMeasured
from gepa_loop.sampling.canary import SAMPLING, Canary
from gepa_loop.sampling.vllm.options import (
    FIRST_RANK,
    engine_options,
    install_hint,
    installed_version,
    missing,
    read_completion,
    sampling_options,
    served_rank,
    set_environment,
)

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from gepa_loop.config.tables import SamplingConfig
    from gepa_loop.model.base import Base
    from gepa_loop.model.lora.adapter import Adapter


T = TypeVar("T")


class VllmSampler:
    """Samples with vLLM, on the device of the base model and beside it.

    Args:
        base: The model, without adapters. Where it was not loaded from files it is written to a temporary folder.
        settings: `sampling` of the configuration.

    Raises:
        ConfigError: vLLM is not installed, or not for the model's device.
        EnvironmentFault: The temporary folder cannot be written.
    """

    def __init__(self, base: Base, settings: SamplingConfig) -> None:
        if why_not := missing(base.device):
            raise ConfigError(f"sampling.engine = 'vllm': {why_not}", install_hint(base.device))
        self.base = base
        self.settings = settings
        self.name = f"vLLM {installed_version()}"
        self.mismatch: float | None = None
        """What the last canary found, in nats."""
        self._scratch = tempfile.TemporaryDirectory(prefix="gepa-loop-vllm-")
        self._model_place = _model_place(base, Path(self._scratch.name) / "base")
        self._canary = Canary(base, settings.canary)
        self._shapes = {
            name: tuple(module.weight.shape)
            for name, module in base.model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        self._student: Adapter | None = None
        self._before: Adapter | None = None
        """What the engine computed with at the last canary."""
        self._stale = True
        self._version = 0
        self._request: Any = None
        self._engine: Any = None
        self._close: weakref.finalize[..., VllmSampler] | None = None
        self._processes: set[BaseProcess] = set()
        self._rank = 0
        self._asleep = False

    def _use(self, adapter: Adapter | None) -> None:
        """The adapter that `_prepare` brings the engine up with."""
        if adapter is not None:
            for module in adapter.modules:
                check_fits(adapter, module, self._shapes.get(module))
            served_rank(adapter.rank)
        if not _same(adapter, self._student):
            self._student, self._stale = adapter, True

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        """One completion for each prompt, in order, drawn with that row's seed.

        Raises:
            ConfigError: vLLM does not serve the adapter's layers, or its rank.
            ModelError: The adapter changes what is no linear layer of the base model, or one of another shape; the engine
                cannot start, has died or failed; or the canary found other log-probabilities.
            Diverged: Log-probabilities that are not finite.
            ValueError: A prompt is empty, or prompts and seeds differ in number.
        """
        if len(prompts) != len(seeds) or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts (none empty) need as many seeds, got {len(seeds)}")
        self._use(adapter)
        self._prepare()
        return self._complete(prompts, sampling, seeds)

    def sleep(self) -> SelfMeasured:
        """On a GPU the engine's weights go to the host and its cache is dropped until the next `generate`.

        Level 1: the deeper sleep forgets the base's weights, which nothing sends again.
        """
        if self._engine is not None and not self._asleep and self.base.device.type == "cuda":
            self._call("going to sleep", lambda: self._engine.sleep(level=1))
            self._asleep = True
        return {} if self.mismatch is None else {"canary": self.mismatch}

    def close(self) -> None:
        """End the engine's processes; the next `generate` starts new ones."""
        if self._close is not None:
            self._close()
            atexit.unregister(self._close)
        self._engine = self._close = self._request = None
        self._asleep, self._stale, self._rank = False, True, 0

    def _prepare(self) -> None:
        """Bring the engine up with the present student, checked."""
        needed = FIRST_RANK if self._student is None else self._student.rank
        if self.base.device.type == "cuda" and (self._asleep or self._engine is None or needed > self._rank):
            # What training has freed but keeps for itself the engine's process cannot use.
            torch.cuda.empty_cache()
        if self._engine is None or needed > self._rank:
            kept = max(self._rank, served_rank(needed))
            self.close()
            self._start(kept)
        if self._asleep:
            self._call("waking up", self._engine.wake_up)
            self._asleep = False
        if self._stale:
            self._load()
            rivals = {"no adapter": None, "the adapter before it": self._before}

            def complete(seeds: Sequence[int]) -> list[Completion]:
                return self._complete(self._canary.prompts, SAMPLING, seeds)

            self.mismatch = self._canary.check(complete, self._student, rivals, self.name).nats
            self._before, self._stale = self._student, False

    def _start(self, rank: int) -> None:
        set_environment(self.base.device)
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except (ImportError, OSError) as error:
            raise ModelError(
                f"{self.name} cannot be imported: {_first_line(error)}", install_hint(self.base.device)
            ) from error
        found = current_platform.device_type
        if found != self.base.device.type:
            raise ConfigError(
                f"sampling.engine = 'vllm': the installed {self.name} runs on {found or 'nothing here'}, and the model lies "
                f"on {self.base.device}",
                install_hint(self.base.device),
            )
        others = set(multiprocessing.active_children())
        with self._faults("starting"):
            self._engine = LLM(**self._model_place, **self._options(rank))
        self._processes = set(multiprocessing.active_children()) - others
        # Also when the sampler is dropped or the process ends. At exit multiprocessing joins its children, for ever if they
        # are not told to end: what is registered last runs first.
        self._close = weakref.finalize(self, self._engine.llm_engine.engine_core.shutdown)
        atexit.register(self._close)
        self._rank = rank

    def _options(self, rank: int) -> dict[str, Any]:
        return engine_options(self.base.device, self.base.model.dtype, self.settings, rank)

    def _load(self) -> None:
        """Send the student under a new name and number, and take the one before out."""
        from vllm.lora.request import LoRARequest

        old, self._request = self._request, None
        if old is not None:
            self._call("removing an adapter", lambda: self._engine.llm_engine.remove_lora(old.lora_int_id))
            shutil.rmtree(old.lora_path, ignore_errors=True)
        if self._student is None:
            return
        self._version += 1
        folder = Path(self._scratch.name) / f"student-{self._version}"
        write_adapter(folder, self._student, self.base.origin)
        request = LoRARequest(folder.name, self._version, str(folder))
        self._call("loading an adapter", lambda: self._engine.llm_engine.add_lora(request))
        self._request = request

    def _complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        requests = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        params = [SamplingParams(**sampling_options(sampling, seed, self.base.stop_ids)) for seed in seeds]
        outputs = self._call(
            "generating",
            lambda: self._engine.generate(requests, params, lora_request=self._request, use_tqdm=False),
        )
        if len(outputs) != len(prompts):
            raise ModelError(f"{self.name} answered {len(outputs)} of {len(prompts)} prompts")
        try:
            return [
                read_completion(output.outputs[0], sampling.max_tokens, self.base.stop_ids)
                for output in outputs
            ]
        except Diverged:
            # What is not finite stays in the cache's blocks, and on the CPU later prompts that get them read it.
            self.close()
            raise

    def _call(self, doing: str, work: Callable[[], T]) -> T:
        """Ask the engine for something, in a thread: vLLM waits for ever for an engine that is killed meanwhile."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 (handed to the caller)
                done.set_exception(error)

        with self._faults(doing):
            threading.Thread(target=run, name="vllm-call", daemon=True).start()
            while not wait([done], timeout=1.0).done:
                if connection.wait([process.sentinel for process in self._processes], timeout=0):
                    raise RuntimeError("the engine's process has ended")
            return done.result()

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn what vLLM raises into errors that are told; an engine that failed is not used again."""
        try:
            yield
        except Exception as error:  # its client raises plain ones
            self.close()
            if "expected target modules" in str(error):
                raise ConfigError(
                    f"{self.name} does not serve this adapter: {_first_line(error)}",
                    "Set lora.targets to layers it serves, or sampling.engine to torch.",
                ) from error
            raise ModelError(
                f"{self.name} failed while {doing}: {_first_line(error)}",
                "Its own lines above say more (VLLM_LOGGING_LEVEL=INFO for all of them). If memory ran out, change "
                "sampling.vllm.memory or lower sampling.batch; the same command continues the run.",
            ) from error


def _model_place(base: Base, folder: Path) -> dict[str, str]:
    """Where vLLM reads the weights: where the model came from, else a folder that is written now."""
    if place := base.model.name_or_path:
        commit = getattr(base.model.config, "_commit_hash", None)
        return {"model": place} | ({"revision": commit} if commit else {})
    with disk_errors(folder):
        base.model.save_pretrained(folder)
    return {"model": str(folder)}


def _same(one: Adapter | None, other: Adapter | None) -> bool:
    if one is None or other is None:
        return one is other
    return (
        (one.rank, one.alpha, one.tensors.keys()) == (other.rank, other.alpha, other.tensors.keys())
        and all(tensor.device == other.tensors[name].device for name, tensor in one.tensors.items())
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

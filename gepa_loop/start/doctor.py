"""What is wrong with a configuration on this machine, all of it at once, before an item or a weight is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gepa_loop.config.load import load_what_can_be
from gepa_loop.config.tables import FILES
from gepa_loop.config.whole import Config, check_budget
from gepa_loop.errors import ConfigError, EnvironmentFault, GepaLoopError, ModelError
from gepa_loop.outside.files import found_at
from gepa_loop.start.asking import Asking
from gepa_loop.start.context import check_context
from gepa_loop.start.engine import engine
from gepa_loop.start.findings import Finding as Finding
from gepa_loop.start.findings import fault
from gepa_loop.start.machine import Machine, find_machine
from gepa_loop.start.power import HINT, loop_power
from gepa_loop.start.reach import NETWORK_SECONDS, asks_of, find_task
from gepa_loop.start.room import memory, memory_of_teacher, most_disk
from gepa_loop.start.services import judge, questions, reflection, tracker

if TYPE_CHECKING:
    from gepa_loop.model.outline import Outline

MOST_BYTES = 50_000_000
"""Of a file that is read to look for its questions in the prompt: a second or two."""

NOTICED = 1.0
"""Seconds that a question's own timeout, which says more, has before it is given up."""


def examine(
    source: str | None, sets: Sequence[str], cwd: Path, seconds: float = NETWORK_SECONDS
) -> Iterator[Finding]:
    """Look at everything that a run needs, one thing after the other.

    Args:
        source: As for `load_config`.
        sets: So, too.
        cwd: The working directory.
        seconds: Longest wait for servers, for all of them together.
    """
    config, faults = load_what_can_be(source, sets, cwd=cwd)
    yield from (fault("config", error) for error in faults)
    if config is None:
        return
    if not faults:
        yield Finding("config", "ok", "every key and value can be used")
    asking = Asking(asks_of(config, seconds), seconds + NOTICED)
    yield from _Doctor(config, cwd, asking).findings()


class _Doctor:
    """The probes, each of which says what it found or raises."""

    def __init__(self, config: Config, cwd: Path, asking: Asking[Any]) -> None:
        self.config, self.cwd, self.asking = config, cwd, asking

    def findings(self) -> Iterator[Finding]:
        probes: Mapping[str, Callable[[], Iterator[Finding]]] = {
            "task": self._task,
            "control": self._control,
            "splits": self._splits,
            "prompt": self._prompt,
            "items": self._held,
            "model": self._model,
            "teacher": self._teacher,
            "device": self._device,
            "engine": partial(engine, self.config),
            "memory": self._memory,
            "disk": self._disk,
            "reflection": partial(reflection, self.config),
            "questions": partial(questions, self.config),
            "judge": partial(judge, self.config),
            "track": partial(tracker, self.config),
        }
        told: set[str] = set()
        for about, probe in probes.items():
            try:
                yield from probe()
            except GepaLoopError as error:
                # The same fault of the model is met by several; so is that of a device.
                if (about == "model" or error is not self._unreachable) and str(error) not in told:
                    told.add(str(error))
                    yield fault(about, error)

    @cached_property
    def machine(self) -> Machine:
        return find_machine(self.cwd, self.config.model.device)

    @cached_property
    def _outlined(self) -> Outline | GepaLoopError:
        from gepa_loop.model.outline import outline

        try:
            return outline(self.config.model, self._place("model"))
        except GepaLoopError as error:
            return error

    def _place(self, about: str) -> str | None:
        """Where a model is, if servers were asked; what they say is raised."""
        return self.asking.answer(about) if about in self.asking else None

    @property
    def _unreachable(self) -> GepaLoopError | None:
        return self._outlined if isinstance(self._outlined, GepaLoopError) else None

    @property
    def _outline(self) -> Outline:
        if isinstance(self._outlined, GepaLoopError):
            raise self._outlined
        return self._outlined

    def _memory(self) -> Iterator[Finding]:
        yield from memory(self.config, self._outline, self.cwd)
        if self.config.teacher.kind == "model":
            yield from memory_of_teacher(self.config, self._outline, self._taught, self.cwd)

    @cached_property
    def _taught(self) -> Outline:
        """Of the second model that teaches."""
        from gepa_loop.model.outline import outline

        teacher = self.config.teacher
        assert teacher.kind == "model", "it is asked for"
        own = self.config.model.model_copy(update={"name": teacher.name, "template": {}})
        try:
            return outline(own, self._place("teacher"))
        except (ModelError, ConfigError) as error:
            raise type(error)(str(error).replace("model.", "teacher.", 1), error.hint) from error

    def _task(self) -> Iterator[Finding]:
        yield from (Finding("task", "ok", one) for one in find_task(self.config.task, self._dataset("task")))

    def _control(self) -> Iterator[Finding]:
        if (control := self.config.distill.control) is not None:
            yield from (Finding("control", "ok", one) for one in find_task(control, self._dataset("control")))

    def _dataset(self, about: str) -> Callable[[str], None]:
        return lambda _: self.asking.answer(about)

    def _splits(self) -> Iterator[Finding]:
        if self.config.task.splits.shares:
            return  # they are numbers when the data are read
        check_budget(self.config.optimize, self.config.task.splits)
        power = loop_power(self.config)
        yield Finding("splits", "note" if power.is_small else "ok", f"of a loop: {power}", HINT)

    def _prompt(self) -> Iterator[Finding]:
        from gepa_loop.lab import seed_prompt, seed_source

        settings = self.config.optimize
        if settings.seed_prompt is None and settings.seed_prompt_file is None:
            why = "there is no optimize.seed_prompt: `optimize` and `loop` begin with one"
            yield Finding(
                "prompt", "note", why, "Write it into a file: --set optimize.seed_prompt_file=FILE."
            )
            return
        if settings.seed_prompt_file is not None and not Path(settings.seed_prompt_file).exists():
            return  # said already
        prompt, source = seed_prompt(settings), seed_source(settings)
        model = self._outline
        horizon = self.config.distill.longest(self.config.sampling.max_tokens)
        tokens = check_context(model, prompt.text, horizon, source)
        left = model.context - tokens - horizon
        yield Finding(
            "prompt",
            "ok",
            f"{source}: {tokens:,} tokens, which leaves {left:,} of the context for a question",
        )

    def _held(self) -> Iterator[Finding]:
        """Whether the prompt holds what judges it, where the items lie in a file: others would have to be made, or fetched."""
        from gepa_loop.lab import seed_prompt, seed_source
        from gepa_loop.task.held import held_questions
        from gepa_loop.task.sources import deal, settle

        config, settings = self.config, self.config.optimize
        files = [config.task.name, *filter(None, [settings.seed_prompt_file])]
        if config.task.kind not in FILES or not all(found_at(Path(file)) for file in files):
            return
        if settings.seed_prompt is None and settings.seed_prompt_file is None:
            return
        if Path(config.task.name).stat().st_size > MOST_BYTES:
            return
        # A control task may be code of the user's, which is not run here.
        distill = config.distill.model_copy(update={"control": None})
        config = settle(config.model_copy(update={"distill": distill}))
        splits = {
            split: rounds[0]
            for split, rounds in deal(config.task, config.seed, config.loop.rounds).splits.items()
        }
        held = held_questions(seed_prompt(settings).text, seed_source(settings), splits)
        if held is not None:
            yield Finding(
                "prompt", "note", held, "Show the model other examples: those of train are free to take."
            )

    def _model(self) -> Iterator[Finding]:
        model = self._outline
        rows, tokens = getattr(model.config, "vocab_size", None), len(model.tokenizer)
        if isinstance(rows, int) and tokens > rows:
            raise ModelError(
                f"model.name = {model.name!r}: its tokenizer has {tokens:,} tokens, and its embedding {rows:,} rows",
                "Tokenizer and weights are of two models; download them again.",
            )
        yield Finding(
            "model",
            "ok",
            f"{model.name}: {model.parameters / 1e9:.2f} billion parameters, context {model.context:,} tokens",
        )

    def _teacher(self) -> Iterator[Finding]:
        teacher = self.config.teacher
        if teacher.kind == "adapter":
            from gepa_loop.model.lora.files import read_adapter

            read_adapter(Path(teacher.path))
        elif teacher.kind == "model":
            other = self._taught
            if other.tokenizer.get_vocab() != self._outline.tokenizer.get_vocab():
                raise ModelError(
                    f"teacher.name = {teacher.name!r}: its vocabulary is not that of {self.config.model.name}",
                    "Its probabilities are of other tokens; choose a teacher of the same family.",
                )
        elif teacher.kind == "server":
            self.asking.answer("teacher")
        else:
            return
        yield Finding("teacher", "ok", f"teacher.kind = {teacher.kind}: it is there")

    def _device(self) -> Iterator[Finding]:
        from gepa_loop.model.base import find_device, resolve_dtype
        from gepa_loop.model.split import SPLIT

        settings = self.config.model
        device = find_device(settings.device)
        dtype = str(resolve_dtype(settings.dtype, device)).removeprefix("torch.")
        where = f"{settings.device} from {device} on" if settings.device == SPLIT else device
        yield Finding("device", "ok", f"{self.machine.name}: {dtype} on {where}")
        if device.type == "cpu" and self.machine.gpu_gib is None and self._outline.parameters > 1e9:
            yield Finding(
                "device",
                "note",
                f"a model of {self._outline.parameters / 1e9:.1f} billion parameters trains for days on a CPU",
                "Run it on a GPU, or take a smaller model.",
            )
        if (
            device.type == "cpu"
            and settings.dtype == "bfloat16"
            and resolve_dtype("auto", device) != resolve_dtype("bfloat16", device)
        ):
            yield Finding(
                "device",
                "note",
                "this processor emulates bfloat16, several times slower than float32",
                "Set model.dtype to auto.",
            )

    def _disk(self) -> Iterator[Finding]:
        runs = self.cwd / "runs"
        place = runs if runs.exists() else self.cwd
        if not os.access(place, os.W_OK):
            raise EnvironmentFault(
                f"{place} cannot be written",
                "Runs are written below the working directory; change to another one.",
            )
        need = most_disk(self.config, self._outline)
        told = f"up to {need:.1f} GiB for checkpoints and adapters of a loop, {self.machine.disk_gib:.1f} GiB free"
        if need > self.machine.disk_gib:
            raise EnvironmentFault(f"disk: {told}", "Free some space, or raise distill.check_every.")
        yield Finding("disk", "ok", told)

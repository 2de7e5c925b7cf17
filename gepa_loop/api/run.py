"""A finished run, in a Python program's hands."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gepa_loop.api.guard import check_drawing, errors_of
from gepa_loop.api.words import python_words
from gepa_loop.errors import ConfigError, EnvironmentFault
from gepa_loop.run.seeds import derive_seed

if TYPE_CHECKING:
    import pandas

    from gepa_loop.serving.finished import Finished
    from gepa_loop.serving.talk import Talker

Question = str | Sequence[Mapping[str, str]]
"""A text, or chat turns `{"role": ..., "content": ...}` of which the last is the user's."""


@dataclass(frozen=True)
class Run:
    """A finished run; `run("a question")` is its student's answer. `optimize`, `distill`, `loop`, `evaluate` and `load` give one."""

    path: Path
    """Its folder."""

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    @python_words()
    def command(self) -> str:
        """`optimize`, `distill`, `loop`, `evaluate` or `sweep`."""
        from gepa_loop.run.identity import read_manifest

        return str(read_manifest(self.path)["identity"].get("command", ""))

    @cached_property
    @python_words()
    def result(self) -> Mapping[str, Any]:
        """What was found, key by key as runs/README.md has it for the command's result.json."""
        from gepa_loop.run.files import read_json

        return {k: v for k, v in read_json(_result(self.path), dict[str, Any]).items() if k != "files"}

    @cached_property
    @python_words()
    def prompt(self) -> str:
        """The text of the prompt: that was distilled, that a search or a loop found best, or that was scored first; empty for none."""
        from gepa_loop.show.searches import pick, read_search
        from gepa_loop.task.prompts import read_prompt

        if self.command == "optimize":
            return pick(read_search(str(self.path)), "best")["text"]
        if self.command == "loop":
            return read_prompt(self.path / self.result["prompt"]).text
        if self.command == "evaluate":
            first = self.result["subjects"][0]["id"].partition("+")[0]
            return "" if first == "none" else read_prompt(self.path / "prompts" / f"{first}.txt").text
        (file,) = (self.path / "prompts").glob("*.txt")
        return read_prompt(file).text

    @property
    @python_words()
    def adapter(self) -> Path | None:
        """The student's folder; None where the run has none."""
        from gepa_loop.serving.finished import has_student

        return (
            self._finished.adapter if self.command in ("distill", "loop") and has_student(self.path) else None
        )

    @python_words()
    def rows(self) -> pandas.DataFrame:
        """Every scored reply, in the columns of "Score rows" in runs/README.md, and in `file` where it stands (`test/student_greedy`).

        Raises:
            EnvironmentFault: pandas is not installed.
            RunDirectoryError: A file is not as it was written.
        """
        try:
            import pandas
        except ImportError as error:
            raise EnvironmentFault(
                f"rows are a data frame of pandas, which cannot be imported: {error}",
                "pip install 'gepa-loop[pandas]'; the rows are in the JSONL files of the run as well.",
            ) from error
        from gepa_loop.run.files import read_jsonl
        from gepa_loop.scores.records import SCORED, ScoreRow

        names = sorted(str(file.relative_to(self.path)) for file in self.path.rglob("*.jsonl"))
        scored = [name for name in names if any(fnmatch(name, place) for place in SCORED)]
        found = [
            {"file": name.removesuffix(".jsonl"), **row}
            for name in scored
            for row in read_jsonl(self.path / name, ScoreRow)
        ]
        return pandas.DataFrame(found, columns=["file", *ScoreRow.__annotations__])

    def __call__(
        self,
        question: Question,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> str:
        """The student's reply to one question; the arguments are those of `replies`."""
        return self.replies([question], temperature=temperature, max_tokens=max_tokens, seed=seed)[0]

    def replies(
        self,
        questions: Sequence[Question],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """The student's replies, without a prompt, `sampling.batch` of them at a time. The model stays in memory as long as this object does.

        Args:
            questions: Texts, or chats.
            temperature: 0 is greedy; None is that at which the run was decided.
            max_tokens: Of the longest reply; None is four times that of the run.
            seed: Of sampled replies, from 0 on: each place in `questions` has another one made of it, so that a question that is
                asked twice is drawn twice. None draws another seed each time.

        Raises:
            ConfigError: An argument cannot be used, or the run's command makes no student.
            RunDirectoryError: The run has no student.
            EnvironmentFault: There is not enough memory.
            ModelError: Model or adapter cannot be read.
            PromptError: A question does not fit the context.
            CallInterrupted: Ctrl-C.
        """
        check_drawing(temperature, max_tokens, seed)
        if isinstance(questions, str):
            raise ConfigError(f"questions = {questions!r}: a text, not a list of them", "Put it into a list.")
        chats = [_chat(one) for one in questions]
        if not chats:
            return []
        drawn = secrets.randbits(62) if seed is None else int(seed)
        seeds = [derive_seed(drawn, place) for place in range(len(chats))]
        with errors_of("interrupted; the replies so far are lost."):
            sampling, rows = (
                self._finished.sampling(temperature, max_tokens),
                self._finished.config.sampling.batch,
            )
            return [
                reply.text
                for at in range(0, len(chats), rows)
                for reply in self._talker.reply(
                    "student", chats[at : at + rows], sampling, seeds[at : at + rows]
                )
            ]

    @cached_property
    def _finished(self) -> Finished:
        from gepa_loop.serving.finished import read_finished

        return read_finished(str(self.path))

    @cached_property
    def _talker(self) -> Talker:
        from gepa_loop.serving.talk import open_talker

        return open_talker(self._finished)


@python_words()
def load(run: str | Path) -> Run:
    """A finished run.

    Args:
        run: A name below ./runs, the path of its folder, or `last`, which is the finished one that was written to last.

    Raises:
        ConfigError: There is no such run.
        RunDirectoryError: It is not finished.
    """
    from gepa_loop.run.find import run_folder
    from gepa_loop.stages.reached import unfinished

    path = run_folder(str(run), lambda folder: _result(folder).exists(), "Finished runs").resolve()
    if not _result(path).exists():
        raise unfinished(path)
    return Run(path)


def _result(folder: Path) -> Path:
    """Where a run says what it found; a search of its own has no other file of this name."""
    own = folder / "result.json"
    return own if own.exists() else folder / "optimize" / "result.json"


def _chat(question: Question) -> tuple[tuple[str, str], ...]:
    from gepa_loop.task.records import Item

    return Item.of(question).messages

"""DSPy programs whose prompt is nothing but their instructions.

DSPy's own adapters wrap instructions in field headers; a teacher that reads those reads another prompt than
the one that is distilled. Here the system turn is the instructions, byte for byte, and the question is the
user's turn. The task is known by its field names, since `with_instructions` renames a signature.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dspy
from dspy.adapters.base import Adapter
from dspy.utils.exceptions import AdapterParseError

from gepa_loop.run.files import write_bytes
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate, candidate

COMPONENT = "self"
"""DSPy's name of a lone `Predict`'s predictor, and so GEPA's name of the text it evolves."""

FIELDS = ({"question"}, {"answer"})


class FieldAdapter(Adapter):  # type: ignore[misc]
    """Formats `question -> answer` programs as plain chat turns.

    Use it wherever a saved program runs under DSPy itself: `dspy.configure(adapter=FieldAdapter())`. It must
    be configured or given by `dspy.context`: DSPy ignores an adapter set on the LM.
    """

    def format(
        self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The chat turns: instructions as system turn, then the question (a text, or a list of turns).

        Raises:
            ValueError: Another signature than question -> answer, or there are demos.
        """
        if (set(signature.input_fields), set(signature.output_fields)) != FIELDS or demos:
            raise ValueError(f"FieldAdapter formats question -> answer without demos, not {signature}")
        question = inputs["question"]
        turns = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        return [{"role": "system", "content": signature.instructions}, *turns]

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """The completion as the answer.

        Raises:
            AdapterParseError: The completion is empty.
        """
        if not completion.strip():
            raise AdapterParseError("FieldAdapter", signature, completion, message="the completion is empty")
        return {"answer": completion}


def program(prompt: Candidate) -> dspy.Predict:
    """The DSPy program of a prompt."""
    return dspy.Predict(dspy.Signature("question -> answer", prompt.text))


def prompt_of(predict: dspy.Predict) -> Candidate:
    """The prompt of a DSPy program."""
    return candidate(predict.signature.instructions, "a DSPy program")


def save_program(path: Path, prompt: Candidate) -> None:
    """Write a program as DSPy's own `load` reads it: JSON, no pickle."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        program(prompt).save(str(file))
        write_bytes(path, file.read_bytes())


def example(item: Item) -> dspy.Example:
    """An item as DSPy's example: its question (all turns when there are several) and answer."""
    turns = [{"role": role, "content": content} for role, content in item.messages]
    question = item.question if len(turns) == 1 else turns
    return dspy.Example(question=question, answer=item.answer, item=item).with_inputs("question")


def disable_caches() -> None:
    """Turn DSPy's caches off: their keys leave out weights and endpoint, so they return other models' answers."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)

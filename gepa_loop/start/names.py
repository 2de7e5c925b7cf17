"""How fields are usually named, by what they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

QUESTIONS = (
    "question", "messages", "conversations", "conversation", "body", "text", "input", "query", "message", "content", "description",
    "problem", "instruction", "sentence", "ticket", "request", "utterance", "email", "review", "document", "prompt", "title", "subject",
)  # fmt: skip
"""Names of fields with questions, the likeliest first."""

ANSWERS = (
    "answer", "label", "labels", "target", "expected", "expected_output", "output", "response", "completion", "gold", "reference", "solution",
    "category", "class", "intent", "queue", "topic", "route", "code", "reply", "result", "tag", "y", "summary", "sentiment",
)  # fmt: skip
"""So, of answers."""

GROUPS = (
    "group", "customer", "user", "account", "thread", "conversation", "session", "document", "doc", "author", "company", "client",
    "patient", "source",
)  # fmt: skip
"""Names of fields, alone or with `_id`, whose equal values belong together."""

TOGETHER = (
    ("instruction", "input"),
    ("context", "question"),
    ("passage", "question"),
    *(
        (head, text)
        for head in ("subject", "title")
        for text in ("body", "text", "message", "description", "content")
    ),
)
"""Pairs of fields that are one question."""


def is_name_of(name: str, known: Sequence[str]) -> bool:
    """Whether a field has a known name, alone or as that of an id."""
    return re.sub(r"[ _-]?(id|name|key)$", "", name.lower()) in known

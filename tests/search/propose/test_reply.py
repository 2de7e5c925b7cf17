"""What is read of a reflection model's reply, in every form that models write it."""

from __future__ import annotations

import pytest

from gepa_loop.search.propose.reply import instruction, kept, shown

TEXT = "Use prime factors.\n\nGive one number."


@pytest.mark.parametrize(
    "reply",
    [
        TEXT,
        f"  {TEXT}\n",
        f'"{TEXT}"',
        f"[[ ## new_instruction ## ]]\n{TEXT}\n\n[[ ## completed ## ]]",
        f"[[ ## reasoning ## ]]\nHm.\n\n[[ ## new_instruction ## ]]\n{TEXT}",
        f"[[ ## new_instruction ## ]]\n```\n{TEXT}\n```",
        f"Here is the improved instruction:\n\n```\n{TEXT}\n```\n\nLet me know if it helps.",
        f"```text\n{TEXT}\n```",
        f"Here is the improved instruction:\n\n{TEXT}",
        f"Sure! Here's a better prompt:\n{TEXT}\n\nLet me know if you want changes.",
        f"The revised instruction is:\n\n{TEXT}\n\nThis version is shorter.",
        f"**Improved instruction:** {TEXT}",
        f"# New instruction\n\n{TEXT}",
        f"new_instruction: {TEXT}",
        'Here it is: {"new_instruction": "Use prime factors.\\n\\nGive one number."}',
        f'```json\n{{"new_instruction": "{TEXT}"}}\n```',
        '{"reasoning": {"a": 1}, "new_instruction": "Use prime factors.\\n\\nGive one number."}',
        f"<think>They fail at {{1}}: say ```x```</think>\n{TEXT}",
    ],
)
def test_an_instruction_is_found(reply: str) -> None:
    assert instruction(reply) == TEXT


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n",
        '{"other": 1}',
        "[1, 2]",
        '{"new_instruction": "  "}',
        '{"new_instruction": null}',
        '{"new_instruction": ["a"]}',
        "[[ ## new_instruction ## ]]\n\n[[ ## completed ## ]]",
        "I would rather not.",
        "I'm sorry, but I can't help with that.",
        "I cannot write this.",
        "As an AI, I have no opinion.",
        "<think>Use prime factors, and then",
        "<think>Use prime factors.</think>",
    ],
)
def test_no_instruction_is_found(reply: str) -> None:
    assert instruction(reply) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Follow this rule: add.",
        "Answer in the form {answer: N}.",
        'Say "yes" or "no".',
        "Write ```N``` and nothing else.",
        "Improve each step.\nThen: stop.",
        "If unsure, say: I cannot tell.",
    ],
)
def test_an_instruction_in_plain_words_stays_as_it_is(text: str) -> None:
    assert instruction(text) == text


def test_a_fence_inside_the_fenced_instruction_stays() -> None:
    inner = "Answer so:\n```\n42\n```\nNothing else."
    assert instruction(f"New prompt:\n```markdown\n{inner}\n```") == inner


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["{", "```\n", "[[ ## new_instruction ## ]]", "\n\nlet me know", '{"a":', "[", "here is "]
)
def test_reading_a_long_reply_takes_no_long_time(piece: str) -> None:
    instruction(piece * (200_000 // len(piece)))


def test_a_reply_is_kept_and_shown_in_part() -> None:
    assert kept("x" * 4000) == "x" * 4000
    assert kept("a" * 2000 + "b" + "c" * 2000) == "a" * 2000 + "\n[1 characters left out]\n" + "c" * 2000
    assert (shown(" \n"), shown("a\n b")) == ("an empty reply", "'a b'")
    assert shown("x" * 301) == repr("x" * 300 + " ...")

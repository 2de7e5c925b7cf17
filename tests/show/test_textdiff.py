"""Where the words of two lines differ."""

from __future__ import annotations

import pytest

from gepa_loop.show.textdiff import MOST, word_spans


def marked(left: str, right: str) -> tuple[list[str], list[str]]:
    spans = word_spans(left, right)
    found = [[line[start:end] for start, end in own] for line, own in zip((left, right), spans, strict=True)]
    return [text for text in found[0] if text], [text for text in found[1] if text]


@pytest.mark.parametrize(
    ("left", "right", "gone", "new"),
    [
        ("Say four and stop.", "Say five [b] and stop.", ["four"], ["five [b]"]),
        ("Say it.", "Say it twice.", [], [" twice"]),
        ("one two three", "one 2 three", ["two"], ["2"]),
        # Not one line that was changed: spaces are no words that two lines share.
        ("a b c d e f", "u v w x y z", [], []),
        ("", "new", [], []),
    ],
)
def test_words_that_differ(left: str, right: str, gone: list[str], new: list[str]) -> None:
    assert marked(left, right) == (gone, new)


def test_of_a_long_line_sentences_are_paired_and_words_within_them() -> None:
    sentences = [f"Sentence {n} has a few words of its own." for n in range(MOST // 4)]
    changed = list(sentences)
    changed[3] = "Sentence 3 has some words of its own."
    changed.insert(7, "Another one!")
    changed[-1] = "Nothing of it is left"
    gone, new = marked(" ".join(sentences), " ".join(changed))
    assert gone[0] == "a few" and new[:2] == ["some", "Another one! "]
    assert "".join(gone[1:]).startswith("Sentence") and "Nothing" in "".join(new[2:])


def test_a_sentence_without_end_is_marked_as_a_whole() -> None:
    known = "A short one. " * 200
    endless = " ".join(f"w{n}" for n in range(MOST))
    gone, new = marked(f"{known}{endless}", f"{known}{endless} more")
    assert gone == [endless] and new == [f"{endless} more"]
    # A line that is nothing else is one that was changed as a whole.
    assert marked(endless, f"{endless} more") == ([], [])


def test_words_of_long_lines_are_compared_within_sentences_alone() -> None:
    words = [f"w{n}" for n in range(2_400)]
    other = [word if n % 7 else f"x{n}" for n, word in enumerate(words)]
    sentences = [" ".join(words[n : n + 12]) + ". " for n in range(0, len(words), 12)]
    changed = [" ".join(other[n : n + 12]) + ". " for n in range(0, len(words), 12)]
    gone, new = marked("".join(sentences), "".join(changed))
    assert new == [word for word in other if word.startswith("x")]
    assert gone == [word for word, now in zip(words, other, strict=True) if word != now]
    # One sentence of so many words would take a minute.
    assert marked(" ".join(words), " ".join(other)) == ([], [])

"""Names of candidates."""

import re

from gepa_loop.show.names import named, nickname


def test_an_id_always_has_the_same_two_words() -> None:
    assert nickname("0000000a") == nickname("0000000a") == "astute-phoenix"
    names = {nickname(f"{n:08x}") for n in range(200)}
    assert len(names) > 195 and all(re.fullmatch(r"[a-z]+-[a-z]+", name) for name in names)


def test_what_is_no_id_has_no_name() -> None:
    assert named("0000000a") == "0000000a astute-phoenix"
    for other in ("", "3 students", "base, no prompt", "0000000g", "0000000aa"):
        assert named(other) == other

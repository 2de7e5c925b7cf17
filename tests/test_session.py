"""What a session finds out before anything is spent."""

from pathlib import Path

from gepa_loop.command import LOOP, OPTIMIZE
from gepa_loop.config.load import load_config
from gepa_loop.run.files import write_json
from gepa_loop.session import _searched


def test_a_reflection_model_is_asked_only_where_something_is_left_to_search(tmp_path: Path) -> None:
    two, three = (load_config("smoke", [f"loop.rounds={count}"], env={}).loop for count in (2, 3))
    assert not _searched(LOOP, two, tmp_path) and not _searched(OPTIMIZE, two, tmp_path)
    write_json(tmp_path / "result.json", {"rounds": [{}, {}]})
    assert _searched(LOOP, two, tmp_path) and not _searched(LOOP, three, tmp_path)
    assert not _searched(OPTIMIZE, two, tmp_path)
    write_json(tmp_path / "optimize" / "result.json", {})
    assert _searched(OPTIMIZE, two, tmp_path)

"""What `import gepa_loop` offers."""

import inspect
import pkgutil
import subprocess
import sys

HEAVY = ("torch", "transformers", "dspy", "litellm", "scipy", "pandas")


def test_the_import_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; t = time.perf_counter()\nimport gepa_loop\ntook = time.perf_counter() - t\n"
        "gepa_loop.Task, gepa_loop.Item, gepa_loop.Score, gepa_loop.Run, gepa_loop.GepaLoopError\n"
        f"print(took, [m for m in {HEAVY} if m in sys.modules])"
    )
    best = 9.0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took, _, loaded = done.stdout.strip().partition(" ")
        assert loaded == "[]"
        best = min(best, float(took))
    assert best < 0.2


def test_every_name_is_there_and_none_is_a_rooms() -> None:
    import gepa_loop

    rooms = {module.name for module in pkgutil.iter_modules(gepa_loop.__path__)}
    for name in gepa_loop.__all__:
        assert name in dir(gepa_loop) and name not in rooms
        found = getattr(gepa_loop, name)
        assert inspect.isfunction(found) or inspect.isclass(found), name
        assert found.__doc__
    assert "prompt" in inspect.signature(gepa_loop.distill).parameters
    assert not hasattr(gepa_loop, "no_such_name")

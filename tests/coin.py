"""A task that the tiny model solves now and then: whether it does depends on the very completion.

Named `coin:make` in a configuration; a process of its own needs this folder on PYTHONPATH.
"""

import zlib


class Coin:
    """Questions whose answer is right for every second completion."""

    def __init__(self) -> None:
        self.items = [{"question": f"What follows {n}?", "answer": str(n + 1)} for n in range(100)]

    def score(self, record: dict[str, object], completion: str) -> float:
        return float(zlib.crc32(completion.encode()) % 2)


def make() -> Coin:
    return Coin()


SETS = [
    "task.kind=python",
    "task.name=coin:make",
    "optimize.accept=gepa",
    "optimize.max_rollouts=150",
    "optimize.minibatch=3",
]
"""Over the smoke preset: a search that accepts about every third proposal."""
COMMAND = ["optimize", "--config", "smoke", "--run-name", "r", *(w for s in SETS for w in ("--set", s))]

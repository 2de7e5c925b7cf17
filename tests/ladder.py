"""A task on which the tiny model's students gain for certain, round after round: each item asks for more letters.

Named `ladder:make` in a configuration; a process of its own needs this folder on PYTHONPATH.
"""

RUNGS = 8


class Ladder:
    """Questions that are solved by a reply with at least so many ASCII letters, from 1 to `RUNGS`."""

    def __init__(self) -> None:
        rungs = [1 + n % RUNGS for n in range(300)]
        self.items = [{"question": f"Question {n}, rung {k}", "answer": k} for n, k in enumerate(rungs)]

    def score(self, record: dict[str, int], completion: str) -> float:
        return float(sum(c.isascii() and c.isalpha() for c in completion) >= record["answer"])


class Quiet(Ladder):
    """The same questions, solved by replies with few letters: what a student of the ladder loses."""

    def score(self, record: dict[str, int], completion: str) -> float:
        return 1 - super().score({**record, "answer": 4}, completion)


def make() -> Ladder:
    return Ladder()


def quiet() -> Ladder:
    return Quiet()


SETS = [
    "seed=1",
    "task.kind=python",
    "task.name=ladder:make",
    "task.splits={train=32, pareto=16, select=64, test=32}",
    "sampling.max_tokens=12",
    "optimize.max_rollouts=80",
    # Stock models write the same greedy replies.
    "evaluate.temperature=0",
    # The reward moves the student, and the teacher is read.
    "objective.adv_tau=1",
    "objective.reward_std=true",
    "objective.teacher_tau=0.03",
    "distill.rollouts=128",
    "distill.group=16",
    "distill.steps=10",
    "distill.lr=2e-2",
    # With steps as long as these, sums in another order decide which tokens are drawn, and who wins.
    "distill.together=1",
]
"""Over the smoke preset: two rounds of a few seconds, each with a winner."""
COMMAND = ["loop", "--config", "smoke", "--run-name", "r", *(w for s in SETS for w in ("--set", s))]

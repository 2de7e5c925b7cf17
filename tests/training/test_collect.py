"""Which items a distillation trains on, over the rounds of a loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from observers import Silent

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import set_aside
from gepa_loop.lab import open_lab
from gepa_loop.sampling.base import Completion, Sampler
from gepa_loop.stages.distillation import Below, distill_candidate
from gepa_loop.task.prompts import NO_PROMPT, Candidate


@dataclass
class Asked:
    """A sampler that keeps what it is asked."""

    sampler: Sampler
    prompts: list[tuple[int, ...]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Sequence[int]], *more: Any) -> list[Completion]:
        self.prompts += map(tuple, prompts)
        return self.sampler.generate(prompts, *more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


def test_rounds_go_on_in_train_until_all_of_it_was_used(tmp_path: Path) -> None:
    # Two items a step and 16 in all, so four rounds of two steps.
    config = load_config("smoke", ["distill.steps=2", "loop.rounds=5"], env={})
    lab = open_lab(config).for_training()
    train = lab.task.splits["train"]
    ids = dict(zip(map(tuple, lab.rollouts.renderer.all_tokens(NO_PROMPT, train)), train, strict=True))
    before = dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0)
    drawn = []
    for number in range(5):
        own = lab.in_round(number)
        asked = Asked(own.rollouts.sampler)
        own = replace(own, rollouts=replace(own.rollouts, sampler=asked))
        distill_candidate(own, Candidate("Answer."), tmp_path / str(number), Silent(), Below(None, before))
        drawn.append({ids[prompt].id for prompt in asked.prompts if prompt in ids})
    assert [len(one) for one in drawn] == [4] * 5
    # None comes twice before all have come, and those that prompts show as worked examples are among them.
    assert set().union(*drawn[:4]) == {item.id for item in train}
    shown = train[: set_aside(config.optimize, config.task.splits)]
    assert len(shown) == 4
    # Then they come in another order.
    assert drawn[4] not in drawn[:4]

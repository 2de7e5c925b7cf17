"""Our evaluation of a candidate, one sampler call for all items; run by optimize.py in a process of its own."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.candidate import Judged, Scored, Setting, measure_side
from gepa_loop.search.adapter import COMPONENT, disable_caches, example
from gepa_loop.search.journal import Journal
from gepa_loop.search.programs import Aids, BatchedAdapter
from gepa_loop.search.propose.choose import make_proposer
from gepa_loop.search.scorer import Scorer
from gepa_loop.task.items import SPLITS
from gepa_loop.task.prompts import Candidate


def open_ours(setting: Setting) -> Judged:
    disable_caches()
    config = setting.config
    folder, count = tempfile.TemporaryDirectory(), itertools.count()
    settings = config.optimize
    proposer = make_proposer(settings.reflection, "offline", setting.train, settings.max_prompt_tokens, 0)
    # The task of random letters has items in one split only, and the adapter looks at `pareto`.
    task = setting.rollouts.task
    task = replace(task, splits={**task.splits, **{name: () for name in SPLITS if name not in task.splits}})
    rollouts = replace(setting.rollouts, task=task)
    batch = [example(item) for item in setting.items]

    def score(prompt: Candidate) -> Scored:
        # A new journal each time: what is in one is not scored again.
        journal = Journal(Path(folder.name) / str(next(count)))
        adapter = BatchedAdapter(Scorer(config, rollouts, journal), Aids(proposer))
        found = adapter.evaluate(batch, {COMPONENT: prompt.text})
        rows = [journal.rows[prompt.id, item.id][0] for item in setting.items]
        return Scored(
            [output.answer for output in found.outputs], list(found.scores), [r.tokens for r in rows]
        )

    return score


if __name__ == "__main__":
    measure_side("gepa-loop, one sampler call", open_ours)

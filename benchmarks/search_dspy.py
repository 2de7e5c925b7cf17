"""Stock `dspy.GEPA` on our sampler, with our proposer as its instruction proposer; run by search.py.

Of DSPy everything is as it comes: its adapter, its threads, its acceptance, its choice of the best candidate by the mean on
the validation set. The model reads the tokens that it reads on our side, completions are scored by the same code, and the
kind of failure goes to the proposer with the metric's feedback. DSPy's caches are off.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dspy

from benchmarks.candidate import Setting
from benchmarks.candidate_dspy import Gathering
from benchmarks.search_ours import NUMBER, Clock, Outcome
from gepa_loop.lab import Lab, seed_prompt
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Completion
from gepa_loop.search.adapter import FieldAdapter, disable_caches, example, program, prompt_of
from gepa_loop.search.feedback import failure_of
from gepa_loop.search.gepa import trainset
from gepa_loop.search.propose.base import Example, Proposer
from gepa_loop.stages.search import open_proposer
from gepa_loop.task.prompts import Candidate, normalise


class Recording(Gathering):
    """Keeps the completion behind each text: DSPy hands on texts only, and a score needs to know what was cut."""

    def __init__(self, setting: Setting, threads: int) -> None:
        super().__init__(setting, threads)
        self.made: dict[str, Completion] = {}

    def complete(self, tokens: list[int]) -> Completion:
        completion = super().complete(tokens)
        text = self.rollouts.renderer.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        self.made[text] = completion
        return completion

    def metric(
        self, gold: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Any:
        """GEPA's metric: the score that our side gives; asked for a predictor, with feedback below the failure's kind."""
        [row] = self.rollouts.scored([gold.item], [self.made[pred.answer]])
        if pred_name is None:
            return row.score
        return dspy.Prediction(score=row.score, feedback=f"{failure_of(row) or ''}\n{row.feedback}")


class Proposals:
    """A proposer of ours as DSPy's `ProposalFn`: numbered, and told what is known already."""

    def __init__(self, proposer: Proposer, seed: Candidate) -> None:
        self.proposer = proposer
        self.known = {seed.text}
        self.texts: list[str] = []

    def __call__(
        self,
        candidate: Mapping[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: Sequence[str],
    ) -> dict[str, str]:
        made = {}
        for component in components_to_update:
            examples = [shown(record) for record in reflective_dataset[component]]
            number = len(self.texts)
            proposal = self.proposer.propose(candidate[component], examples, number, self.known)
            made[component] = normalise(proposal.text)
            self.texts.append(made[component])
            self.known.add(made[component])
        return made


def shown(record: Mapping[str, Any]) -> Example:
    """A record of DSPy's reflective dataset as our proposers read it."""
    kind, _, feedback = record["Feedback"].partition("\n")
    return {
        "Inputs": record["Inputs"],
        "Generated Outputs": record["Generated Outputs"],
        "Feedback": feedback,
        "Failure": kind or None,
    }


def search_stock(lab: Lab, budget: int, threads: int) -> Outcome:
    """`dspy.GEPA` on `train` and `pareto`, `budget` being its max_metric_calls.

    Raises:
        RuntimeError: DSPy asked the model more or less often than it scored, so that some scores are of errors.
    """
    disable_caches()
    config, splits, seed = lab.config, lab.task.splits, seed_prompt(lab.config.optimize)
    lm = Recording(Setting(config, lab.rollouts, splits["pareto"], splits["train"]), threads)
    proposals = Proposals(open_proposer(lab, NUMBER), seed)
    with quiet(), dspy.context(lm=lm, adapter=FieldAdapter()):
        stock = dspy.GEPA(
            metric=lm.metric,
            max_metric_calls=budget,
            reflection_minibatch_size=config.optimize.minibatch,
            instruction_proposer=proposals,
            num_threads=threads,
            track_stats=True,
            seed=derive_seed(config.seed, "gepa") % 2**32,
        )
        clock = Clock()
        found = stock.compile(
            program(seed),
            trainset=trainset(config.optimize, config.task.splits, lab.rollouts),
            valset=[example(item) for item in splits["pareto"]],
        )
        spent = clock.seconds()
    result = found.detailed_results
    if len(lm.asked) != result.total_metric_calls:
        raise RuntimeError(f"{len(lm.asked)} completions for {result.total_metric_calls} scores")
    best = prompt_of(found)
    return Outcome(
        chosen=best,
        winner=best != seed,
        reported=result.val_aggregate_scores[result.best_idx],
        best=best,
        proposals=tuple(proposals.texts),
        accepted=len(result.candidates) - 1,
        rollouts=result.total_metric_calls,
        **spent,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without DSPy's progress bars, logs and warnings; whatever is raised still is."""
    nowhere = io.StringIO()
    before = logging.root.manager.disable
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)

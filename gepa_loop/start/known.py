"""What a run is known by besides its config, its data and its model: it goes on only under the same."""

from __future__ import annotations

from gepa_loop.command import Command
from gepa_loop.config.data import SplitSizes
from gepa_loop.config.recipe import DistillConfig
from gepa_loop.config.search import OptimizeConfig


def writers(
    command: Command, optimize: OptimizeConfig, distill: DistillConfig, splits: SplitSizes
) -> dict[str, str]:
    """Who writes prompts and questions: what `auto` means depends on the environment, and a run goes on with whom it began."""
    from gepa_loop.stages.questions import writer_name
    from gepa_loop.stages.search import proposer_name

    found = {}
    if command.searches:
        from gepa_loop.config.whole import check_budget

        check_budget(optimize, splits)
        found["reflection"] = proposer_name(optimize.reflection)
    if command.writes_questions and distill.questions:
        found["writer"] = writer_name(distill, optimize.reflection)
    return found

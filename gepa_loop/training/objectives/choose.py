"""The objective that a config asks for."""

from __future__ import annotations

from typing import Any

from gepa_loop.config.objectives import GRPO, SFT, FullKL, ObjectiveConfig, SequenceKL, TokenKL
from gepa_loop.training.objectives.base import Rule
from gepa_loop.training.objectives.full_kl import FullKLRule
from gepa_loop.training.objectives.grpo import GRPORule
from gepa_loop.training.objectives.sequence_kl import SequenceKLRule
from gepa_loop.training.objectives.sft import SFTRule
from gepa_loop.training.objectives.token_kl import TokenKLRule


def rule_of(objective: ObjectiveConfig) -> Rule[Any]:
    """The objective at work."""
    match objective:
        case FullKL():
            return FullKLRule(objective)
        case TokenKL():
            return TokenKLRule(objective)
        case SequenceKL():
            return SequenceKLRule(objective)
        case GRPO():
            return GRPORule(objective)
        case SFT():
            return SFTRule(objective)

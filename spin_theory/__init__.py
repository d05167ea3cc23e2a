"""The theory of self-play fine-tuning on tables: every number exact, every claim a check."""

from spin_theory.divergences import bhattacharyya, chi_square, entropy, js, kl, tv
from spin_theory.hinge import hinge_minimum
from spin_theory.languages import NoisySort
from spin_theory.losses import PENALTIES, sft_loss, spin_loss, tspin_loss
from spin_theory.objectives import optimal_value, optimality_gap, spin_objective, tspin_objective
from spin_theory.policies import TabularPolicy
from spin_theory.updates import (
    Minimum,
    closed_form_update,
    minimise,
    minimiser_update,
    opponent_update,
)

__all__ = [
    "PENALTIES",
    "Minimum",
    "NoisySort",
    "TabularPolicy",
    "bhattacharyya",
    "chi_square",
    "closed_form_update",
    "entropy",
    "hinge_minimum",
    "js",
    "kl",
    "minimise",
    "minimiser_update",
    "opponent_update",
    "optimal_value",
    "optimality_gap",
    "sft_loss",
    "spin_loss",
    "spin_objective",
    "tspin_loss",
    "tspin_objective",
    "tv",
]

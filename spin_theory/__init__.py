"""The theory of self-play fine-tuning on tables: every number exact, every claim a check."""

from spin_theory.divergences import bhattacharyya, chi_square, entropy, js, kl, tv
from spin_theory.dynamics import Game, multiplier, play, predicted_policy
from spin_theory.hinge import hinge_minimum
from spin_theory.languages import NoisySort
from spin_theory.losses import PENALTIES, sft_loss, spin_loss, tspin_loss
from spin_theory.objectives import optimal_value, optimality_gap, spin_objective, tspin_objective
from spin_theory.pair_sums import dense_expected_penalty, expected_penalty
from spin_theory.policies import TabularPolicy
from spin_theory.theorems import (
    Theorem52Evidence,
    Theorem54Evidence,
    check_theorem_5_2,
    check_theorem_5_4,
)
from spin_theory.updates import (
    Minimum,
    closed_form_update,
    minimise,
    minimiser_update,
    opponent_update,
)
from spin_theory.witnesses import objective_drop_at_data

__all__ = [
    "PENALTIES",
    "Game",
    "Minimum",
    "NoisySort",
    "TabularPolicy",
    "Theorem52Evidence",
    "Theorem54Evidence",
    "bhattacharyya",
    "check_theorem_5_2",
    "check_theorem_5_4",
    "chi_square",
    "closed_form_update",
    "dense_expected_penalty",
    "entropy",
    "expected_penalty",
    "hinge_minimum",
    "js",
    "kl",
    "minimise",
    "minimiser_update",
    "multiplier",
    "objective_drop_at_data",
    "opponent_update",
    "optimal_value",
    "optimality_gap",
    "play",
    "predicted_policy",
    "sft_loss",
    "spin_loss",
    "spin_objective",
    "tspin_loss",
    "tspin_objective",
    "tv",
]

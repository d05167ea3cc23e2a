"""The theory of self-play fine-tuning on tables: every number exact, every claim a check."""

from spin_theory.certificates import Certificate, Ray, certify, descending_ray, hinge_programme
from spin_theory.divergences import bhattacharyya, chi_square, entropy, js, kl, tv
from spin_theory.dynamics import Game, multiplier, play, predicted_policy
from spin_theory.hinge import chain_potentials, hinge_bound, hinge_minimum
from spin_theory.inner_problems import InnerProblem
from spin_theory.languages import NoisySort
from spin_theory.losses import PENALTIES, sft_loss, spin_loss, tspin_loss
from spin_theory.objectives import optimal_value, optimality_gap, spin_objective, tspin_objective
from spin_theory.opponents import (
    Opponent,
    OpponentRule,
    average_of_iterates,
    geometric_mixture,
    last_iterate,
    mixed_samples,
    without_reference,
)
from spin_theory.pair_sums import dense_expected_penalty, expected_penalty
from spin_theory.policies import TabularPolicy
from spin_theory.solvers import GradientSteps, Solver, exact, minimiser
from spin_theory.stability import (
    Linearisation,
    cycle_length,
    effective_beta,
    fixed_point,
    iterations_to,
    linearise,
    mixing_multipliers,
    observed_multipliers,
)
from spin_theory.theorems import (
    Theorem52Evidence,
    Theorem54Evidence,
    check_theorem_5_2,
    check_theorem_5_4,
)
from spin_theory.updates import (
    Minimum,
    closed_form,
    closed_form_update,
    minimise,
    minimise_problem,
    minimiser_update,
    opponent_update,
    solve,
)
from spin_theory.witnesses import objective_drop_at_data

__all__ = [
    "PENALTIES",
    "Certificate",
    "Game",
    "GradientSteps",
    "InnerProblem",
    "Linearisation",
    "Minimum",
    "NoisySort",
    "Opponent",
    "OpponentRule",
    "Ray",
    "Solver",
    "TabularPolicy",
    "Theorem52Evidence",
    "Theorem54Evidence",
    "average_of_iterates",
    "bhattacharyya",
    "certify",
    "chain_potentials",
    "check_theorem_5_2",
    "check_theorem_5_4",
    "chi_square",
    "closed_form",
    "closed_form_update",
    "cycle_length",
    "dense_expected_penalty",
    "descending_ray",
    "effective_beta",
    "entropy",
    "exact",
    "expected_penalty",
    "fixed_point",
    "geometric_mixture",
    "hinge_bound",
    "hinge_minimum",
    "hinge_programme",
    "iterations_to",
    "js",
    "kl",
    "last_iterate",
    "linearise",
    "minimise",
    "minimise_problem",
    "minimiser",
    "minimiser_update",
    "mixed_samples",
    "mixing_multipliers",
    "multiplier",
    "objective_drop_at_data",
    "observed_multipliers",
    "opponent_update",
    "optimal_value",
    "optimality_gap",
    "play",
    "predicted_policy",
    "sft_loss",
    "solve",
    "spin_loss",
    "spin_objective",
    "tspin_loss",
    "tspin_objective",
    "tv",
    "without_reference",
]

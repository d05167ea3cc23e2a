"""The theory of self-play fine-tuning on tables: every number exact, every claim a check."""

from spin_theory.claims.classes import check_log_linear_necessity, check_quantised_necessity
from spin_theory.claims.distance import check_degeneracy, check_distance_bounds
from spin_theory.claims.evidence import Evidence
from spin_theory.claims.existence import check_update_normaliser, update_exists
from spin_theory.claims.first_step import check_first_step_is_sft
from spin_theory.claims.games import (
    check_averaged_play,
    check_geometric_mixture,
    check_iterates,
    check_mixing,
)
from spin_theory.claims.iteration import (
    check_likelihood_rises,
    check_opponent_update,
    check_start_value,
)
from spin_theory.claims.objective import (
    check_convexity,
    check_hinge_duality,
    check_optimal_value,
    check_unbounded,
    pair_policies,
)
from spin_theory.claims.resting_point import check_fixed_point_is_sft
from spin_theory.claims.theorem_5_2 import Theorem52Evidence, check_theorem_5_2
from spin_theory.claims.theorem_5_4 import Theorem54Evidence, check_theorem_5_4
from spin_theory.claims.tspin import check_tspin_gradient, check_tspin_opponent
from spin_theory.claims.tspin_game import check_tspin_fixed_point, check_tspin_update
from spin_theory.claims.witnesses import (
    check_witness_interval,
    objective_drop_at_data,
    objective_slope_at_zero,
    witness_limit,
)
from spin_theory.divergences import bhattacharyya, chi_square, entropy, js, kl, renyi, tv
from spin_theory.games.iterates import cycle_length, observed_multipliers
from spin_theory.games.opponents import (
    Opponent,
    OpponentRule,
    average_of_iterates,
    geometric_mixture,
    last_iterate,
    mixed_samples,
    without_reference,
)
from spin_theory.games.phase import PhaseDiagram, phase_diagram
from spin_theory.games.play import Game, play
from spin_theory.games.rates import (
    effective_beta,
    iterations_to,
    mixing_multipliers,
    multiplier,
    predicted_policy,
)
from spin_theory.games.sampling import (
    SampleComplexity,
    predicted_tv,
    sample_complexity,
    sampled_update,
)
from spin_theory.games.solvers import GradientSteps, Solver, exact, minimiser
from spin_theory.games.stability import Linearisation, fixed_point, linearise
from spin_theory.languages import NoisySort
from spin_theory.losses import PENALTIES, penalty_slope, sft_loss, spin_loss, tspin_loss
from spin_theory.meter import Meter, convergence_meter
from spin_theory.minima.certificates import (
    Certificate,
    Ray,
    certify,
    descending_ray,
    hinge_programme,
)
from spin_theory.minima.closed_forms import closed_form, closed_form_update, opponent_update
from spin_theory.minima.hinge import chain_potentials, hinge_bound, hinge_minimum
from spin_theory.minima.log_linear import LogLinearClass, RestrictedMinimum, minimise_within
from spin_theory.minima.minimise import Minimum, minimise, minimise_problem, minimiser_update, solve
from spin_theory.minima.optimal import optimal_value, optimality_gap
from spin_theory.minima.problems import InnerProblem
from spin_theory.objectives.objectives import spin_objective, tspin_objective
from spin_theory.objectives.pair_sums import dense_expected_penalty, expected_penalty
from spin_theory.policies import TabularPolicy

__all__ = [
    "PENALTIES",
    "Certificate",
    "Evidence",
    "Game",
    "GradientSteps",
    "InnerProblem",
    "Linearisation",
    "LogLinearClass",
    "Meter",
    "Minimum",
    "NoisySort",
    "Opponent",
    "OpponentRule",
    "PhaseDiagram",
    "Ray",
    "RestrictedMinimum",
    "SampleComplexity",
    "Solver",
    "TabularPolicy",
    "Theorem52Evidence",
    "Theorem54Evidence",
    "average_of_iterates",
    "bhattacharyya",
    "certify",
    "chain_potentials",
    "check_averaged_play",
    "check_convexity",
    "check_degeneracy",
    "check_distance_bounds",
    "check_first_step_is_sft",
    "check_fixed_point_is_sft",
    "check_geometric_mixture",
    "check_hinge_duality",
    "check_iterates",
    "check_likelihood_rises",
    "check_log_linear_necessity",
    "check_mixing",
    "check_opponent_update",
    "check_optimal_value",
    "check_quantised_necessity",
    "check_start_value",
    "check_theorem_5_2",
    "check_theorem_5_4",
    "check_tspin_fixed_point",
    "check_tspin_gradient",
    "check_tspin_opponent",
    "check_tspin_update",
    "check_unbounded",
    "check_update_normaliser",
    "check_witness_interval",
    "chi_square",
    "closed_form",
    "closed_form_update",
    "convergence_meter",
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
    "minimise_within",
    "minimiser",
    "minimiser_update",
    "mixed_samples",
    "mixing_multipliers",
    "multiplier",
    "objective_drop_at_data",
    "objective_slope_at_zero",
    "observed_multipliers",
    "opponent_update",
    "optimal_value",
    "optimality_gap",
    "pair_policies",
    "penalty_slope",
    "phase_diagram",
    "play",
    "predicted_policy",
    "predicted_tv",
    "renyi",
    "sample_complexity",
    "sampled_update",
    "sft_loss",
    "solve",
    "spin_loss",
    "spin_objective",
    "tspin_loss",
    "tspin_objective",
    "tv",
    "update_exists",
    "without_reference",
    "witness_limit",
]

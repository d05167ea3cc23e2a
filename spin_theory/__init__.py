"""The theory of self-play fine-tuning on tables: every number exact, every claim a check.

What a notebook needs is importable from here. The rest stands in its wing, and each wing imports
only from those above it.

=====================  =============================================================================
``tolerances``         what rounding may make of a number, with the reason
``inputs``             numbers and tables that callers pass, of Python, numpy or torch
``losses``             the losses of SPIN, T-SPIN and SFT on log-probs, and the penalties
``policies``           policies as tables of log-probs
``divergences``        KL, JS, total variation, Renyi and others, per prompt
``hardest``            the tables on which the meter sees least
``meter``              what the loss on held-out pairs proves about the distance to the data
``calibration``        the beta that margins show
``languages``          small languages with known probabilities
``objectives``         the expected loss of a table, exactly, with fast sums over all pairs
``minima``             the minimiser of one iteration: closed forms, searches and certificates
``games``              whole games: opponents, solvers, rates, stability, phase diagrams
``claims``             the claims of both papers and ours, each with its check
``plots``              distances, orbits, cobwebs, spectra, phase diagrams; needs matplotlib
``printed``            what the command prints of games and phase diagrams
``flags, __main__``    the command `spin-theory`
=====================  =============================================================================
"""

from spin_theory.claims.theorem_5_2 import check_theorem_5_2
from spin_theory.claims.theorem_5_4 import check_theorem_5_4
from spin_theory.divergences import bhattacharyya, chi_square, entropy, hilbert, js, kl, renyi, tv
from spin_theory.games.fixed_points import fixed_point
from spin_theory.games.iterates import cycle_length
from spin_theory.games.opponents import (
    average_of_iterates,
    geometric_mixture,
    last_iterate,
    mixed_samples,
    tempered_samples,
    without_reference,
)
from spin_theory.games.phase import phase_diagram
from spin_theory.games.play import play
from spin_theory.games.rates import effective_beta, multiplier, predicted_policy
from spin_theory.games.samples import sample_complexity, samples_for
from spin_theory.games.sampling import SampledMinimiser
from spin_theory.games.solvers import GradientSteps
from spin_theory.games.stability import linearise
from spin_theory.games.temperature import tempered_limit, tempered_multiplier
from spin_theory.languages import NoisySort
from spin_theory.losses import PENALTIES, Penalty, sft_loss, spin_loss, tspin_loss
from spin_theory.meter import convergence_meter, power
from spin_theory.minima.closed_forms import closed_form_update, exact
from spin_theory.minima.minimise import minimise, minimiser
from spin_theory.minima.optimal import optimal_value, optimality_gap
from spin_theory.minima.policy_classes import LogLinearClass
from spin_theory.minima.problems import InnerProblem
from spin_theory.minima.within import minimise_within
from spin_theory.objectives.objectives import spin_objective, tspin_objective
from spin_theory.policies import TabularPolicy

__all__ = [
    "PENALTIES",
    "GradientSteps",
    "InnerProblem",
    "LogLinearClass",
    "NoisySort",
    "Penalty",
    "SampledMinimiser",
    "TabularPolicy",
    "average_of_iterates",
    "bhattacharyya",
    "check_theorem_5_2",
    "check_theorem_5_4",
    "chi_square",
    "closed_form_update",
    "convergence_meter",
    "cycle_length",
    "effective_beta",
    "entropy",
    "exact",
    "fixed_point",
    "geometric_mixture",
    "hilbert",
    "js",
    "kl",
    "last_iterate",
    "linearise",
    "minimise",
    "minimise_within",
    "minimiser",
    "mixed_samples",
    "multiplier",
    "optimal_value",
    "optimality_gap",
    "phase_diagram",
    "play",
    "power",
    "predicted_policy",
    "renyi",
    "sample_complexity",
    "samples_for",
    "sft_loss",
    "spin_loss",
    "spin_objective",
    "tempered_limit",
    "tempered_multiplier",
    "tempered_samples",
    "tspin_loss",
    "tspin_objective",
    "tv",
    "without_reference",
]

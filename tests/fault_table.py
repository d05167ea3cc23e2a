"""Mistakes that a person would make in one function of spin_theory: see `tests/faults.py`.

Each is a function that takes the right function and gives the wrong one, with the beginning of the
name of the claims that must reject it. The functions' names are those of
`tests.faults.public_functions`.
"""

import math
from dataclasses import replace


def _swapped(right):
    """Swap the first two arguments."""
    return lambda one, other, *tables, **rules: right(other, one, *tables, **rules)


def _at_another_beta(right):
    """Double beta."""
    return lambda *tables, beta, **rules: right(*tables, beta=2 * beta, **rules)


def _always(value):
    """Give the same number whatever comes in."""
    return lambda right: lambda *tables, **rules: value


FAULTS = {
    "claims.existence:update_exists": {"always": (_always(True), "where the update exists")},
    "claims.witnesses:witness_limit": {
        "a number just above 2": (_always(2.0000001), "5.2 witness interval"),
        "too small by a millionth": (
            lambda right: lambda *tables, **rules: right(*tables, **rules) * (1 - 1e-6),
            "5.2 witness interval, hinge",
        ),
    },
    "games.sft:sft_multiplier": {
        "without the SFT term": (
            lambda right: lambda **rules: right(**(rules | {"sft_weight": 1e-9})),
            "multiplier with an SFT term",
        ),
    },
    "games.sft:steadying_weight": {
        "half of it": (
            lambda right: lambda **rules: right(**rules) / 2,
            "multiplier with an SFT term",
        ),
    },
    "minima.closed_forms:linear_scores": {
        "towards the opponent": (
            lambda right: lambda problem: -right(problem),
            "correlation with an SFT term",
        ),
    },
    "minima.sft_term:SftTerm.with_hub": {
        "the other way round": (
            lambda right: lambda *tables: tuple(part.mT.contiguous() for part in right(*tables)),
            "certificate with an SFT term",
        ),
    },
    "minima.sft_term:SftTerm.log_pulls": {
        "at scale 1": (
            lambda right: lambda term, scores: right(term, scores) + math.log(term.beta),
            "certificate with an SFT term",
        ),
    },
    "minima.sft_term:SftTerm.values": {
        "of the opponent's responses": (
            lambda right: (
                lambda term, scores: right(replace(term, log_real=term.log_reference), scores)
            ),
            "objective with an SFT term",
        ),
    },
    "losses.pairs:with_sft": {
        "the log-prob added": (
            lambda right: (
                lambda losses, *, policy_real_logps, sft_weight: (
                    losses + sft_weight * policy_real_logps
                )
            ),
            "loss of a pair",
        ),
    },
    "games.gradients:logit_gradient": {
        "without the SFT term": (
            lambda right: lambda problem, **rules: right(replace(problem, sft_weight=0.0), **rules),
            "objective with an SFT term",
        ),
    },
    "divergences:kl": {"the other way round": (_swapped, "divergences")},
    "divergences:chi_square": {"the other way round": (_swapped, "divergences")},
    "divergences:renyi": {
        "the other way round": (_swapped, "divergences"),
        "of the inverse order": (
            lambda right: lambda p, q, *, order: right(p, q, order=1 / order),
            "divergences",
        ),
    },
    "games.iterates:cycle_length": {
        "always a fixed point": (_always(1), "length of a cycle"),
        "never a cycle": (_always(None), "length of a cycle"),
        "twice the period": (
            lambda right: lambda *tables, **rules: 2 * (right(*tables, **rules) or 0) or None,
            "length of a cycle",
        ),
    },
    "games.iterates:observed_multipliers": {
        "nothing": (_always((0j, 0j)), "multipliers"),
    },
    "games.rates:effective_beta": {
        "the inverse": (
            lambda right: lambda *tables, **rules: 1 / right(*tables, **rules),
            "multipliers",
        )
    },
    "games.rates:iterations_to": {
        "none": (_always(0), "iterations until"),
        "one more": (
            lambda right: lambda *tables, **rules: _one_more(right(*tables, **rules)),
            "iterations until",
        ),
    },
    "games.rates:multiplier": {"at another beta": (_at_another_beta, "multipliers")},
    "games.samples:predicted_tv": {"at another beta": (_at_another_beta, "predicted distance")},
    "games.sampling:sampled_update": {
        "at another beta": (_at_another_beta, "minimiser of a sample")
    },
    "meter:convergence_meter": {
        "the bound of everyone": (
            lambda right: (
                lambda *tables, **rules: replace(right(*tables, **rules), lower_bound=0.0)
            ),
            "convergence meter, on a sample",
        ),
        "twice as sure": (
            lambda right: (
                lambda margins, *, prompts, confidence=0.95: right(
                    margins, prompts=prompts, confidence=(1 + confidence) / 2
                )
            ),
            "convergence meter, on a sample",
        ),
    },
    "minima.certificates:certify": {
        "no gap": (
            lambda right: lambda *tables, **rules: _no_gap(right(*tables, **rules)),
            "certificate",
        ),
    },
    "minima.closed_forms:closed_form_update": {
        "at another beta": (_at_another_beta, "Hilbert's metric"),
        "towards the opponent": (_swapped, "Euler step"),
        "no step": (lambda right: lambda opponent, data, **rules: opponent, "Remark 5.5"),
    },
    "minima.hinge:hinge_bound": {
        "violations not taken off": (
            lambda right: lambda data, opponent, potentials: potentials[:, -1] - potentials[:, 0],
            "hinge, bound",
        ),
    },
    "minima.minimise:minimiser": {
        "the last iterate": (
            lambda right: lambda problem, **rules: problem.sampler,
            "T-SPIN has two basins",
        ),
        "the data": (
            lambda right: lambda problem, **rules: problem.data,
            "hinge does not settle",
        ),
    },
    "objectives.objectives:spin_objective": {
        "data and opponent swapped": (
            lambda right: (
                lambda policy, opponent, data, **rules: right(policy, data, opponent, **rules)
            ),
            "SPIN is DPO",
        ),
        "constant": (
            lambda right: (
                lambda policy, opponent, data, **rules: math.log(2) + 0 * policy.log_probs.sum()
            ),
            "5.2 necessity, logistic",
        ),
    },
    "games.stability:linearise": {"at another beta": (_at_another_beta, "linearised iteration")},
    "games.solvers:GradientSteps.__call__": {
        "no step": (lambda right: lambda solver, problem, *, start, generator: start, "optimiser"),
    },
    "languages.noisy_sort:NoisySort.log_prob": {
        "of a uniform shuffle": (
            lambda right: (
                lambda language, prompt, response: right(
                    replace(language, sharpness=0.0), prompt, response
                )
            ),
            "noisy sort",
        ),
    },
    "games.inexact:inexact_multiplier": {
        "of the exact iteration": (
            lambda right: (
                lambda mu, *, steps, **rules: right(
                    mu, steps=10**6 if steps else steps, **(rules | {"learning_rate": 1e-2})
                )
            ),
            "inexact play",
        ),
        "one step more": (
            lambda right: (
                lambda mu, *, steps, **rules: right(mu, steps=steps and steps + 1, **rules)
            ),
            "inexact play",
        ),
        "without momentum": (
            lambda right: lambda mu, **rules: right(mu, **(rules | {"momentum": 0})),
            "inexact play",
        ),
    },
    "games.opponents:tempered_samples": {
        "hot for cold": (
            lambda right: (
                lambda policies, *, temperature: right(policies, temperature=1 / temperature)
            ),
            "samples at a temperature",
        ),
    },
    "games.opponents:moving_average": {
        "the other way round": (
            lambda right: (
                lambda policies, *, decay, **rules: right(
                    policies, decay=min(1 - decay, 0.99), **rules
                )
            ),
            "moving average",
        ),
        "of the other kind": (
            lambda right: (
                lambda policies, *, decay, of="log_probs": right(
                    policies, decay=decay, of="log_probs" if of == "probs" else "probs"
                )
            ),
            "opponents",
        ),
    },
    "games.endings:rest_with_history": {
        "the data": (
            lambda right: lambda start, data, **rules: data,
            "SPIN with a history term",
        ),
        "towards p_0": (
            lambda right: (
                lambda start, data, *, history_weight: right(
                    data, start, history_weight=history_weight
                )
            ),
            "SPIN with a history term",
        ),
    },
    "games.pointwise:pointwise_multiplier": {
        "of SPACE": (lambda right: lambda loss, **rules: 0.0, "games of SPACE and GSIL"),
    },
    "objectives.pointwise:pointwise_objective": {
        "data and opponent swapped": (
            lambda right: (
                lambda policy, opponent, data, **rules: right(policy, data, opponent, **rules)
            ),
            "optimum of SPACE and GSIL",
        ),
    },
    "losses.pointwise:space_loss": {
        "the inverse mu": (
            lambda right: lambda *, mu=1.0, **rules: right(mu=1 / mu, **rules),
            "losses of SPACE and GSIL",
        ),
    },
    "losses.pointwise:gsil_loss": {
        "without the shift": (
            lambda right: lambda *, shift=0.0, **rules: right(**rules),
            "losses of SPACE and GSIL",
        ),
    },
    "losses.pointwise:PointwiseLoss.sft_factor": {
        "of the generated term": (
            lambda right: lambda loss: loss.derivatives()[1][0],
            "first step of SPACE and GSIL",
        ),
    },
    "games.temperature:tempered_limit": {
        "the data": (lambda right: lambda data, **_: data, "samples at a temperature"),
    },
    "games.temperature:tempered_multiplier": {
        "of temperature 1": (
            lambda right: lambda **rules: right(**(rules | {"temperature": 1.0})),
            "samples at a temperature",
        ),
    },
}


def _one_more(count):
    return None if count is None else count + 1


def _no_gap(proof):
    return replace(proof, gap=0 * proof.gap)

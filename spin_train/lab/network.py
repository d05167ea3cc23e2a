"""What theory says of gradients and of few steps, measured on networks in float64."""

from itertools import pairwise

import torch

from spin_theory.games.inexact import inexact_multiplier
from spin_theory.games.rates import multiplier
from spin_train.lab.findings import Curve, Finding
from spin_train.lab.gradients import (
    coefficients,
    cosine,
    first_spin_gradient,
    fisher_modes,
    sft_gradient,
    spin_gradient,
)
from spin_train.lab.laboratory import Laboratory, Player, near_the_data, steps_of
from spin_train.lab.problems import Problem
from spin_train.model.loading import load_model

__all__ = [
    "at_the_data",
    "at_the_learnt",
    "few_steps",
    "first_step",
    "later_gradients",
]

VANISHING = 1e-6
"""Part of its norm elsewhere that a gradient may keep where theory says 0."""
SAME = 1e-9
"""Of SPIN's first gradient from SFT's, over all responses. Both go backwards through the same
network, float32 norms included. They differ by a sum of float64 numbers that is 0, up to 1e-13."""
LEARNT = 0.01
"""The same at a policy within `TOLERANCE` of the data: the gradient is as far as the distance."""
NEAR = 0.02
"""Size of the log-ratios near the data, nats: terms of second order are a few hundredths of them,
and rounding of float32 less than a thousandth."""
LINEAR = 0.05
"""How far measured and predicted coefficients may be apart, as a part of all deviations."""
BETA = 2.0
"""Of the inexact iterations: the exact multiplier is 1/2."""


def _weights(player: Player) -> torch.nn.Module:
    model: torch.nn.Module = load_model(player.source, dtype="float32").double().eval()
    return model


def at_the_data(lab: Laboratory) -> Finding:
    """Theorem 5.2: where p_t is p_data, the expected gradient is 0; elsewhere it is not."""
    data = lab.data.policy
    there = spin_gradient(_weights(lab.data), lab.space, data, data, beta=1.0).norm()
    base = lab.base.policy
    elsewhere = spin_gradient(_weights(lab.base), lab.space, base, data, beta=1.0).norm()
    return Finding(
        claim="norm of the expected gradient where p_t is p_data, over that at p_0 (Theorem 5.2)",
        predicted=0.0,
        measured=float(there / elsewhere),
        tolerance=VANISHING,
    )


def at_the_learnt(lab: Laboratory, learnt: Player) -> Finding:
    """Where training at beta 1 has ended, which is nearly p_data, hardly any gradient is left."""
    data, base = lab.data.policy, lab.base.policy
    there = spin_gradient(_weights(learnt), lab.space, learnt.policy, data, beta=1.0).norm()
    elsewhere = spin_gradient(_weights(lab.base), lab.space, base, data, beta=1.0).norm()
    return Finding(
        claim="the same where p_t is the policy that was trained at beta 1, near p_data",
        predicted=0.0,
        measured=float(there / elsewhere),
        tolerance=LEARNT,
    )


def first_step(lab: Laboratory) -> list[Finding]:
    """At step 0 SPIN's gradient has the direction of SFT's, and beta/2 times its length.

    That is so over all responses that the base gives, and not over those of the space alone.
    """
    data, base = lab.data.policy, lab.base.policy
    model = _weights(lab.base)
    spin = first_spin_gradient(model, lab.space, data, beta=BETA)
    inside = spin_gradient(model, lab.space, base, data, beta=BETA)
    sft = sft_gradient(model, lab.space, data)
    length = float(spin.norm() / sft.norm())
    return [
        Finding(
            claim="cosine of SPIN's and SFT's gradients at step 0",
            predicted=1.0,
            measured=cosine(spin, sft),
            tolerance=SAME,
            wrong="generated responses of the space alone",
            wrong_apart=1 - cosine(inside, sft),
        ),
        Finding(
            claim=f"length of SPIN's over SFT's gradient at step 0, beta {BETA:g}",
            predicted=BETA / 2,
            measured=length,
            tolerance=SAME,
            wrong="beta, without the slope 1/2 of the penalty",
            wrong_apart=abs(length - BETA),
        ),
    ]


def few_steps(lab: Laboratory, *, everything: bool) -> tuple[list[Finding], list[Curve]]:
    """Play k steps of gradient descent from near the data: each mode has its own multiplier."""
    start = near_the_data(lab, size=NEAR)
    eigenvalues, modes = fisher_modes(_weights(start), lab.space)
    weights = (start.policy.probs / lab.space.prompts).flatten().sqrt()
    limit = 4 / (BETA**2 * float(eigenvalues[0]))  # beyond it descent is unstable
    plays = [(20, 0.5)] + ([(1, 0.5), (100, 0.5), (12, 1.1)] if everything else [])
    findings, curves = [], []
    for steps, part in plays:
        rate = part * limit
        name = f"{steps} steps of {part:g} of the stable rate"
        problem = Problem(name, beta=BETA, training=steps_of(steps, learning_rate=rate))
        _, learnt = lab.train(name, problem, start)
        before, after = (
            coefficients(player.policy, lab.data.policy, weights, modes)
            for player in (start, learnt)
        )
        moving = eigenvalues > 1e-9 * eigenvalues[0]  # constants move nothing
        predicted = torch.ones_like(eigenvalues)
        predicted[moving] = inexact_multiplier(
            eigenvalues[moving], beta=BETA, steps=steps, learning_rate=rate
        )
        apart = (after - predicted * before).norm() / before.norm()
        solved = multiplier(beta=BETA) * before  # what all modes have after steps without end
        findings.append(
            Finding(
                claim=f"deviations after {name}, beta {BETA:g}: apart from the multiplier of each "
                "Fisher eigenvalue",
                predicted=0.0,
                measured=float(apart),
                tolerance=LINEAR * max(1.0, float(predicted.abs().max())),
                wrong="the solved multiplier for all",
                wrong_apart=float((after - solved)[moving].norm() / before.norm()),
            )
        )
        clear = moving & (before.abs() > 0.05 * before.norm())
        x = eigenvalues[clear].tolist()
        curves += [
            Curve(f"{name}: measured", "modes", x, (after / before)[clear].tolist()),
            Curve(f"{name}: predicted", "modes", x, predicted[clear].tolist()),
        ]
    return findings, curves


def later_gradients(lab: Laboratory) -> tuple[list[Finding], Curve]:
    """Follow the cosine of SPIN's and SFT's gradients away from step 0, by gradient descent."""
    data, base, beta = lab.data.policy, lab.base.policy, 5.0
    eigenvalues, _ = fisher_modes(_weights(lab.base), lab.space)
    rate = 0.1 * 4 / (beta**2 * float(eigenvalues[0]))
    counts, cosines = [0], [1.0]
    for steps in (10, 30, 100):
        name = f"{steps} steps from the base at a small rate"
        problem = Problem(name, beta=beta, training=steps_of(steps, learning_rate=rate))
        _, learnt = lab.train(name, problem, lab.base)
        model = _weights(learnt)
        spin = spin_gradient(model, lab.space, base, data, beta=beta)
        counts.append(steps)
        cosines.append(cosine(spin, sft_gradient(model, lab.space, data)))
    fell = all(later < earlier for earlier, later in pairwise(cosines))
    claim = "cosine of the two gradients falls with each of 10, 30, 100 steps, beta 5 (1: it does)"
    return [Finding(claim, 1.0, float(fell), 0.0)], Curve("beta 5", "cosine", counts, cosines)

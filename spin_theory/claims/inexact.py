"""Claims about self-play whose iterations are some steps of gradient descent."""

import math
from typing import Any

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.games.inexact import (
    descent_limit,
    fisher_eigenvalues,
    fisher_matrix,
    inexact_multiplier,
)
from spin_theory.games.play import play
from spin_theory.games.solvers import GradientSteps
from spin_theory.games.stability import linearise
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import LINEAR_RATE, NEARLY_LINEAR, ROUNDING

__all__ = ["CLAIMS", "check_inexact_game", "check_inexact_play"]

NEARBY = 1e-6  # nats from the data at which an iteration counts as linear


def check_inexact_play(
    data: TabularPolicy,
    *,
    beta: float,
    solver: GradientSteps,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the law of inexact self-play near the data against the steps, differentiated.

    Parameters
    ----------
    data : TabularPolicy, shape (1, Y)
        p_data, Y >= 2.
    beta : float
        Pull towards the opponent, > 0, no unit.
    solver : GradientSteps
        Gradient descent on the exact objective, with momentum or without.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: largest difference of the matrices of :func:`linearise` and of the law,
        relative to the largest multiplier, where that is above 1, and how far the law is from
        1 after two steps at :func:`descent_limit`. `spectral_radius` is the
        largest multiplier in absolute value.

    Raises
    ------
    ValueError
        If there is more than one prompt, `beta` is not > 0, or the solver has no law.

    Notes
    -----
    The law is a function of the Fisher matrix :math:`A = diag(p) - p p^T`: one iteration takes
    the log-ratio d to :math:`m(A) d`, with m by :func:`inexact_multiplier`.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 5, seed=0, smallest=0.1)
    >>> check_inexact_play(data, beta=0.1, solver=GradientSteps(10, learning_rate=1.0)).holds
    True
    """
    rules: dict[str, Any] = {"loss_type": loss_type, "sft_weight": sft_weight}
    law, radius = _law(data, beta, solver, **rules)
    found = linearise([data, data], data, beta=beta, solver=solver, **rules)
    errors = [float((found.matrix - law).abs().max()) / max(1.0, radius)]
    # At its limit descent throws every step as far as the last: two of them change nothing.
    largest = fisher_eigenvalues(data)[0, -1:]
    limit = float(descent_limit(largest, learning_rate=1.0, **rules))
    if 0 < limit < math.inf:
        errors += [
            abs(float(m) - 1) for m in inexact_multiplier(largest, beta=limit, steps=2, **rules)
        ]
    elif limit == 0:  # the SFT term alone is too steep
        errors.append(max(0.0, 2 - sft_weight * float(largest)))
    return Evidence(largest_error(errors), tolerance, {"spectral_radius": radius})


def check_inexact_game(
    data: TabularPolicy,
    *,
    beta: float,
    solver: GradientSteps,
    loss_type: str = "logistic",
    seed: int = 0,
    tolerance: float = LINEAR_RATE,
) -> Evidence:
    r"""Check the law of inexact self-play near the data against an iteration that is played.

    Parameters
    ----------
    data : TabularPolicy, shape (1, Y)
        p_data, Y >= 2.
    beta : float
        Pull towards the opponent, > 0, no unit.
    solver : GradientSteps
        Gradient descent on the exact objective, with momentum or without.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    seed : int, default 0
        Seed of the direction in which the start differs from the data.
    tolerance : float, default 1e-6
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: error of the log-ratio after two mirrored starts, which cancel what is not
        linear to second order, relative to the size of the start and the largest multiplier.

    Raises
    ------
    ValueError
        If there is more than one prompt, `beta` is not > 0, or the solver has no law.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 5, seed=0, smallest=0.1)
    >>> check_inexact_game(data, beta=0.1, solver=GradientSteps(10, learning_rate=1.0)).holds
    True
    """
    law, radius = _law(data, beta, solver, loss_type)
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(data.log_probs.shape, generator=generator, dtype=torch.float64)
    before, after = [], []
    for sign in (1, -1):
        start = TabularPolicy.from_logits(data.log_probs + sign * NEARBY * shift)
        game = play(start, data, beta=beta, iterations=1, loss_type=loss_type, solver=solver)
        first, second = (policy.log_probs - data.log_probs for policy in game.policies)
        before.append(sign * first)
        after.append(sign * second)
    moved = _centred(after[0] + after[1]) - _centred(before[0] + before[1]) @ law
    residual = float(moved.abs().max()) / (2 * NEARBY * max(1.0, radius))
    return Evidence(residual, tolerance, {"spectral_radius": radius})


def _law(
    data: TabularPolicy,
    beta: float,
    solver: GradientSteps,
    loss_type: str,
    sft_weight: float = 0.0,
) -> tuple[Tensor, float]:
    """Matrix m(A) on log-ratios without their constants, (Y, Y), and its largest |m|."""
    if solver.optimiser not in ("gd", "momentum"):
        raise ValueError(f"the solver must be gd or momentum, got {solver.optimiser!r}")
    eigenvectors = torch.linalg.eigh(fisher_matrix(data)[0])[1][:, 1:]  # but for constants
    multipliers = inexact_multiplier(
        fisher_eigenvalues(data)[0],
        beta=beta,
        steps=solver.steps,
        learning_rate=solver.learning_rate,
        momentum=solver.momentum if solver.optimiser == "momentum" else 0.0,
        loss_type=loss_type,
        sft_weight=sft_weight,
    )
    return eigenvectors * multipliers @ eigenvectors.T, float(multipliers.abs().max())


def _centred(table: Tensor) -> Tensor:
    return table - table.mean(dim=-1, keepdim=True)


def _solver(draw: Draw, loss_type: str, *, sft_weight: float = 0.0) -> GradientSteps:
    """From 1 to 8 steps, at rates on either side of what descent bears."""
    seed = draw.instance.seed
    # Rate times curvature, of which descent bears 2; hinge has no curvature at the data.
    reach = 0.3 + 0.4 * (seed % 7)
    curvature = draw.beta**2 / 2 if loss_type == "logistic" else draw.beta
    curvature = curvature + sft_weight
    largest = float(fisher_eigenvalues(draw.small_data).max())
    return GradientSteps(
        steps=1 + seed % 8,
        learning_rate=reach / (curvature * largest),
        optimiser="momentum" if seed % 2 else "gd",
        momentum=0.5,
    )


CLAIMS = (
    Claim(
        name="inexact play near the data, {loss_type}",
        statement="With k steps of gradient descent of rate eta per iteration, deviations from the "
        "data along an eigenvector of `diag(p) - p p^T` are multiplied by "
        "`1 - (1 - (1 - eta beta^2 mu / 2)^k) / beta`, with mu its eigenvalue; hinge: by "
        "`1 - k eta beta mu`.",
        source="derived",
        function=check_inexact_play,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_inexact_play(
            draw.small_data,
            beta=draw.beta,
            solver=_solver(draw, loss_type),
            loss_type=loss_type,
        ),
        loss_types=("logistic", "hinge"),
    ),
    Claim(
        name="inexact play with an SFT term, {loss_type}",
        statement="With an SFT term of weight w the multiplier of k gradient steps is `1 - (g / c) "
        "(1 - (1 - eta c mu)^k)`, with `g = beta / 2 + w` and `c = beta^2 / 2 + w`; correlation: "
        "with `g = beta + w` and `c = w`.",
        source="derived",
        function=check_inexact_play,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_inexact_play(
            draw.small_data,
            beta=draw.beta,
            solver=_solver(draw, loss_type, sft_weight=0.2),
            loss_type=loss_type,
            sft_weight=0.2,
        ),
        loss_types=("logistic", "correlation"),
    ),
    Claim(
        name="an inexact iteration near the data",
        statement="An iteration of k gradient steps that is played from near the data moves by "
        "the same law.",
        source="derived",
        function=check_inexact_game,
        tolerance=NEARLY_LINEAR,
        check=lambda draw, *_: check_inexact_game(
            draw.small_data, beta=draw.beta, solver=_solver(draw, "logistic")
        ),
    ),
)

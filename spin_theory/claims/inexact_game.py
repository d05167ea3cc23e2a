"""Whole games in which an iteration is a few steps of an optimiser, and what sums them up."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import js, kl, tv
from spin_theory.games.phase import phase_diagram
from spin_theory.games.play import play
from spin_theory.games.solvers import GradientSteps
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FEW_TERMS, REPEATED, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_game", "check_gradient_steps", "check_phase_diagram"]

Numbers = NDArray[np.float64]


def check_gradient_steps(
    problem: InnerProblem,
    start: TabularPolicy,
    *,
    learning_rate: float,
    tolerance: float = REPEATED,
) -> Evidence:
    r"""Check an optimiser's steps on the logistic objective against its formulas in numpy.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's, of the logistic penalty and without history; with or without an SFT term.
    start : TabularPolicy, shape (X, Y)
        Where the steps begin.
    learning_rate : float
        Of the optimiser, > 0.
    tolerance : float, default 1e-11
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest difference of log-probs after three steps of gradient descent, and
        after one of Adam and of RMSProp, relative to their size and to that of the steps.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=2.0)
    >>> check_gradient_steps(problem, opponent, learning_rate=0.5).holds
    True
    """
    weights = problem.data.probs.numpy()[:, :, None] * problem.sampler.probs.numpy()[:, None, :]
    reference = 0.0 if problem.reference is None else problem.reference.log_probs.numpy()

    def gradient(logits: Numbers) -> Numbers:
        scores = problem.beta * (logits - reference)  # a normaliser cancels in every margin
        margins = scores[:, :, None] - scores[:, None, :]
        pulls = -problem.beta * weights * np.exp(-np.logaddexp(0, margins))
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probs = odds / odds.sum(axis=-1, keepdims=True)
        sft = problem.sft_weight * (probs - problem.data.probs.numpy())
        slope: Numbers = pulls.sum(axis=-1) - pulls.sum(axis=-2) + sft
        return slope

    def adam(slope: Numbers) -> Numbers:
        step: Numbers = slope / (np.abs(slope) + 1e-8)  # both moments are corrected for their start
        return step

    def rmsprop(slope: Numbers) -> Numbers:
        step: Numbers = slope / (np.sqrt(0.01 * slope**2) + 1e-8)
        return step

    rules: dict[str, tuple[int, Callable[[Numbers], Numbers]]] = {
        "gd": (3, lambda slope: slope),
        "adam": (1, adam),
        "rmsprop": (1, rmsprop),
    }
    errors = []
    for optimiser, (steps, direction) in rules.items():
        solver = GradientSteps(steps=steps, learning_rate=learning_rate, optimiser=optimiser)
        found = solver(problem, start=start, generator=torch.Generator()).log_probs.numpy()
        logits = start.log_probs.numpy()
        for _ in range(steps):
            logits = logits - learning_rate * direction(gradient(logits))
        apart = found - logits
        apart = apart - apart.mean(axis=-1, keepdims=True)
        errors.append(float(np.abs(apart).max() / (1 + np.abs(logits).max())))
    return Evidence(largest_error(errors), tolerance, {"steps": 3.0})


def check_game(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    iterations: int = 3,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check what a game keeps: its iterates one by one, and their distances from the data.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent in the first iteration, > 0, no unit; it grows by 1 each time.
    iterations : int, default 3
        How many to play.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest difference of a log-prob from the closed form written out, relative
        to its size, and of a distance averaged over weighted prompts; infinite where the game's
        betas, weights or data are not those given.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(2, 5, seed=seed) for seed in (0, 1))
    >>> check_game(start, data, beta=0.4).holds
    True
    """
    betas = [beta + k for k in range(iterations)]
    prompts = len(data.log_probs)
    shares = torch.arange(1, prompts + 1, dtype=torch.float64)
    shares = shares / shares.sum()
    game = play(start, data, beta=betas, iterations=iterations, prompt_probs=shares)
    real = data.log_probs
    logits, errors = start.log_probs, []
    for step, policy in zip([None, *betas], game.policies, strict=True):
        if step is not None:
            logits = torch.log_softmax(logits + (real - logits) / step, dim=-1)
        apart = (policy.log_probs - logits).abs().max() / (1 + logits.abs().max())
        errors.append(float(apart))
        logits = policy.log_probs
    measures = {kl: game.kl, tv: game.tv, js: game.js}
    for distance, averaged in measures.items():
        each = torch.stack([distance(data, policy) for policy in game.policies])  # (T + 1, X)
        by_prompt = game.by_prompt(distance)
        errors.append(float((by_prompt - each).abs().max() / (1 + each.max())))
        errors.append(float((averaged - each @ shares).abs().max() / (1 + each.max())))
    kept = game.betas == tuple(betas) and set(game.history_weights) == {0.0}
    weights = game.prompt_probs
    if not kept or len(game.history_weights) != iterations or weights is None:
        errors.append(np.inf)
    else:
        errors.append(float((weights - shares).abs().max()))
        errors.append(float((game.data.log_probs - real).abs().max()))
    return Evidence(largest_error(errors), tolerance, {"kl": float(game.kl[-1])})


def check_phase_diagram(
    *,
    beta: float,
    seed: int,
    games: int = 3,
    responses: int = 4,
    iterations: int = 1,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the cells of a phase diagram against its games, played one by one.

    Parameters
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit; the diagram has it and its double.
    seed : int
        Of the games.
    games, responses, iterations : int
        How many games per cell, of how many responses, and how long, by default 3, 4 and 1.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of a cell's change, in powers of ten, and of its shares of
        games that end further away, that stall after one iteration, and that are stable near the
        data; infinite where rows or columns are not those asked for, or a cell is wrongly said
        to approach the data or not.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Notes
    -----
    Columns are one step of gradient descent and the exact iteration.

    Examples
    --------
    >>> check_phase_diagram(beta=0.4, seed=0).holds
    True
    """
    betas, inner_steps = (beta, 2 * beta), (1, None)
    diagram = phase_diagram(
        betas=betas,
        inner_steps=inner_steps,
        seed=seed,
        games=games,
        responses=responses,
        iterations=iterations,
        smallest=0.05,
    )
    start, data = (
        TabularPolicy.random(games, responses, seed=seed + k, smallest=0.05) for k in (0, 1)
    )
    first = tv(data, start)
    errors = [0.0 if (diagram.betas, diagram.inner_steps) == (betas, inner_steps) else np.inf]
    for row, strength in enumerate(betas):
        for column, steps in enumerate(inner_steps):
            logits = start.log_probs
            for _ in range(iterations):
                logits = _iterate(logits, data, strength, exact=steps is None)
            last = tv(data, TabularPolicy.from_logits(logits))
            # Rounding is all that is left of a game that has reached the data.
            ratio = last.clamp(min=2**-52) / first
            change = float(ratio.log10().mean())
            size = 1 + float((2**-52 / last.clamp(min=2**-52)).max()) * 1e13
            errors.append(abs(float(diagram.change[row, column]) - change) / size)
            share = float((last > first + 1e-12).double().mean())
            errors.append(abs(float(diagram.diverged[row, column]) - share))
            rates = _multipliers(data, strength, exact=steps is None)
            stable = float((rates.abs() < 1).all(dim=-1).double().mean())
            stalled = float(((last > 1e-12) & (last >= first - 1e-12)).double().mean())
            for found, right in ((diagram.stable, stable), (diagram.stalled, stalled)):
                errors.append(np.inf if found is None else abs(float(found[row, column]) - right))
            if bool(diagram.approaches[row, column]) != (change < 0 and stalled < 0.25):
                errors.append(np.inf)
    return Evidence(largest_error(errors), tolerance, {"change": float(diagram.change[0, 1])})


def _iterate(
    logits: torch.Tensor, data: TabularPolicy, beta: float, *, exact: bool
) -> torch.Tensor:
    """One iteration of SPIN from normalised logits: the closed form, or a step of rate 1."""
    if exact:
        return torch.log_softmax(logits + (data.log_probs - logits) / beta, dim=-1)
    # The gradient at the opponent is beta l'(0) (p_data - p_t), l'(0) = -1/2.
    return torch.log_softmax(logits + beta / 2 * (data.probs - logits.exp()), dim=-1)


def _multipliers(data: TabularPolicy, beta: float, *, exact: bool) -> torch.Tensor:
    """Multipliers (X, Y - 1) near the data: 1 - 1/beta, or 1 - beta mu / 2 for a step of rate 1."""
    if exact:
        return torch.full((len(data.probs), 1), 1 - 1 / beta, dtype=torch.float64)
    outer = data.probs[:, :, None] * data.probs[:, None, :]
    eigenvalues: torch.Tensor = torch.linalg.eigvalsh(torch.diag_embed(data.probs) - outer)
    return 1 - beta * eigenvalues[:, 1:] / 2  # the first one is 0, of constants


def _spin(draw: Draw, *, sft_weight: float = 0.0) -> InnerProblem:
    return InnerProblem(
        data=draw.small_data,
        sampler=draw.small_start,
        reference=draw.small_start,
        beta=draw.beta,
        sft_weight=sft_weight,
    )


CLAIMS = (
    Claim(
        name="optimiser steps",
        statement="An inexact iteration is as many steps of gradient descent, Adam or RMSProp on "
        "the logits as it says, with fresh state.",
        source="derived",
        function=check_gradient_steps,
        tolerance=REPEATED,
        check=lambda draw, *_: check_gradient_steps(
            _spin(draw), draw.small_other, learning_rate=0.3
        ),
    ),
    Claim(
        name="optimiser steps with an SFT term",
        statement="The same holds with an SFT term.",
        source="derived",
        function=check_gradient_steps,
        tolerance=ROUNDING,
        check=lambda draw, *_: check_gradient_steps(
            _spin(draw, sft_weight=0.5), draw.small_other, learning_rate=0.3
        ),
    ),
    Claim(
        name="what a game keeps",
        statement="A game keeps every iterate, its schedule, and the distances of the iterates "
        "from the data, averaged over the prompts by their probabilities.",
        source="derived",
        function=check_game,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_game(draw.small_start, draw.small_data, beta=draw.beta),
    ),
    Claim(
        name="phase diagram",
        statement="A cell of the phase diagram is the mean change of the distance from the data, "
        "and the shares of the games that end further away, that stall, and that are stable near "
        "the data.",
        source="derived",
        function=check_phase_diagram,
        tolerance=SUMS,
        check=lambda draw, *_: check_phase_diagram(beta=draw.beta, seed=draw.instance.seed),
    ),
)

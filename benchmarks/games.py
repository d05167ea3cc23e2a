"""Ten thousand games at once against a loop of scipy's over games and iterations."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from spin_theory import TabularPolicy, exact, minimiser, play
from spin_theory.games.solvers import Solver

GAMES, RESPONSES, ITERATIONS, BETA = 10_000, 8, 20, 2.0
LOOPED = 10
"""Games that the loop plays; it is as slow for each of the others."""

Vector = NDArray[np.float64]


def scipy_game(start: Vector, data: Vector) -> Vector:
    """Play one game with scipy, iteration by iteration.

    Parameters
    ----------
    start, data : ndarray, shape (Y,)
        Log-probs of p_0 and p_data, in nats.

    Returns
    -------
    ndarray, shape (Y,)
        Log-probs of the last iterate.
    """
    policy = start
    for _ in range(ITERATIONS):
        weights = np.exp(data[:, None] + policy[None, :])

        def value_and_gradient(scores: Vector, weights: Vector = weights) -> tuple[float, Vector]:
            margins = scores[:, None] - scores[None, :]
            pulls = weights * expit(-margins)
            value = float((weights * np.logaddexp(0.0, -margins)).sum())
            return value, pulls.sum(axis=0) - pulls.sum(axis=1)

        found = minimize(
            value_and_gradient,
            np.zeros_like(policy),
            jac=True,
            method="BFGS",
            options={"gtol": 1e-9},
        )
        logits = policy + found.x / BETA
        policy = logits - np.logaddexp.reduce(logits)
    return policy


def seconds_of(solver: Solver, start: TabularPolicy, data: TabularPolicy) -> tuple[float, Vector]:
    """Play all games at once.

    Parameters
    ----------
    solver : Solver
        :func:`exact` or :func:`minimiser`.
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data of X games.

    Returns
    -------
    float
        Wall time, in seconds.
    ndarray, shape (X, Y)
        Probabilities of the last iterates.
    """
    begun = time.perf_counter()
    game = play(start, data, beta=BETA, iterations=ITERATIONS, solver=solver)
    return time.perf_counter() - begun, game.policies[-1].probs.numpy()


def measure() -> list[tuple[str, str, str, bool]]:
    """Measure the games.

    Returns
    -------
    list of tuple
        Claim, target, what was measured, and whether the target is met.
    """
    start, data = (
        TabularPolicy.random(GAMES, RESPONSES, seed=seed, smallest=1e-4) for seed in (0, 1)
    )
    begun = time.perf_counter()
    looped = np.exp(
        [
            scipy_game(start.log_probs[row].numpy(), data.log_probs[row].numpy())
            for row in range(LOOPED)
        ]
    )
    each = (time.perf_counter() - begun) / LOOPED
    lines = []
    for solver, name in ((exact, "closed form"), (minimiser, "Newton")):
        taken, probs = seconds_of(solver, start, data)
        claim = f"{GAMES:,} games of {ITERATIONS} iterations, {name}"
        lines.append((claim, "5 s", f"{taken:.2f} s", taken <= 5))
        ratio = each * GAMES / taken
        lines.append(
            (
                f"scipy's loop ({1e3 * each:.0f} ms a game) over it",
                "100x",
                f"{ratio:.0f}x",
                ratio >= 100,
            )
        )
        distance = float(np.abs(probs[:LOOPED] - looped).sum(axis=1).max() / 2)
        lines.append(
            (
                "the same answers: TV of the last iterates",
                "1e-6",
                f"{distance:.1e}",
                distance <= 1e-6,
            )
        )
    return lines


def main() -> None:
    """Print the lines."""
    torch.set_num_threads(2)
    for claim, target, measured, met in measure():
        print(f"{claim:<52} {target:>9} {measured:>11}  {'pass' if met else 'MISS'}")


if __name__ == "__main__":
    main()

"""Inexact games: ten thousand at once against a loop in numpy, and a large phase diagram."""

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray

from spin_theory import GradientSteps, TabularPolicy, phase_diagram, play

GAMES, RESPONSES, ITERATIONS, STEPS, BETA, RATE = 10_000, 8, 20, 100, 2.0, 1.0
LOOPED = 10
"""Games that the loop plays; it is as slow for each of the others."""
SIDE, MOST_STEPS = 40, 300

Vector = NDArray[np.float64]


def numpy_game(start: Vector, data: Vector) -> Vector:
    """Play one game with numpy, step by step.

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
        logits = policy
        for _ in range(STEPS):
            scores = BETA * (logits - policy)
            pulls = weights / (1 + np.exp(scores[:, None] - scores[None, :]))
            logits = logits + RATE * BETA * (pulls.sum(axis=1) - pulls.sum(axis=0))
        policy = logits - np.logaddexp.reduce(logits)
    return policy


def measure() -> list[tuple[str, str, str, bool]]:
    """Measure the games and the diagram.

    Returns
    -------
    list of tuple
        Claim, target, what was measured, and whether the target is met.
    """
    start, data = (
        TabularPolicy.random(GAMES, RESPONSES, seed=seed, smallest=1e-4) for seed in (0, 1)
    )
    rows = list(zip(start.log_probs.numpy(), data.log_probs.numpy(), strict=True))[:LOOPED]
    begun = time.perf_counter()
    looped = np.exp([numpy_game(*row) for row in rows])
    each = (time.perf_counter() - begun) / LOOPED
    begun, busy = time.perf_counter(), time.process_time()
    solver = GradientSteps(STEPS, RATE)
    game = play(start, data, beta=BETA, iterations=ITERATIONS, solver=solver)
    taken, busy = time.perf_counter() - begun, time.process_time() - busy
    probs = game.policies[-1].probs.numpy()[:LOOPED]
    distance = float(np.abs(probs - looped).sum(axis=1).max() / 2)
    ratio = each * GAMES / taken
    begun, busy_drawing = time.perf_counter(), time.process_time()
    phase_diagram(
        betas=np.geomspace(0.1, 5, SIDE).tolist(),
        inner_steps=[int(steps) for steps in np.geomspace(1, MOST_STEPS, SIDE).round()],
    )
    drawn, busy_drawing = time.perf_counter() - begun, time.process_time() - busy_drawing
    name = f"{GAMES:,} games of {ITERATIONS} iterations of {STEPS} steps"
    loop = f"numpy's loop ({1e3 * each:.0f} ms a game) over it"
    same = "the same answers: TV of the last iterates"
    diagram = f"phase diagram of {SIDE} x {SIDE} cells, up to {MOST_STEPS} steps"
    return [
        (name, "20 s", f"{taken:.1f} s", taken <= 20),
        ("the same in seconds of processor time", "40 s", f"{busy:.1f} s", busy <= 40),
        (loop, "20x", f"{ratio:.0f}x", ratio >= 20),
        (same, "1e-10", f"{distance:.1e}", distance <= 1e-10),
        (diagram, "60 s", f"{drawn:.1f} s", drawn <= 60),
        ("the same", "120 s", f"{busy_drawing:.1f} s", busy_drawing <= 120),
    ]


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads that compute (default: 2)")
    torch.set_num_threads(parser.parse_args().threads)
    for claim, target, measured, met in measure():
        print(f"{claim:<62} {target:>9} {measured:>11}  {'pass' if met else 'MISS'}")


if __name__ == "__main__":
    main()

"""Section 6.3 of SPIN, and T-SPIN's 25 % of the samples, on tables.

``python -m benchmarks.finite_game --write`` plays 64 games of 8 responses, as `spin-theory phase`
draws them, and writes the two tables into docs/theory.md; without ``--write`` it prints them.
"""

import argparse
from typing import Any

import torch

from benchmarks.pages import DOCS, write_between
from spin_theory import GradientSteps, InnerProblem, TabularPolicy, play, tv, without_reference
from spin_theory.claims.rows import as_markdown
from spin_theory.games.finite import play_rows

GAMES, RESPONSES, SMALLEST = 64, 8, 1e-3
ITERATIONS, STEPS = 20, 100  # of the exact objective, gradient descent at learning rate 1
ROWS = 800  # 50k of the paper's rows; 14k and 26k are 224 and 416
RULES: dict[str, Any] = {"epochs": 2, "batch_size": 32, "learning_rate": 1.0}


def tables() -> tuple[TabularPolicy, TabularPolicy]:
    """Draw p_0 and p_data."""
    start, data = (
        TabularPolicy.random(GAMES, RESPONSES, seed=seed, smallest=SMALLEST) for seed in (0, 1)
    )
    return start, data


def exact_games() -> list[tuple[str, ...]]:
    """Compare iterations with epochs of one opponent at equal steps, without sampling noise."""
    start, data = tables()
    solver = GradientSteps(steps=STEPS, learning_rate=1.0)
    rows: list[tuple[str, ...]] = [
        ("beta", "20 iterations", "one opponent, at best", "one opponent, at the end")
    ]
    for beta in (5.0, 1.0, 0.1):
        iterated = play(start, data, beta=beta, iterations=ITERATIONS, solver=solver).tv[-1]
        problem = InnerProblem(data=data, sampler=start, reference=start, beta=beta)
        policy, distances = start, []
        for _ in range(ITERATIONS):
            policy = solver(problem, start=policy, generator=torch.Generator())
            distances.append(float(tv(data, policy).mean()))
        shown = (float(iterated), min(distances), distances[-1])
        rows.append((f"{beta:g}", *(f"{number:.4f}" for number in shown)))
    return rows


def finite_games() -> list[tuple[str, ...]]:
    """Compare training sizes, epochs and algorithms on rows that were drawn once."""
    start, data = tables()
    tspin: dict[str, Any] = {"opponent": without_reference, "history_weight": 0.1}
    plays: list[tuple[str, int, int, dict[str, Any]]] = [
        ("SPIN, beta 1", ROWS, 6, {}),
        ("SPIN, beta 1", 416, 6, {}),
        ("SPIN, beta 1", 224, 6, {}),
        ("SPIN, beta 1, one opponent", ROWS, 1, {"epochs": 12}),
        ("SPIN, beta 0.1", ROWS, 6, {"beta": 0.1, "learning_rate": 10.0}),
        ("T-SPIN, beta 1", ROWS, 6, tspin),
        ("T-SPIN, beta 1", ROWS // 4, 6, tspin),
        ("T-SPIN, beta 1, 4 times the epochs", ROWS // 4, 6, tspin | {"epochs": 8}),
    ]
    titles = ("game", "rows", "KL to rows", "KL to data", "its SFT control: to rows", "to data")
    lines: list[tuple[str, ...]] = [titles]
    for name, rows, iterations, changes in plays:
        game = play_rows(
            start, data, rows=rows, iterations=iterations, **{"beta": 1.0, **RULES, **changes}
        )
        numbers = [
            track[-1] for one in (game.spin, game.control) for track in (one.train_kl, one.kl)
        ]
        lines.append((name, str(rows), *(f"{number:.4f}" for number in numbers)))
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into theory.md")
    options = parser.parse_args()
    for mark, table in (("finite-game", finite_games()), ("exact-game", exact_games())):
        print(as_markdown(table))
        if options.write:
            write_between(DOCS / "theory.md", mark, as_markdown(table))


if __name__ == "__main__":
    main()

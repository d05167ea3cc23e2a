"""What `spin-theory play` and `spin-theory phase` print, as rows and as text."""

import math
from collections.abc import Sequence

from torch import Tensor

from spin_theory.claims.rows import as_text
from spin_theory.games.phase import PhaseDiagram
from spin_theory.games.play import Game
from spin_theory.games.rates import effective_beta
from spin_theory.losses import PENALTIES

__all__ = ["game_rows", "game_table", "phase_cells", "phase_table", "stalled"]


def game_rows(game: Game, loss_type: str, algorithm: str) -> list[dict[str, float | None]]:
    """Make one row per iterate, with its distances and its effective beta.

    Parameters
    ----------
    game : Game
        Any.
    loss_type, algorithm : str
        The penalty, and `spin` or `tspin`: effective betas are SPIN's.

    Returns
    -------
    list of dict
        As `--json` prints them.
    """
    has_multiplier = PENALTIES[loss_type].exponent is not None
    rows: list[dict[str, float | None]] = []
    for iteration, policy in enumerate(game.policies):
        row: dict[str, float | None] = {
            "iteration": iteration,
            "beta": game.betas[iteration - 1] if iteration else None,
            "effective_beta": None,
            "kl": float(game.kl[iteration]),
            "tv": float(game.tv[iteration]),
        }
        if iteration and has_multiplier and algorithm == "spin":
            before = game.policies[iteration - 1]
            found = effective_beta(before, policy, game.data, loss_type=loss_type)
            mean = float(found.mean())
            row["effective_beta"] = mean if math.isfinite(mean) else None
        rows.append(row)
    return rows


def game_table(rows: Sequence[dict[str, float | None]]) -> str:
    """Lay the rows of a game out as text.

    Parameters
    ----------
    rows : sequence of dict
        Of :func:`game_rows`.

    Returns
    -------
    str
        Aligned columns.
    """

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = [("iteration", "beta", "effective beta", "KL(data || policy)", "TV")]
    lines += [
        (
            cell(row["iteration"], "d"),
            cell(row["beta"], ".4g"),
            cell(row["effective_beta"], ".4g"),
            cell(row["kl"], ".6g"),
            cell(row["tv"], ".3e"),
        )
        for row in rows
    ]
    return as_text(lines)


def phase_cells(diagram: PhaseDiagram) -> list[dict[str, float | None]]:
    """Make one row per cell of a diagram.

    Parameters
    ----------
    diagram : PhaseDiagram
        Any.

    Returns
    -------
    list of dict
        As `--json` prints them.
    """
    return [
        {
            "beta": beta,
            "inner_steps": steps,
            "change": float(diagram.change[row, column]),
            "diverged": float(diagram.diverged[row, column]),
            "stalled": 0.0 if diagram.stalled is None else float(diagram.stalled[row, column]),
        }
        for row, beta in enumerate(diagram.betas)
        for column, steps in enumerate(diagram.inner_steps)
    ]


def stalled(diagram: PhaseDiagram) -> Tensor:
    """Mark cells whose games ended nearer to the data, and do not count as approaching them.

    Parameters
    ----------
    diagram : PhaseDiagram
        Any.

    Returns
    -------
    Tensor, shape (betas, inner steps), bool
        True for a cell that the table marks.
    """
    return (diagram.change < 0) & ~diagram.approaches


def phase_table(diagram: PhaseDiagram) -> str:
    """Lay the changes of a diagram out as text, with a mark on stalled cells.

    Parameters
    ----------
    diagram : PhaseDiagram
        Any.

    Returns
    -------
    str
        Aligned columns.
    """
    names = ["exact" if steps is None else str(steps) for steps in diagram.inner_steps]
    marks = stalled(diagram)
    rows = [("beta \\ inner steps", *names)]
    for row, beta in enumerate(diagram.betas):
        values = zip(diagram.change[row].tolist(), marks[row].tolist(), strict=True)
        rows.append((f"{beta:.4g}", *(f"{value:+.2f}{'*' * mark}" for value, mark in values)))
    return as_text(rows)

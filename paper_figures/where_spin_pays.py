"""Where SPIN ends nearer to the data than continued SFT does: on tables, hardly anywhere.

64 games of 8 responses on rows that are drawn once, as in `finite_play`. Both train on the same
rows in the same order for as many steps. SPIN's learning rate is scaled so that its first step is
SFT's in expectation, so beta decides only what it adds.
"""

import math
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.stats import t as student

from benchmarks.finite_game import RULES, tables
from paper_figures.style import panels
from spin_theory import kl
from spin_theory.games.finite import play_rows
from spin_theory.losses import penalty_slope

__all__ = ["Cell", "Numbers", "compute", "draw"]

BETAS = (0.1, 0.5, 1.0, 2.0, 5.0)
ROWS = (16, 64, 256, 800)
RATES = (0.25, 1.0)
"""Learning rates of SFT on the logits of a prompt."""
CONFIDENCE = 0.95
COLOURS, REACH = "RdBu_r", 1.0
"""Blue where SPIN is nearer to the data, red where SFT is; decades to the full colour."""


@dataclass(frozen=True)
class Cell:
    """KL of SPIN over KL of its control: geometric mean over games, and its interval."""

    ratio: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.low <= 1.0 <= self.high


@dataclass(frozen=True)
class Numbers:
    """What is drawn: by learning rate, a row of cells per beta, a cell per number of rows."""

    betas: tuple[float, ...]
    rows: tuple[int, ...]
    cells: dict[float, tuple[tuple[Cell, ...], ...]]


def compute(
    *,
    betas: tuple[float, ...] = BETAS,
    rows: tuple[int, ...] = ROWS,
    rates: tuple[float, ...] = RATES,
    iterations: int = 6,
    seed: int = 0,
) -> Numbers:
    """Play each cell's games and their controls.

    Parameters
    ----------
    betas : tuple of float
        Of SPIN.
    rows : tuple of int
        Real responses per game.
    rates : tuple of float
        Learning rates of the control.
    iterations : int
        Of two epochs each.
    seed : int
        Of rows, samples and orders.

    Returns
    -------
    Numbers
        Ratios without unit.
    """
    return Numbers(
        betas,
        rows,
        {
            rate: tuple(
                tuple(_cell(beta, count, rate, iterations, seed) for count in rows)
                for beta in betas
            )
            for rate in rates
        },
    )


def _cell(beta: float, rows: int, rate: float, iterations: int, seed: int) -> Cell:
    """Compare the ends of 64 games with those of their controls, game by game."""
    start, data = tables()
    scale = -beta * penalty_slope("logistic")  # of the control's learning rate in `play_rows`
    rules = RULES | {"learning_rate": rate / scale}
    game = play_rows(start, data, rows=rows, beta=beta, iterations=iterations, seed=seed, **rules)
    spin, control = (kl(data, track.policies[-1]) for track in (game.spin, game.control))
    logs = (spin / control).log()
    error = float(logs.std()) / math.sqrt(len(logs))
    half = error * float(student.ppf((1 + CONFIDENCE) / 2, len(logs) - 1))
    mean = float(logs.mean())
    return Cell(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def draw(numbers: Numbers) -> Figure:
    """Draw the ratio of each cell.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        A panel per learning rate. Ratios in brackets may be 1: their interval holds it.
    """
    norm = Normalize(-REACH, REACH)
    titles = [f"learning rate of SFT {rate:g}" for rate in numbers.cells]
    with panels(*titles, height=2.5, sharey=True) as (figure, row):
        for axes, cells in zip(row, numbers.cells.values(), strict=True):
            _draw_cells(axes, cells, norm)
            axes.set_xticks(range(len(numbers.rows)), [str(count) for count in numbers.rows])
            axes.set_yticks(range(len(numbers.betas)), [f"{beta:g}" for beta in numbers.betas])
            axes.set_xlabel("rows per game")
        row[0].set_ylabel(r"$\beta$")
        colours = ScalarMappable(norm, COLOURS)
        bar = figure.colorbar(colours, ax=list(row), ticks=[-1, 0, 1], extend="both")
        bar.ax.set_yticklabels(["0.1", "1", "10"])
        bar.set_label("KL after SPIN over KL after SFT")
    return figure


def _draw_cells(axes: Axes, cells: tuple[tuple[Cell, ...], ...], norm: Normalize) -> None:
    axes.grid(visible=False)
    axes.imshow(
        [[math.log10(cell.ratio) for cell in line] for line in cells],
        cmap=COLOURS,
        norm=norm,
        origin="lower",
        aspect="auto",
    )
    for height, line in enumerate(cells):
        for place, cell in enumerate(line):
            number = f"{cell.ratio:.2f}" if cell.ratio < 9.5 else f"{cell.ratio:.0f}"
            text = number if cell.decided else f"({number})"
            dark = abs(math.log10(cell.ratio)) > 0.7 * REACH
            colour = "white" if dark else "black"
            axes.text(place, height, text, color=colour, fontsize=7, ha="center", va="center")

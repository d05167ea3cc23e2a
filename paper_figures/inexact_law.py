"""Why the published beta works: a few gradient steps do not solve the iteration.

Near the data each eigenvalue of the Fisher matrix has a multiplier, which beta, the rate and the
number of steps decide. The law is next to what one played iteration does to a small deviation,
and its boundaries are drawn over games from far starts.
"""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from paper_figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    panels,
)
from spin_theory import GradientSteps, TabularPolicy, phase_diagram, play
from spin_theory.games.inexact import fisher_eigenvalues, fisher_matrix, inexact_multiplier
from spin_theory.games.phase import MOST_STALLED, PhaseDiagram

__all__ = ["Curve", "Numbers", "compute", "draw"]

BETAS = (0.1, 0.3, 1.0, 2.0, 4.0)
LOOKS = tuple(zip((BLUE, GREEN, ORANGE, PURPLE, VERMILION), "osD^v", strict=True))
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
DATA = (0.5, 0.3, 0.15, 0.05)
SMALL = 1e-6
"""Nats of a deviation: its square, which the law leaves out, is lost in the drawn digits."""


@dataclass(frozen=True)
class Curve:
    """Multipliers of one beta by number of steps, of each eigenvalue: law and measurement."""

    beta: float
    law: tuple[tuple[float, ...], ...]
    """(K, Y - 1), eigenvalues rising."""
    measured: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Numbers:
    """What is drawn: multipliers near one table, and games on random tables."""

    steps: tuple[int, ...]
    curves: tuple[Curve, ...]
    diagram: PhaseDiagram
    boundaries: tuple[tuple[float, ...], ...]
    """By column of the diagram: betas where the law stops or begins to hold three games of four."""


def compute(
    *,
    steps: tuple[int, ...] = STEPS,
    games: int = 16,
    rows: int = 22,
    iterations: int = 10,
    learning_rate: float = 1.0,
    seed: int = 0,
) -> Numbers:
    """Measure multipliers, and play games at each beta and number of steps.

    Parameters
    ----------
    steps : tuple of int
        Gradient steps in an iteration.
    games, rows, iterations : int
        Games in each cell of the diagram, its betas, and the length of a game.
    learning_rate : float
        Of the steps, on logits.
    seed : int
        Of the games.

    Returns
    -------
    Numbers
        Multipliers without unit; changes in decades of total variation.
    """
    columns = (*steps, None)
    betas = torch.logspace(-1.3, 1, rows, dtype=torch.float64)
    diagram = phase_diagram(
        betas=betas.tolist(),
        inner_steps=columns,
        learning_rate=learning_rate,
        iterations=iterations,
        games=games,
        smallest=1e-2,
        seed=seed,
    )
    data = TabularPolicy.random(games, 8, seed=seed + 1, smallest=1e-2)  # as the diagram's own
    return Numbers(
        steps=steps,
        curves=tuple(_curve(beta, steps, learning_rate) for beta in BETAS),
        diagram=diagram,
        boundaries=tuple(_boundaries(data, count, learning_rate) for count in columns),
    )


def _curve(beta: float, steps: tuple[int, ...], rate: float) -> Curve:
    data = TabularPolicy.from_probs([DATA])
    _, vectors = torch.linalg.eigh(fisher_matrix(data)[0])
    vectors = vectors[:, 1:].T  # (Y - 1, Y), without that of constants
    rows = TabularPolicy(data.log_probs.expand_as(vectors))
    start = TabularPolicy.from_logits(data.log_probs + SMALL * vectors)
    eigenvalues = fisher_eigenvalues(data)[0]
    law, measured = [], []
    for count in steps:
        factors = inexact_multiplier(eigenvalues, beta=beta, steps=count, learning_rate=rate)
        law.append(tuple(factors.tolist()))
        game = play(start, rows, beta=beta, iterations=1, solver=GradientSteps(count, rate))
        left = game.policies[-1].log_probs - data.log_probs  # constants are orthogonal to vectors
        measured.append(tuple(((left * vectors).sum(-1) / SMALL).tolist()))
    return Curve(beta, tuple(law), tuple(measured))


def _boundaries(data: TabularPolicy, steps: int | None, rate: float) -> tuple[float, ...]:
    """Betas where the share of games that leave the data crosses that of `approaches`."""
    eigenvalues = fisher_eigenvalues(data)
    fine = torch.logspace(-1.3, 1, 461, dtype=torch.float64).tolist()
    held = []
    for beta in fine:
        factors = inexact_multiplier(eigenvalues, beta=beta, steps=steps, learning_rate=rate)
        leave = float((factors.abs().amax(dim=-1) >= 1).double().mean())
        held.append(leave < MOST_STALLED)
    return tuple(
        (low * high) ** 0.5
        for low, high, one, other in zip(fine, fine[1:], held, held[1:], strict=False)
        if one != other
    )


def draw(numbers: Numbers) -> Figure:
    """Draw the law with its measurements, and the phase diagram with its boundaries.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels by number of steps.
    """
    titles = ("lines: the law; marks: measured", "games, and the law's boundaries")
    with panels(*titles, height=2.8) as (figure, (left, right)):
        left.axhspan(-1, 1, color="#EEEEEE", linewidth=0)
        for curve, (colour, marker) in zip(numbers.curves, LOOKS, strict=True):
            law, measured = ([row[-1] for row in rows] for rows in (curve.law, curve.measured))
            left.plot(numbers.steps, law, color=colour)
            label = rf"$\beta = {curve.beta:g}$"
            left.plot(numbers.steps, measured, marker, color=colour, label=label)
        left.set_xscale("log", base=2)
        left.set(ylim=(-3.4, 2.2), xlabel="gradient steps $k$", ylabel="multiplier, largest $\\mu$")
        left.set_xticks(numbers.steps, [str(count) for count in numbers.steps])
        left.minorticks_off()
        left.legend(loc="lower left", ncols=2)
        _draw_diagram(figure, right, numbers)
    return figure


def _draw_diagram(figure: Figure, axes: Axes, numbers: Numbers) -> None:
    diagram = numbers.diagram
    shown = diagram.approaches | (diagram.change >= 0)
    axes.set_facecolor("0.75")
    axes.grid(visible=False)
    columns = range(len(diagram.inner_steps))
    reach = 3.0
    image = axes.pcolormesh(
        list(columns),
        diagram.betas,
        diagram.change.clamp(min=-reach).masked_fill(~shown, float("nan")).numpy(),
        cmap="RdBu_r",
        norm=TwoSlopeNorm(vmin=-reach, vcenter=0.0, vmax=0.5),
        shading="nearest",
        rasterized=True,
    )
    for column, betas in enumerate(numbers.boundaries):
        axes.hlines(betas, column - 0.5, column + 0.5, color="black", linewidth=1.4)
    axes.text((len(columns) - 2) / 2, 6, "a quarter or more stalled", ha="center", fontsize=7)
    names = ["exact" if count is None else str(count) for count in diagram.inner_steps]
    axes.set_xticks(list(columns), names)
    axes.set(yscale="log", xlabel="gradient steps $k$", ylabel=r"$\beta$")
    axes.axvline(len(columns) - 1.5, color=GREY, linewidth=0.8)
    bar = figure.colorbar(image, ax=axes, ticks=[-3, -2, -1, 0, 0.5], format="%+.2g")
    bar.set_label(r"$\log_{10}$ of last over first TV")

"""Distance to the data by iteration of exact self-play: beta decides whether it shrinks.

README's picture is
`python -m paper_figures kl_by_iteration --image docs/images/kl_by_iteration.png`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    panels,
)
from spin_theory import TabularPolicy, multiplier, play

ITERATIONS = 10
PUBLISHED = (0.1, 0.1, 0.1, 5.0)  # the betas of the published runs, four iterations
FLOOR = 1e-9  # nats; what is below (1e-30 and less: rounding) is drawn here


@dataclass(frozen=True)
class Curve:
    """One game: its beta, and the KL of the data to each iterate in nats."""

    beta: float
    kl: tuple[float, ...]


@dataclass(frozen=True)
class Numbers:
    """What is drawn: games at one beta each, and the published schedule."""

    converging: tuple[Curve, ...]
    not_converging: tuple[Curve, ...]
    published: tuple[float, ...]


def compute(*, prompts: int = 64, responses: int = 16, seed: int = 0) -> Numbers:
    """Play each game from the same start on the same data.

    Parameters
    ----------
    prompts, responses : int
        Size of the tables.
    seed : int
        Seed of the data; the start has the next one.

    Returns
    -------
    Numbers
        KL(p_data || p_t) in nats, averaged over prompts, for each game.
    """
    data, start = (
        TabularPolicy.random(prompts, responses, seed=s, smallest=1e-2) for s in (seed, seed + 1)
    )

    def curve(beta: float) -> Curve:
        return Curve(beta, _kl(start, data, beta, ITERATIONS))

    return Numbers(
        converging=tuple(curve(beta) for beta in (5.0, 2.0, 1.0, 0.6)),
        not_converging=tuple(curve(beta) for beta in (0.5, 0.45, 0.1)),
        published=_kl(start, data, PUBLISHED, len(PUBLISHED)),
    )


def _kl(
    start: TabularPolicy, data: TabularPolicy, beta: float | Sequence[float], iterations: int
) -> tuple[float, ...]:
    return tuple(play(start, data, beta=beta, iterations=iterations).kl.tolist())


def draw(numbers: Numbers) -> Figure:
    """Draw the games, those that converge next to those that do not.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels on a logarithmic KL axis.
    """
    titles = (
        r"$\beta > 1/2$: the log-ratio contracts",
        r"$\beta \leq 1/2$: it cycles or diverges",
    )
    with panels(*titles, height=2.6) as (figure, (left, right)):
        for curve, colour, marker in zip(
            numbers.converging, (SKY, BLUE, GREEN, ORANGE), "osD^", strict=True
        ):
            _line(left, curve, colour, marker)
        for curve, colour, marker in zip(
            numbers.not_converging, (GREY, VERMILION, PURPLE), "svP", strict=True
        ):
            _line(right, curve, colour, marker)
        right.plot(
            numbers.published,
            color="black",
            marker="*",
            linestyle="--",
            markersize=5,
            label="published: 0.1, 0.1, 0.1, 5",
        )
        left.set_ylabel(r"$\mathrm{KL}(p_{\mathrm{data}}\,\|\,p_t)$  [nats]")
        for axes in (left, right):
            axes.set(yscale="log", xlabel="iteration $t$", xticks=range(0, ITERATIONS + 1, 2))
        left.legend(loc="center", bbox_to_anchor=(0.45, 0.38))
        right.legend(loc="upper left")
        left.set_ylim(FLOOR / 30, None)
        left.axhspan(FLOOR / 30, FLOOR, color="#EEEEEE", linewidth=0)
        left.text(
            ITERATIONS,
            FLOOR / 3,
            "the data, up to rounding",
            color=GREY,
            fontsize=6.5,
            ha="right",
            va="top",
        )
    return figure


def _line(axes: Axes, curve: Curve, colour: str, marker: str) -> None:
    factor = multiplier(beta=curve.beta)
    kl = [value if value > FLOOR else FLOOR for value in curve.kl]
    label = rf"$\beta = {curve.beta:g}$,  $m = {factor:.3g}$"
    axes.plot(kl, color=colour, marker=marker, label=label)

"""The same games at several settings, side by side: a cobweb and a simplex for each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spin_theory.games.play import Game, play
from spin_theory.games.solvers import GradientSteps, Solver
from spin_theory.games.stability import linearise
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimiser
from spin_theory.plots.panels import put_cobweb, put_field, put_orbits, put_triangle
from spin_theory.plots.style import style
from spin_theory.policies import TabularPolicy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Setting", "draw_settings"]

ITERATIONS = 12
ARROWS = 10
HALVES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Setting:
    """How each iteration of a game is played.

    Attributes
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit.
    inner_steps : int or None, default None
        Steps of gradient descent per iteration; None solves it.
    learning_rate : float, default 1.0
        Of these steps, > 0.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.

    Examples
    --------
    >>> data, half = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.8, 0.5))
    >>> round(Setting(beta=0.1).multiplier(data), 6)
    -9.0
    >>> len(Setting(beta=0.1, inner_steps=10).play(half, data).policies)
    13
    """

    beta: float
    inner_steps: int | None = None
    learning_rate: float = 1.0
    sft_weight: float = 0.0

    @property
    def solver(self) -> Solver:
        """Gradient descent, or what solves an iteration exactly.

        Returns
        -------
        Solver
            For `play` and `linearise`.
        """
        if self.inner_steps is not None:
            return GradientSteps(steps=self.inner_steps, learning_rate=self.learning_rate)
        return minimiser if self.sft_weight else exact

    def play(
        self, start: TabularPolicy, data: TabularPolicy, *, iterations: int = ITERATIONS
    ) -> Game:
        """Play a game.

        Parameters
        ----------
        start, data : TabularPolicy, shape (X, Y)
            p_0 and p_data.
        iterations : int, default 12
            How many, at least 0.

        Returns
        -------
        Game
            All iterates.
        """
        return play(
            start,
            data,
            beta=self.beta,
            iterations=iterations,
            solver=self.solver,
            sft_weight=self.sft_weight,
        )

    def multiplier(self, data: TabularPolicy) -> float:
        """Differentiate an iteration at the data.

        Parameters
        ----------
        data : TabularPolicy, shape (1, Y)
            p_data.

        Returns
        -------
        float
            What the direction that changes most is multiplied by, with its sign, no unit. The
            game settles at the data, from near enough, where it is inside of (-1, 1).
        """
        found = linearise(
            [data, data],
            data,
            beta=self.beta,
            sft_weight=self.sft_weight,
            solver=self.solver,
        )
        return float(found.multipliers[0].real)

    def __str__(self) -> str:
        """Say it in words.

        Returns
        -------
        str
            Such as 'beta 0.1, SFT 0.1, 100 steps of 1'.
        """
        weight = f", SFT {self.sft_weight:g}" if self.sft_weight else ""
        steps = "solved"
        if self.inner_steps is not None:
            steps = f"{self.inner_steps} steps of {self.learning_rate:g}"
        return f"beta {self.beta:g}{weight}, {steps}"


def draw_settings(
    *settings: Setting,
    two: tuple[TabularPolicy, TabularPolicy],
    three: tuple[TabularPolicy, TabularPolicy],
) -> "Figure":
    """Draw how games go at each setting.

    Parameters
    ----------
    *settings : Setting
        One column each; a single one stands side by side.
    two, three : tuple of TabularPolicy, shapes (1, 2) and (1, 3)
        p_0 and p_data of a game over two responses, drawn as a cobweb, and over three, drawn on
        the simplex with an arrow for each policy. The darker an arrow, the further an iteration
        goes.

    Returns
    -------
    Figure
        Titles name the setting and the multiplier at the data.

    Raises
    ------
    ValueError
        If tables have other shapes, there is no setting, or a policy of the picture leaves
        float64.
    """
    from spin_theory.plots.shown import ShownFigure

    if not settings:
        raise ValueError("settings must be at least one")
    columns = len(settings)
    single = columns == 1
    with style():
        figure = ShownFigure(
            figsize=(5.4, 3.4) if single else (1.95 * columns, 4.4), layout="constrained"
        )
        shape = (1, 2) if single else (2, columns)
        axes = figure.subplots(*shape, squeeze=False)
        for column, setting in enumerate(settings):
            over_two, over_three = axes[0] if single else axes[:, column]
            over_two.set_aspect("equal")
            put_cobweb(over_two, setting.play(*two), loss_type="logistic", solver=setting.solver)
            scales, _, steps = str(setting).rpartition(", ")
            m = setting.multiplier(two[1])
            over_two.set_title(f"{scales}\n{steps}\nm = {m:.3g}")
            over_two.set(xticks=HALVES, yticks=HALVES)
            if column:
                over_two.set_ylabel("")
            put_triangle(over_three)
            put_field(
                over_three,
                three[1],
                arrows=ARROWS,
                beta=setting.beta,
                loss_type="logistic",
                sft_weight=setting.sft_weight,
                solver=setting.solver,
            )
            put_orbits(over_three, [setting.play(*three)], [""])
            over_three.set_title(f"m = {setting.multiplier(three[1]):.3g}")
    return figure

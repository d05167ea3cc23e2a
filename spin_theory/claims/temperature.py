"""A claim about SPIN whose opponent samples at a temperature."""

from functools import partial

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, errors_of_powers, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import tv
from spin_theory.games.opponents import tempered_samples
from spin_theory.games.play import play
from spin_theory.games.solvers import Solver
from spin_theory.games.temperature import tempered_limit, tempered_multiplier
from spin_theory.minima.closed_forms import exact
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING

__all__ = ["CLAIMS", "check_tempered_play"]


def check_tempered_play(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    temperature: float,
    iterations: int = 3,
    loss_type: str = "logistic",
    solver: Solver = exact,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check where SPIN rests when its opponent samples at a temperature, and how it goes there.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    temperature : float
        T of the samples, > 0, no unit.
    iterations : int, default 3
        Number of iterations to play.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    solver : Solver, default exact
        The solver that is claimed to solve an iteration.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest total variation distance of played and predicted iterates, divided
        by what the multiplier makes of rounding, and of the limit from what follows it.
        `multiplier` is that of the log-ratio to the limit.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Notes
    -----
    :math:`p_t \propto q (p_0/q)^{m^t}` with :math:`q \propto p_{data}^T` and m = 1 - 1/(T beta).

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_tempered_play(start, data, beta=0.5, temperature=0.7).holds
    True
    """
    limit = tempered_limit(data, temperature=temperature)
    m = tempered_multiplier(temperature=temperature, beta=beta, loss_type=loss_type)
    rules = {
        "beta": beta,
        "loss_type": loss_type,
        "solver": solver,
        "opponent": partial(tempered_samples, temperature=temperature),
    }
    game = play(start, data, iterations=iterations, **rules)  # type: ignore[arg-type]
    at_rest = play(limit, data, iterations=1, **rules)  # type: ignore[arg-type]
    amplified = max(1.0, abs(m))
    times = range(len(game.policies))
    errors = errors_of_powers(
        game.policies,
        start,
        limit,
        powers=[m**t for t in times],
        scales=[amplified**t for t in times],
    )
    errors.append(float(tv(at_rest.policies[1], limit).max()) / amplified)
    return Evidence(largest_error(errors), tolerance, {"multiplier": m})


def _temperature(draw: Draw) -> float:
    return 0.5 + draw.instance.seed % 7 / 4  # from 0.5 to 2


CLAIMS = (
    Claim(
        name="samples at a temperature, {loss_type}",
        statement="Sampled at temperature T, exact SPIN rests at `p_data^T`, normalised, and the "
        "log-ratio to it is multiplied by `1 - 1 / (T beta)`; exponential: `1 - 1 / (2 T beta)`.",
        source="derived",
        function=check_tempered_play,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_tempered_play(
            draw.opponent,
            draw.data,
            beta=draw.beta,
            temperature=_temperature(draw),
            loss_type=loss_type,
        ),
        loss_types=("logistic", "exponential"),
    ),
)

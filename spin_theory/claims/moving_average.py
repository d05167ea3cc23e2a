"""SPIN against a moving average of its iterates, as SAPO's opponent is."""

from functools import partial

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, errors_of_powers, largest_error
from spin_theory.divergences import hilbert
from spin_theory.games.opponents import moving_average
from spin_theory.games.play import play
from spin_theory.games.solvers import Solver
from spin_theory.minima.closed_forms import exact
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import LINEAR_GAME, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_moving_average", "check_moving_average_of_probs"]


def check_moving_average(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    decay: float,
    iterations: int = 3,
    solver: Solver = exact,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check exact logistic SPIN against an exponential moving average of log-probs.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    decay : float
        Part d of the last average that is kept, in [0, 1), no unit.
    iterations : int, default 3
        Number of iterations to play.
    solver : Solver, default exact
        The solver that is claimed to solve an iteration.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest total variation distance of an opponent and the predicted one,
        divided by what the multiplier makes of rounding. `multiplier` is that of the opponent's
        log-ratio to the data.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Notes
    -----
    The next policy has :math:`1 - 1/\lambda` times the average's log-ratio to the data, and the
    next average d of the old one and 1 - d of that: :math:`1 - (1 - d)/\lambda` in all, at any
    distance. So it settles for :math:`\lambda > (1 - d)/2`.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> evidence = check_moving_average(start, data, beta=0.1, decay=0.9)
    >>> evidence.holds, round(evidence.numbers["multiplier"], 6)
    (True, 0.0)
    """
    rule = partial(moving_average, decay=decay)
    game = play(start, data, beta=beta, iterations=iterations, solver=solver, opponent=rule)
    multiplier = 1 - (1 - decay) / beta
    amplified = 1 + (1 + decay) / beta
    times = range(iterations + 1)
    errors = errors_of_powers(
        [rule(game.policies[: t + 1]).sampler for t in times],
        start,
        data,
        powers=[multiplier**t for t in times],
        scales=[amplified**t for t in times],
    )
    return Evidence(largest_error(errors), tolerance, {"multiplier": multiplier})


def check_moving_average_of_probs(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    decay: float,
    solver: Solver = exact,
    tolerance: float = LINEAR_GAME,
) -> Evidence:
    r"""Check that an average of probabilities has the same multiplier near the data.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        Direction of the deviation, and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    decay : float
        Part d of the last average that is kept, in [0, 1), no unit.
    solver : Solver, default exact
        The solver that is claimed to solve an iteration.
    tolerance : float, default 1e-5
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: error of the opponent's log-ratio to the data after one iteration, in Hilbert's
        metric, relative to the first one and to what the iteration makes of it.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Notes
    -----
    To first order the log of an average is the average of the logs.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_moving_average_of_probs(start, data, beta=0.5, decay=0.8).holds
    True
    """
    deviation = start.log_probs - data.log_probs
    size = deviation.amax(-1, keepdim=True) - deviation.amin(-1, keepdim=True)
    amplified = 1 + 1 / beta
    nearby = NEARBY * deviation / (size * amplified)
    near = TabularPolicy.from_logits(data.log_probs + nearby)
    rule = partial(moving_average, decay=decay, of="probs")
    game = play(near, data, beta=beta, iterations=1, solver=solver, opponent=rule)
    multiplier = 1 - (1 - decay) / beta
    predicted = TabularPolicy.from_logits(data.log_probs + multiplier * nearby)
    apart = hilbert(rule(game.policies).sampler, predicted)
    return Evidence(float(apart.max()) / NEARBY, tolerance, {"multiplier": multiplier})


NEARBY = 1e-7
"""Of a deviation in nats, after the iteration: its square is what the linear law leaves out."""

DECAYS = (0.5, 0.9, 0.99, 0.0)


CLAIMS = (
    Claim(
        name="moving average of log-probs",
        statement="Against an exponential moving average of log-probs that keeps a part d, exact "
        "SPIN multiplies the average's log-ratio to the data by `1 - (1 - d) / beta`, at any "
        "distance. It settles if beta is above `(1 - d) / 2`.",
        source="SAPO, derived",
        function=check_moving_average,
        tolerance=SUMS,
        check=lambda draw, *_: check_moving_average(
            draw.opponent, draw.data, beta=draw.beta, decay=DECAYS[draw.instance.seed % 4]
        ),
    ),
    Claim(
        name="moving average of probabilities",
        statement="A moving average of probabilities has the same multiplier near the data.",
        source="SAPO, derived",
        function=check_moving_average_of_probs,
        tolerance=LINEAR_GAME,
        check=lambda draw, *_: check_moving_average_of_probs(
            draw.small_start, draw.small_data, beta=draw.beta, decay=DECAYS[draw.instance.seed % 4]
        ),
    ),
)

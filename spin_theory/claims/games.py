"""Claims about whole games, iteration after iteration."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, errors_of_powers, largest_error
from spin_theory.claims.nearby import deviations, excess, near, next_iterate
from spin_theory.divergences import tv
from spin_theory.games.iterates import observed_multipliers
from spin_theory.games.opponents import (
    average_of_iterates,
    geometric_mixture,
    mixed_samples,
)
from spin_theory.games.play import Game, play
from spin_theory.games.rates import mixing_multipliers, multiplier, predicted_policy
from spin_theory.games.solvers import Solver
from spin_theory.games.stability import linearise
from spin_theory.inputs import numbers, whole
from spin_theory.minima.closed_forms import exact
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import LINEAR_GAME, ROUNDING, SUMS

__all__ = [
    "CLAIMS",
    "check_averaged_play",
    "check_geometric_mixture",
    "check_iterates",
    "check_mixing",
]

NEARBY = 1e-7  # nats from the data at which a game counts as linear; squared, it is rounding
LEAST_NEARBY = 1e-14  # nats: closer, a deviation is rounding
STATES = 3  # near the data from which an iteration is compared


def check_iterates(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    betas: Sequence[float],
    loss_type: str = "logistic",
    solver: Solver = exact,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the closed form of all iterates of SPIN, and the multiplier of each.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    betas : sequence of float
        The beta of each iteration, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    solver : Solver, default exact
        The solver that is claimed to solve an iteration.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest total variation distance over iterations and prompts of played
        and predicted iterate, divided by what the multipliers make of rounding: the largest
        product of consecutive ones so far, where that is above 1.

    Raises
    ------
    ValueError
        If shapes differ or a beta is not > 0.

    Notes
    -----
    :math:`p_t \propto p_{data} (p_0/p_{data})^{\prod_k m_k}`, m by :func:`multiplier`.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_iterates(start, data, betas=[0.4, 2.0, 5.0]).holds
    True
    """
    betas = numbers("betas", betas)
    game = play(start, data, beta=betas, iterations=len(betas), loss_type=loss_type, solver=solver)
    power, product, largest, errors = 1.0, 1.0, 1.0, []
    for iteration, policy in enumerate(game.policies):
        if iteration:
            factor = multiplier(beta=betas[iteration - 1], loss_type=loss_type)
            power *= factor
            product = max(1.0, product * abs(factor))  # rounding of an iteration is amplified too
            largest = max(largest, product)
        predicted = predicted_policy(start, data, betas=betas[:iteration], loss_type=loss_type)
        errors.append(float(tv(policy, predicted).max()) / largest)
    return Evidence(largest_error(errors), tolerance, {"power": power})


def check_mixing(
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    seed: int = 0,
    tolerance: float = LINEAR_GAME,
) -> Evidence:
    r"""Check how SPIN behaves near the data with the samples of two iterates mixed.

    Parameters
    ----------
    data : TabularPolicy, shape (1, Y)
        p_data, Y >= 2.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    seed : int, default 0
        Seed of the direction in which the start differs from the data.
    tolerance : float, default 1e-5
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: relative error of the linearised map's spectral radius against
        :func:`mixing_multipliers`, and the error of the recurrence with these multipliers from
        some states near the data, relative to its terms. `observed` is the spectral radius that a
        fit to a short game gives.

    Raises
    ------
    ValueError
        If there is more than one prompt, only one response, or `beta` is not > 0.

    Examples
    --------
    >>> check_mixing(TabularPolicy.random(1, 5, seed=0, smallest=0.1), beta=1.0).holds
    True
    """
    predicted = max(abs(root) for root in mixing_multipliers(beta=beta, loss_type=loss_type))
    linear = linearise(
        [data] * 3, data, beta=beta, depth=2, loss_type=loss_type, opponent=mixed_samples
    )
    half = (1 - multiplier(beta=beta, loss_type=loss_type)) / 2  # 1/(2 beta)
    errors = [abs(linear.spectral_radius - predicted) / predicted]
    # The recurrence: new = (1 - half) old - half oldest, up to a constant per prompt.
    for shift in range(STATES):
        history = near(data, 2, seed + shift, NEARBY / max(1.0, half))
        after = next_iterate(history, data, beta, loss_type, mixed_samples)
        oldest, old, new = deviations([*history, after], data)
        terms = [(1 - half) * old, -half * oldest]
        errors.append(excess(new, terms))
    game = _game_nearby(data, beta, loss_type, seed, half)
    observed = abs(observed_multipliers(game.policies[1:], data, order=2)[0])
    numbers = {"predicted": predicted, "linearised": linear.spectral_radius, "observed": observed}
    return Evidence(largest_error(errors), tolerance, numbers)


def check_geometric_mixture(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    base_weight: float,
    iterations: int = 4,
    loss_type: str = "logistic",
    solver: Solver = exact,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the iterates against an opponent mixed geometrically with the initial policy.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    base_weight : float
        Weight w of p_0 in the opponent, in [0, 1], no unit.
    iterations : int, default 4
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
        Residual as in :func:`check_iterates`. `limit` is the power c of the fixed point
        :math:`p_{data} (p_0/p_{data})^c`, `multiplier` what deviations from it are multiplied by.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Notes
    -----
    The log-ratio to the data is :math:`a_t r_0` with :math:`a_{t+1} = m [(1 - w) a_t + w]`, so
    the multiplier is m (1 - w), the limit :math:`c = m w / [1 - m (1 - w)]`: a regulariser that
    steadies small beta, at a limit that is not the data unless m = 0 or w = 0.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_geometric_mixture(start, data, beta=0.5, base_weight=0.3).holds
    True
    """
    game = play(
        start,
        data,
        beta=beta,
        iterations=iterations,
        loss_type=loss_type,
        solver=solver,
        opponent=partial(geometric_mixture, base_weight=base_weight),
    )
    m = multiplier(beta=beta, loss_type=loss_type)
    powers = [1.0]
    for _ in game.policies[1:]:
        powers.append(m * ((1 - base_weight) * powers[-1] + base_weight))
    scales = accumulate(map(abs, powers), max)
    errors = errors_of_powers(game.policies, start, data, powers=powers, scales=scales)
    slope = m * (1 - base_weight)
    limit = m * base_weight / (1 - slope) if slope != 1 else math.nan
    return Evidence(largest_error(errors), tolerance, {"multiplier": slope, "limit": limit})


def check_averaged_play(
    data: TabularPolicy,
    *,
    beta: float,
    iterations: int = 8,
    loss_type: str = "logistic",
    seed: int = 0,
    tolerance: float = LINEAR_GAME,
) -> Evidence:
    r"""Check how fictitious play approaches the data, which it does at every beta.

    Parameters
    ----------
    data : TabularPolicy, shape (1, Y)
        p_data, Y >= 2.
    beta : float
        Pull towards the opponent, > 0, no unit.
    iterations : int, default 8
        Number of iterations to play.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    seed : int, default 0
        Seed of the direction in which the start differs from the data.
    tolerance : float, default 1e-5
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: error of each iteration's factor on the average's log-ratio, from iterates near
        the data, relative to its terms. `factor` is the product of these factors.

    Raises
    ------
    ValueError
        If `beta` is not > 0, `iterations` < 2, or there is only one response.

    Notes
    -----
    Near the data the average's log-ratio is multiplied by :math:`1 - \frac{1 - m}{t + 2}` in
    iteration t, m the multiplier of plain SPIN: in the end it falls like :math:`t^{-1/\beta}`,
    for every beta > 0, where plain SPIN needs beta > 1/2 and then falls geometrically.

    Examples
    --------
    >>> check_averaged_play(TabularPolicy.random(1, 5, seed=0, smallest=0.1), beta=0.3).holds
    True
    """
    iterations = whole("iterations", iterations, least=2)
    m = multiplier(beta=beta, loss_type=loss_type)
    errors, product = [], 1.0
    for played in range(1, iterations):
        history = near(data, played, seed, NEARBY / max(1.0, abs(m)))
        after = next_iterate(history, data, beta, loss_type, average_of_iterates)
        averages = [average_of_iterates(part).sampler for part in (history, [*history, after])]
        before, new = deviations(averages, data)
        errors.append(excess(new, [before, -(1 - m) / (played + 1) * before]))
        product *= 1 - (1 - m) / (played + 1)
    return Evidence(largest_error(errors), tolerance, {"factor": product})


def _game_nearby(data: TabularPolicy, beta: float, loss_type: str, seed: int, half: float) -> Game:
    """Play four iterations of mixing that stay near the data, as far as rounding lets them."""
    factors = [1.0, 1 - 2 * half]  # of the first deviation; at first there is no older iterate
    for _ in range(3):
        factors.append((1 - half) * factors[-1] - half * factors[-2])
    size = max(NEARBY / max(1.0, *map(abs, factors)), LEAST_NEARBY)
    (start,) = near(data, 1, seed, size)
    return play(start, data, beta=beta, iterations=4, loss_type=loss_type, opponent=mixed_samples)


CLAIMS = (
    Claim(
        name="iterates, {loss_type}",
        statement="After t exact iterations `p_t = p_data (p_0 / p_data)^(m_1 ... m_t)`, "
        "normalised, with `m = 1 - 1 / beta` for logistic and `m = 1 - 1 / (2 beta)` for "
        "exponential.",
        source="derived",
        function=check_iterates,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: check_iterates(
            draw.opponent, draw.data, betas=[draw.beta, 2 * draw.beta, 5.0], loss_type=loss_type
        ),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="mixed samples near the data",
        statement="With the samples of two iterates mixed, deviations from the data are multiplied "
        "by the roots of `r^2 - (1 - 1 / (2 beta)) r + 1 / (2 beta)`.",
        source="derived",
        function=check_mixing,
        tolerance=LINEAR_GAME,
        check=lambda draw, *_: check_mixing(draw.small_data, beta=draw.beta),
    ),
    Claim(
        name="geometric mixture",
        statement="Against a geometric mixture with `p_0` of weight w, deviations are multiplied "
        "by `(1 - 1 / beta) (1 - w)`, and the limit is not the data.",
        source="Alami et al., derived",
        function=check_geometric_mixture,
        tolerance=ROUNDING,
        check=lambda draw, *_: check_geometric_mixture(
            draw.opponent, draw.data, beta=draw.beta, base_weight=0.3
        ),
    ),
    Claim(
        name="fictitious play near the data",
        statement="Against the average of all iterates, the average's deviation from the data "
        "falls like `t^(-1 / beta)`, at every beta.",
        source="Alami et al., derived",
        function=check_averaged_play,
        tolerance=LINEAR_GAME,
        check=lambda draw, *_: check_averaged_play(draw.small_data, beta=draw.beta),
    ),
)

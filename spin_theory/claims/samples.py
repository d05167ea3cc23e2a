"""How many samples show something: the hardest tables, the meter's power, pairs for a distance."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.distance import pair_policies
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import js, tv
from spin_theory.games.samples import predicted_tv, samples_for
from spin_theory.games.sampling import SampledMinimiser
from spin_theory.games.solvers import Solver
from spin_theory.hardest import hardest_js
from spin_theory.meter import power
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, ROUNDING, STATIONARY

__all__ = [
    "CLAIMS",
    "check_hardest_js",
    "check_power",
    "check_sampled_minimiser",
    "check_samples_for",
]

PAIRS = 8
"""Of the power that is written out: 6,561 samples, in 15 times 15 groups."""


def check_hardest_js(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    least: Callable[[float], float] = hardest_js,
    tolerance: float = ROUNDING,
) -> Evidence:
    """Check that no tables at a total variation distance have a smaller JS(P, Q) than claimed.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t; each prompt is one case.
    least : callable, default hardest_js
        The claimed least JS(P, Q) in nats, from a total variation distance.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual in nats: how far JS(P, Q) is below it in any prompt, and how far it is from
        JS(P, Q) of the two responses that are claimed to reach it.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_hardest_js(data, opponent).holds
    True
    >>> check_hardest_js(data, opponent, least=lambda tv: tv * math.log(2)).holds
    False
    """
    require_same_shape(data=data, opponent=opponent)
    errors = []
    of_pairs = js(*pair_policies(data, opponent)).tolist()
    for distance, found in zip(tv(data, opponent).tolist(), of_pairs, strict=True):
        errors.append(least(distance) - found)
        half = min(distance, 0.999) / 2  # as far as a table without zeros goes
        one, other = (TabularPolicy.from_probs([[0.5 + h, 0.5 - h]]) for h in (half, -half))
        errors.append(abs(least(2 * half) - float(js(*pair_policies(one, other)))))
    return Evidence(largest_error(errors), tolerance)


def check_power(
    *,
    tv: float,
    confidence: float,
    claimed: Callable[..., float] = power,
    tolerance: float = ROUNDING,
) -> Evidence:
    """Check the meter's power on eight pairs against the sum over all samples.

    Parameters
    ----------
    tv : float
        Total variation distance, in [0, 1).
    confidence : float
        Of the meter's bound, in (0, 1).
    claimed : callable, default power
        The claimed power, which takes `tv`, `samples` and `confidence`.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the difference of the two probabilities; and `power`, the sum.

    Notes
    -----
    The meter is written out: every scale and clip on the first half, the capital of the second.

    Examples
    --------
    >>> check_power(tv=0.8, confidence=0.5).holds
    True
    """
    chance = {1: (1 + tv) ** 2 / 4, -1: (1 - tv) ** 2 / 4, 0: (1 - tv**2) / 2}
    halves: dict[tuple[int, ...], float] = defaultdict(float)
    for outcomes in itertools.product(chance, repeat=PAIRS // 2):
        halves[tuple(sorted(outcomes))] += math.prod(chance[outcome] for outcome in outcomes)
    level = math.log(1 / (1 - confidence))
    total = 0.0
    for tuning, share in halves.items():
        values, stake = _tuned(tuning, 2 * math.log((1 + tv) / (1 - tv)), level)
        gains = {outcome: math.log(1 + stake * value) for outcome, value in values.items()}
        total += share * sum(
            other
            for outcomes, other in halves.items()
            if sum(gains[outcome] for outcome in outcomes) > level
        )
    found = claimed(tv=tv, samples=PAIRS, confidence=confidence)
    return Evidence(abs(found - total), tolerance, {"power": total})


def _tuned(
    outcomes: tuple[int, ...], margin: float, level: float
) -> tuple[dict[int, float], float]:
    """Choose by the first half what a win, a loss and a tie are worth, and the stake."""
    count, best = len(outcomes), (-math.inf, {0: 0.0}, 0.0)
    numbers = {sign: outcomes.count(sign) for sign in (1, -1, 0)}
    for clip in (0.5, 1, 2, 4, 8):
        largest = 0.9 / math.log(1 + math.exp(clip))
        for exponent in range(-12, 7):
            scaled = min(2**exponent * margin, clip)
            values = {sign: math.log(2 / (1 + math.exp(-sign * scaled))) for sign in (1, -1)}
            values[0] = 0.0
            mean = sum(number * values[sign] for sign, number in numbers.items()) / count
            squares = (
                number * (values[sign] - mean) ** 2 for sign, number in numbers.items() if number
            )
            variance = sum(squares) / (count - 1)
            stake = largest
            if variance > 0:
                stake = min(largest, math.sqrt(2 * level / (count * variance)))
            promised = mean - level / (count * stake) - stake * variance / 2
            if promised >= best[0]:
                best = (promised, values, stake)
    return best[1], best[2]


def check_samples_for(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    distance: float,
    claimed: Callable[..., int] = samples_for,
    tolerance: float = ROUNDING,
) -> Evidence:
    """Check that a number of pairs is the fewest whose predicted distance is small enough.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (1, Y)
        p_t and p_data, of one prompt.
    beta : float
        Pull towards the opponent, > 0, no unit.
    distance : float
        Total variation distance asked for, > 0.
    claimed : callable, default samples_for
        The claimed number of pairs.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual, in total variation: how far the distance predicted for that many pairs is above
        the one asked for, or one pair less below it.

    Raises
    ------
    ValueError
        As :func:`samples_for`.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 3, seed=seed, smallest=0.2) for seed in (0, 1))
    >>> check_samples_for(opponent, data, beta=1.0, distance=0.01).holds
    True
    """
    pairs = claimed(opponent, data, tv=distance, beta=beta)
    scale = float(predicted_tv(opponent, data, beta=beta))
    above = scale / math.sqrt(pairs) - distance
    below = distance - scale / math.sqrt(pairs - 1) if pairs > 1 else 0.0
    return Evidence(largest_error([above, below]), tolerance, {"pairs": pairs})


def check_sampled_minimiser(
    problem: InnerProblem,
    *,
    pairs: int,
    seed: int,
    solver: Callable[[int], Solver] = SampledMinimiser,
    tolerance: float = STATIONARY,
) -> Evidence:
    """Check that a solver minimises the mean logistic loss of the pairs that it draws.

    Parameters
    ----------
    problem : InnerProblem
        Of one prompt, with the logistic penalty and without history.
    pairs : int
        How many are drawn, at least 1.
    seed : int
        Of the draw.
    solver : callable, default SampledMinimiser
        From a number of pairs to the solver that is claimed to minimise.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest entry of the gradient over the pairs, which are drawn here once
        more, in a policy's log-probs and relative to beta; 0 if the solver refuses pairs that
        have no minimum, infinity if it refuses others. `exists` is 1 or 0.

    Notes
    -----
    A minimum exists if no set of responses only wins, or only loses, against the rest: if each
    response reaches each other by wins, which is looked for by squaring the relation.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 3, seed=seed, smallest=0.2) for seed in (0, 1))
    >>> problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=0.5)
    >>> check_sampled_minimiser(problem, pairs=500, seed=0).holds
    True
    """
    responses = problem.data.log_probs.shape[1]
    joint = problem.data.probs[0, :, None] * problem.sampler.probs[0, None, :]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint.flatten(), pairs, replacement=True, generator=generator)
    real, generated = (drawn // responses).tolist(), (drawn % responses).tolist()
    reached = torch.eye(responses, dtype=torch.float64)
    reached[real, generated] = 1.0
    for _ in range(responses.bit_length()):
        reached = (reached @ reached).clamp(max=1)
    exists = bool((reached > 0).all())
    try:
        policy = solver(pairs)(
            problem, start=problem.sampler, generator=torch.Generator().manual_seed(seed)
        )
    except ValueError:
        return Evidence(math.inf if exists else 0.0, tolerance, {"exists": float(exists)})
    scores = problem.scores(policy)[0].tolist()
    slopes = [[] for _ in range(responses)]  # type: list[list[float]]
    for y, other in zip(real, generated, strict=True):
        slope = 1 / (1 + math.exp(min(700.0, scores[y] - scores[other]))) / pairs
        if y != other:
            slopes[y].append(-slope)
            slopes[other].append(slope)
    residual = largest_error(abs(math.fsum(terms)) for terms in slopes)
    return Evidence(residual if exists else math.inf, tolerance, {"exists": float(exists)})


CLAIMS = (
    Claim(
        name="hardest tables",
        statement="Of all tables at a total variation distance t, two responses with "
        "`p_data = (1 + t, 1 - t) / 2` and `p_t` the other way round have the least `JS(P, Q)`. "
        "There the convergence meter sees least.",
        source="derived",
        function=check_hardest_js,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_hardest_js(draw.data, draw.opponent),
    ),
    Claim(
        name="power of the meter",
        statement="On the hardest tables the convergence meter proves a difference as often as the "
        "sum over all samples says.",
        source="derived",
        function=check_power,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_power(
            tv=min(0.99, float(tv(draw.small_data, draw.small_start))), confidence=0.5
        ),
    ),
    Claim(
        name="pairs for a distance",
        statement="The distance that the central limit theorem predicts for that many pairs is as "
        "small as asked for, and with one pair less it is not.",
        source="derived",
        function=check_samples_for,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_samples_for(
            draw.small_start, draw.small_data, beta=draw.beta, distance=0.05
        ),
    ),
    Claim(
        name="minimum of sampled pairs",
        statement="The mean logistic loss of sampled pairs has a minimum exactly where each "
        "response reaches each other by wins, and there its gradient is zero.",
        source="derived",
        function=check_sampled_minimiser,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_sampled_minimiser(
            InnerProblem(
                data=draw.small_data,
                sampler=draw.small_start,
                reference=draw.small_start,
                beta=draw.beta,
            ),
            pairs=300,
            seed=draw.instance.seed,
        ),
    ),
)

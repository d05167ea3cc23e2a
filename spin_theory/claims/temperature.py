"""Claims about SPIN whose opponent samples at a temperature, whole responses or each token."""

from functools import partial

import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, errors_of_powers, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import tv
from spin_theory.games.opponents import tempered_samples
from spin_theory.games.play import play
from spin_theory.games.solvers import Solver
from spin_theory.games.stability import linearise
from spin_theory.games.temperature import tempered_limit, tempered_multiplier
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.token_trees import TokenTree
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING, SUMS

__all__ = ["CLAIMS", "check_tempered_play", "check_tempered_tokens"]


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


def check_tempered_tokens(
    tree: TokenTree,
    data: TabularPolicy,
    *,
    beta: float,
    temperature: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check where SPIN rests when each token is sampled at a temperature.

    Parameters
    ----------
    tree : TokenTree
        The tokens that responses consist of.
    data : TabularPolicy, shape (1, Y)
        p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    temperature : float
        T of the samples, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the distance of the samples at the limit from the data, and of the limit from
        what follows it, in total variation; and what is left of the iteration there, less the
        multiplier, after as many iterations as a response has tokens, relative to its size.
        `apart` is the limit's total variation from that of whole responses.

    Raises
    ------
    ValueError
        If shapes differ, a parameter is out of its range, or there is more than one prompt.

    Notes
    -----
    Derived. Near the limit the change at a prefix depends on itself, multiplied as in
    :func:`tempered_multiplier`, and on those at longer prefixes. Such a matrix less the multiplier
    is nilpotent.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.05)
    >>> tree = TokenTree.free(["aa", "ab", "ba", "bb"])
    >>> check_tempered_tokens(tree, data, beta=1.0, temperature=0.7).holds
    True
    """
    limit = tempered_limit(data, temperature=temperature, tree=tree)
    rule = partial(tempered_samples, temperature=temperature, tree=tree)
    after = play(limit, data, beta=beta, iterations=1, loss_type=loss_type, opponent=rule)
    near = linearise([limit, limit], data, beta=beta, loss_type=loss_type, opponent=rule).matrix
    m = tempered_multiplier(temperature=temperature, beta=beta, loss_type=loss_type)
    eye = torch.eye(len(near), dtype=near.dtype)
    rest = near - m * (eye - 1 / len(near))
    left = torch.linalg.matrix_power(rest, max(map(len, tree.responses)))
    size = max(1.0, float(near.norm())) ** max(map(len, tree.responses))
    errors = [
        float(tv(rule([limit]).sampler, data).max()),
        float(tv(after.policies[1], limit).max()) / max(1.0, abs(m)),
        float(left.norm()) / size,
    ]
    apart = tv(limit, tempered_limit(data, temperature=temperature))
    return Evidence(largest_error(errors), tolerance, {"apart": float(apart.max())})


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
    Claim(
        name="tokens at a temperature",
        statement="Where each token is sampled at temperature T, exact SPIN rests where each next "
        "token has `p_data^T`, normalised at its prefix. Every multiplier there is "
        "`1 - 1 / (T beta)`.",
        source="derived",
        function=check_tempered_tokens,
        tolerance=SUMS,
        check=lambda draw, *_: check_tempered_tokens(
            TokenTree.free(draw.words),
            draw.small_data,
            beta=draw.beta,
            temperature=_temperature(draw),
        ),
    ),
)

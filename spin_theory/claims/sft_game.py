"""Games with an SFT term: their multiplier near the data, and one that is linear."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.games.play import play
from spin_theory.games.sft import sft_multiplier, steadying_weight
from spin_theory.games.stability import linearise
from spin_theory.minima.closed_forms import exact, linear_scores
from spin_theory.minima.minimise import minimise_problem, minimiser
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import LINEAR_RATE, NEARLY_LINEAR, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_linear_game", "check_sft_multiplier", "check_sft_play"]

NEARBY = 1e-6  # nats from the data at which an iteration counts as linear


def check_sft_multiplier(
    data: TabularPolicy,
    *,
    beta: float,
    sft_weight: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the multiplier of SPIN with an SFT term, and the weight from which on it settles.

    Parameters
    ----------
    data : TabularPolicy, shape (1, Y)
        p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    sft_weight : float
        Weight of the SFT term, > 0, per nat.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of an entry of the linearised iteration at the data, which is
        the multiplier times the projection without constants; of :func:`sft_multiplier`; and how
        far the multiplier is from -1 at :func:`steadying_weight`, or above 1 without one.

    Raises
    ------
    ValueError
        If a parameter is out of its range or nothing is written out for the penalty.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    >>> check_sft_multiplier(data, beta=0.1, sft_weight=0.1).holds
    True
    """
    law = written_out(_MULTIPLIERS, loss_type)
    factor = law(beta, sft_weight)
    responses = data.log_probs.shape[1]
    centre = np.eye(responses) - 1 / responses
    found = linearise(
        [data, data], data, beta=beta, loss_type=loss_type, sft_weight=sft_weight
    ).matrix.numpy()
    size = 1 + abs(factor)
    said = sft_multiplier(beta=beta, sft_weight=sft_weight, loss_type=loss_type)
    steady = steadying_weight(beta=beta, loss_type=loss_type)
    errors = [
        float(np.abs(found - factor * centre).max()) / size,
        abs(said - factor) / size,
        abs(law(beta, steady) + 1) if steady > 0 else max(0.0, -1 - law(beta, 0.0)),
    ]
    return Evidence(largest_error(errors), tolerance, {"multiplier": factor})


def check_sft_play(
    data: TabularPolicy,
    *,
    beta: float,
    sft_weight: float,
    loss_type: str = "logistic",
    seed: int = 0,
    tolerance: float = LINEAR_RATE,
) -> Evidence:
    r"""Check the multiplier of SPIN with an SFT term against an iteration that is played.

    Parameters
    ----------
    data : TabularPolicy, shape (1, Y)
        p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    sft_weight : float
        Weight of the SFT term, > 0, per nat.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    seed : int, default 0
        Seed of the direction in which the start differs from the data.
    tolerance : float, default 1e-6
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: error of the log-ratio after two mirrored starts, relative to the size of the
        start and the multiplier; infinite where the game does not keep the weight.

    Raises
    ------
    ValueError
        If a parameter is out of its range or nothing is written out for the penalty.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    >>> check_sft_play(data, beta=0.1, sft_weight=0.1).holds
    True
    """
    factor = written_out(_MULTIPLIERS, loss_type)(beta, sft_weight)
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(data.log_probs.shape, generator=generator, dtype=torch.float64)
    off, errors = [], []
    for sign in (1, -1):
        start = TabularPolicy.from_logits(data.log_probs + sign * NEARBY * shift)
        game = play(
            start,
            data,
            beta=beta,
            iterations=1,
            loss_type=loss_type,
            solver=minimiser,
            sft_weight=sft_weight,
        )
        errors.append(0.0 if game.sft_weights == (sft_weight,) else np.inf)
        before, after = (_centred(policy.log_probs - data.log_probs) for policy in game.policies)
        off.append(sign * (after - factor * before))
    size = 2 * NEARBY * (1 + abs(factor))
    errors.append(float((off[0] + off[1]).abs().max()) / size)
    return Evidence(largest_error(errors), tolerance, {"multiplier": factor})


def check_linear_game(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the game of the correlation penalty with an SFT term: linear in the probabilities.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of a probability after three iterations, of the multiplier
        -beta/w, of the certified minimum, and of a minimum that the search finds. `multiplier` is
        the factor.

    Notes
    -----
    The weight w is chosen so that all iterates have positive probabilities: :math:`p_{t+1} -
    p_{data} = -(\beta/w) (p_t - p_{data})`.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> check_linear_game(start, data, beta=0.3).holds
    True
    """
    off = start.probs - data.probs
    least = float((off / data.probs).amax().clamp(min=0.5))  # so that no probability reaches 0
    weight = 2 * beta * least
    factor = -beta / weight
    game = play(start, data, beta=beta, iterations=3, loss_type="correlation", sft_weight=weight)
    errors = [
        float((policy.probs - data.probs - factor**t * off).abs().max())
        for t, policy in enumerate(game.policies)
    ]
    errors.append(0.0 if len(game.policies) == 4 else np.inf)
    said = sft_multiplier(beta=beta, sft_weight=weight, loss_type="correlation")
    errors.append(abs(said - factor))
    errors.append(abs(steadying_weight(beta=beta, loss_type="correlation") - beta) / beta)
    problem = InnerProblem(
        data=data,
        sampler=start,
        reference=None,
        beta=beta,
        loss_type="correlation",
        initial=start,
        history_weight=0.5,  # of a term that is constant, as the sampler is p_0
        sft_weight=weight,
    )
    found = minimise_problem(problem)
    probs = exact(problem).probs
    errors += [
        float((each - data.probs - factor * off).abs().max())
        for each in (probs, found.policy.probs, problem.policy(linear_scores(problem)).probs)
    ]
    real, log_probs = data.probs.numpy(), probs.log().numpy()
    value = 1.5 + beta * (off.numpy() * log_probs).sum(-1) - weight * (real * log_probs).sum(-1)
    size = 1 + float(np.abs(value).max()) + beta * float(np.abs(log_probs).max())
    middle = float(value.mean())
    errors += [abs(each - middle) / size for each in (found.objective, found.lower_bound)]
    errors.append(found.gap / size)
    return Evidence(largest_error(errors), tolerance, {"multiplier": factor})


def _centred(table: Tensor) -> Tensor:
    return table - table.mean(dim=-1, keepdim=True)


_MULTIPLIERS: dict[str, Callable[[float, float], float]] = {
    "logistic": lambda beta, weight: beta * (beta - 1) / (beta**2 + 2 * weight),
    "exponential": lambda beta, weight: beta * (2 * beta - 1) / (2 * beta**2 + weight),
}


CLAIMS = (
    Claim(
        name="multiplier with an SFT term, {loss_type}",
        statement="With an SFT term of weight w, exact SPIN multiplies small deviations from the "
        "data by `beta (beta - 1) / (beta^2 + 2 w)`; exponential: by `beta (2 beta - 1) / "
        "(2 beta^2 + w)`. A logistic game is stable there at every beta if w is above 1/16.",
        source="derived",
        function=check_sft_multiplier,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: check_sft_multiplier(
            draw.small_data, beta=draw.beta, sft_weight=draw.sft_weight, loss_type=loss_type
        ),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="a game with an SFT term, {loss_type}",
        statement="An iteration with an SFT term that is played from near the data moves by the "
        "same multiplier.",
        source="derived",
        function=check_sft_play,
        tolerance=NEARLY_LINEAR,
        check=lambda draw, _, loss_type: check_sft_play(
            draw.small_data,
            beta=draw.beta,
            sft_weight=draw.sft_weight,
            loss_type=loss_type,
            seed=draw.instance.seed,
        ),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="correlation with an SFT term",
        statement="With an SFT term of weight w the correlation objective has a minimum where "
        "`p_data - (beta / w) (p_t - p_data)` is positive, and this is it: the deviation of the "
        "probabilities is multiplied by `-beta / w` at any distance.",
        source="derived",
        function=check_linear_game,
        tolerance=SUMS,
        check=lambda draw, *_: check_linear_game(draw.small_start, draw.small_data, beta=draw.beta),
    ),
)

"""Witnesses of Theorem 5.2: at which beta the data have a lower objective than the opponent."""

import math
from collections.abc import Callable

import torch
from scipy.optimize import brentq
from torch import Tensor

from spin_theory.claims.brackets import bracket, drop_by_pairs
from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.divergences import kl, tv
from spin_theory.losses import penalty_named, penalty_slope, require_beta
from spin_theory.objectives.objectives import average_penalty, spin_objective
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape
from spin_theory.tolerances import EQUAL_TV, LIMIT, ROUNDING

__all__ = [
    "CLAIMS",
    "check_witness_interval",
    "objective_drop_at_data",
    "objective_slope_at_zero",
    "witness_limit",
]

LOWEST_LIMIT, HIGHEST_LIMIT = 1e-300, 1e300
"""Where the search for the end of the witnesses gives up."""


def objective_drop_at_data(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""How far (4.7) falls from p_theta = p_t to p_theta = p_data, without cancellation.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        :math:`\ell(0) - L(p_{data}, p_t)`, float64; beta is a witness of Theorem 5.2 where it
        is positive, which is an interval from 0.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `loss_type` is unknown, or
        `prompt_probs` is not a distribution.

    Notes
    -----
    With s = log P/Q the difference of log(p_data/p_t) between y and y', and t = beta s, the pairs
    (y, y') and (y', y) together drop by :math:`P [\ell(0) - \ell(t)] + Q [\ell(0) - \ell(-t)]`.
    Where t is small that cancels, and is written :math:`-(P - Q) o(t) - (P + Q) e(t)` instead,
    with o and e the odd and even part of :math:`\ell(t) - \ell(0)`.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> float(objective_drop_at_data(opponent, data, beta=0.5, loss_type="exponential")) > 0
    True
    >>> float(objective_drop_at_data(opponent, data, beta=1.5, loss_type="exponential")) > 0
    False
    """
    require_same_shape(opponent=opponent, data=data)
    require_beta(beta)
    penalty = penalty_named(loss_type)
    log_ratios = data.log_probs - opponent.log_probs
    # Antisymmetric, so the pairs with log P/Q >= 0 stand for all; the others are set to drop 0.
    log_odds = (log_ratios[:, :, None] - log_ratios[:, None, :]).clamp(min=0)  # (X, Y, Y)
    real_first = (data.log_probs[:, :, None] + opponent.log_probs[:, None, :]).exp()  # P
    real_last = real_first * torch.exp(-log_odds)  # Q
    margins = beta * log_odds
    odd, even = written_out(_ODD_AND_EVEN, loss_type)(margins.clamp(max=1))
    near = real_first * torch.expm1(-log_odds) * odd - (real_first + real_last) * even
    at_zero = penalty(torch.zeros_like(margins))
    far = real_first * (at_zero - penalty(margins)) + real_last * (at_zero - penalty(-margins))
    drops = torch.where(margins <= 1, near, far)
    return prompt_average(drops.sum(dim=(-2, -1)), prompt_probs)


def _line(margins: Tensor) -> tuple[Tensor, Tensor]:
    return -margins, torch.zeros_like(margins)  # 1 - t


_ODD_AND_EVEN: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    # -t/2 + log cosh(t/2), and cosh(t/2) = 1 + 2 sinh(t/4)^2
    "logistic": lambda t: (-t / 2, torch.log1p(2 * torch.sinh(t / 4).square())),
    "hinge": _line,
    # -sinh t + (cosh t - 1)
    "exponential": lambda t: (-torch.sinh(t), 2 * torch.sinh(t / 2).square()),
    "correlation": _line,
}
"""Odd and even part of l(t) - l(0) at margins 0 <= t <= 1, written out for each penalty."""


def objective_slope_at_zero(
    policy: TabularPolicy, opponent: TabularPolicy, data: TabularPolicy, *, loss_type: str
) -> Tensor:
    r"""How fast the objective at a policy falls with beta, at beta = 0.

    Parameters
    ----------
    policy, opponent, data : TabularPolicy, shape (X, Y)
        p_theta, p_t and p_data.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}
        The penalty :math:`\ell`.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\ell'(0) \, E_{p_{data}, p_t} [r(y) - r(y')]` per prompt with :math:`r = \log
        p_\theta/p_t`; at p_theta = p_data that is :math:`\ell'(0) [KL(p_{data} \| p_t) + KL(p_t
        \| p_{data})]`. Negative: small beta are witnesses.

    Raises
    ------
    ValueError
        If shapes differ or `loss_type` is unknown.

    Examples
    --------
    >>> p, q = (TabularPolicy.from_probs([[a, 1 - a]]) for a in (0.5, 0.8))
    >>> objective_slope_at_zero(p, q, p, loss_type="correlation")  # -0.3 * log 4
    tensor([-0.4159], dtype=torch.float64)
    """
    require_same_shape(policy=policy, opponent=opponent, data=data)
    log_ratios = policy.log_probs - opponent.log_probs
    return penalty_slope(loss_type) * ((data.probs - opponent.probs) * log_ratios).sum(dim=-1)


def witness_limit(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    loss_type: str = "logistic",
    policy: TabularPolicy | None = None,
    prompt_probs: Tensor | None = None,
) -> float:
    r"""End of the interval (0, lambda*) of the witnesses of Theorem 5.2.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data, not equal.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    policy : TabularPolicy, shape (X, Y), optional
        Whose objective is compared with the opponent's; p_data by default.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    float
        lambda*: below it the policy has a smaller objective than theta_t, beyond it not; 0 if
        never, infinite if the objective is still smaller at 1e300.

    Raises
    ------
    ValueError
        If shapes differ, `loss_type` is unknown, or `prompt_probs` is not a distribution.

    Notes
    -----
    The objective at a fixed policy is convex in beta and l(0) at beta = 0, so the witnesses are
    an interval from 0. It can be huge: the end is bracketed by doubling in log space. For p_data:
    1 for exponential, above 2 for logistic, e or more for hinge, infinite for correlation.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> round(witness_limit(opponent, data, loss_type="exponential"), 9)
    1.0
    """
    require_same_shape(opponent=opponent, data=data, policy=policy or data)
    compared = data if policy is None else policy
    pulls = (data.probs - opponent.probs) * (compared.log_probs - opponent.log_probs)
    falls, size = (prompt_average(part.sum(-1), prompt_probs) for part in (pulls, pulls.abs()))
    if not falls > ROUNDING * size:  # convex in beta: what does not fall at 0 never does
        return 0.0
    drop = _drop(opponent, data, loss_type, policy, prompt_probs)
    if loss_type == "correlation":  # linear in beta
        return math.inf if drop(1.0) > 0 else 0.0

    def at(log_beta: float) -> float:  # of the logarithm alone: its exp is rounded
        return drop(math.exp(log_beta))

    step = math.log(2)
    low = -step
    while not at(low) > 0:
        low, step = low - step, 2 * step
        if low < math.log(LOWEST_LIMIT):
            return 0.0
    step = math.log(2)
    high = low + step
    while at(high) > 0:
        if high == math.log(HIGHEST_LIMIT):
            return math.inf
        low, step = high, 2 * step
        high = min(high + step, math.log(HIGHEST_LIMIT))
    root = brentq(at, low, high, xtol=1e-13, maxiter=500)
    return math.exp(root)


def _drop(
    opponent: TabularPolicy,
    data: TabularPolicy,
    loss_type: str,
    policy: TabularPolicy | None,
    prompt_probs: Tensor | None,
) -> Callable[[float], float]:
    """How far the objective falls from theta_t to the policy, as a function of beta."""
    at_zero = float(penalty_named(loss_type)(torch.zeros((), dtype=torch.float64)))

    def at_policy(beta: float) -> float:
        scores = beta * ((policy or data).log_probs - opponent.log_probs)
        values = average_penalty(scores, data.log_probs, opponent.log_probs, loss_type=loss_type)
        return at_zero - float(prompt_average(values, prompt_probs))

    def at_data(beta: float) -> float:
        drop = float(
            objective_drop_at_data(
                opponent, data, beta=beta, loss_type=loss_type, prompt_probs=prompt_probs
            )
        )
        return -math.inf if math.isnan(drop) else drop  # an exponential has overflowed

    def finite(beta: float) -> float:
        drop = at_data(beta) if policy is None else at_policy(beta)
        return max(drop, -HIGHEST_LIMIT)

    return finite


def check_witness_interval(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    loss_type: str = "logistic",
    tolerance: float = LIMIT,
) -> Evidence:
    r"""Check the largest witness beta, and that the opponent is stationary at no beta.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t, further apart than about 1e-8 in total variation: below, the rounding
        of KL counts.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    tolerance : float, default 1e-7
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the least relative distance from lambda*, of the powers of ten, at which p_data
        is below theta_t on its left and above on its right, infinite if there is none up to 0.1;
        how far lambda* is from 1 (exponential), or below 2 (logistic) or e (hinge), relative to
        it; infinite for a finite one of correlation; the asymmetry of the exponential objective
        about beta = 1/2; the error of the drop from theta_t to p_data, at three betas; that of
        its derivative at beta = 0; and that of the gradient at theta_t, :math:`\beta \ell'(0)
        (p_{data} - p_t)`, which vanishes for no beta: in a tabular class theta_t is not even
        stationary. `limit` is lambda*.

    Raises
    ------
    ValueError
        If shapes differ, the two are equal, or `loss_type` is unknown.

    Notes
    -----
    Derived; [1]_ proves that some beta is a witness. The drop is summed here pair by pair.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_witness_interval(data, opponent).holds
    True
    """
    if float(tv(data, opponent).max()) <= EQUAL_TV:
        raise ValueError("opponent must differ from data: where they agree there is no witness")
    limit = witness_limit(opponent, data, loss_type=loss_type)
    least = {"logistic": 2.0, "hinge": math.e, "exponential": 1.0, "correlation": math.inf}
    if math.isinf(least[loss_type]):
        errors = [0.0 if math.isinf(limit) else math.inf]
    else:
        errors = [(least[loss_type] - limit) / least[loss_type]]
        errors.append(bracket(opponent, data, loss_type, limit))
    drop = _drop(opponent, data, loss_type, None, None)
    for beta in (0.3, 1.0, 3.0):
        expected_drop, size = drop_by_pairs(opponent, data, loss_type, beta)
        errors.append(abs(drop(beta) - expected_drop) / size)
    if loss_type == "exponential":
        errors += [abs(limit - 1), abs(drop(0.3) - drop(0.7)) / (1 + abs(drop(0.3)))]
    slope = objective_slope_at_zero(data, opponent, data, loss_type=loss_type)
    sizes = kl(data, opponent) + kl(opponent, data)
    expected_slope = penalty_slope(loss_type) * sizes
    errors.append(float((slope - expected_slope).abs().max() / sizes.max()))
    small = 1e-9 / (1 + float(sizes.max()))
    errors.append(abs(drop(small) / small + float(expected_slope.mean())) / float(sizes.mean()))
    logits = opponent.log_probs.clone().requires_grad_()
    value = spin_objective(
        TabularPolicy.from_logits(logits), opponent, data, beta=3.0, loss_type=loss_type
    )
    (gradient,) = torch.autograd.grad(value, logits)
    pull = data.probs - opponent.probs
    expected = 3.0 * penalty_slope(loss_type) * pull / len(logits)
    errors.append(float((gradient - expected).norm() / 3.0))
    numbers = {"limit": limit, "slope": float(slope.mean()), "gradient": float(gradient.norm())}
    return Evidence(largest_error(errors), tolerance, numbers)


CLAIMS = (
    Claim(
        name="5.2 witness interval, {loss_type}",
        statement="The betas at which the data have a lower objective than the opponent form an "
        "interval from 0. Its end is 1 for exponential, above 2 for logistic, at least e for hinge "
        "and infinite for correlation. In a table the opponent is not even stationary, at any "
        "beta, unless it is the data.",
        source="derived",
        function=check_witness_interval,
        tolerance=LIMIT,
        check=lambda draw, _, loss_type: check_witness_interval(
            draw.small_data, draw.small_start, loss_type=loss_type
        ),
        loss_types=tuple(_ODD_AND_EVEN),
    ),
)

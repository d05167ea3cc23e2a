"""What we derive about the games that T-SPIN plays."""

from collections.abc import Callable

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import tv
from spin_theory.games.fixed_points import fixed_point
from spin_theory.games.opponents import without_reference
from spin_theory.games.stability import linearise
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimise_problem
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FIXED_POINT, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_tspin_fixed_point", "check_tspin_update"]


def check_tspin_update(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    update: Callable[[InnerProblem], TabularPolicy] = exact,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the closed form of T-SPIN's iteration without history.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        pi_t and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit. Written :math:`\alpha` in [1]_.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    update : callable, default exact
        Function that is claimed to give the minimiser of an :class:`InnerProblem`.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: largest total variation distance from :func:`minimise_problem`, and its
        certified gap.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0, or the penalty has no closed form.

    Notes
    -----
    :math:`\pi_{t+1} \propto (p_{data}/\pi_t)^{1/\alpha}`: multiplier :math:`-1/\alpha`, a 2-cycle
    at the published :math:`\alpha = 1`, and a fixed point that is not p_data.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_tspin_update(opponent, data, beta=1.0).holds
    True
    """
    problem = InnerProblem(
        data=data, sampler=opponent, reference=None, beta=beta, loss_type=loss_type
    )
    minimum = minimise_problem(problem)
    distance = float(tv(update(problem), minimum.policy).max())
    numbers = {"gap": minimum.gap, "objective": minimum.objective}
    return Evidence(largest_error([distance, minimum.gap]), tolerance, numbers)


def check_tspin_fixed_point(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    history_weight: float = 0.0,
    loss_type: str = "logistic",
    tolerance: float = FIXED_POINT,
) -> Evidence:
    r"""Check where T-SPIN's exact game of one prompt rests, and what history does to it.

    Parameters
    ----------
    start, data : TabularPolicy, shape (1, Y)
        pi_0 and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit. Written :math:`\alpha` in [1]_.
    history_weight : float, default 0.0
        Weight of the historical advantage, >= 0, no unit. Written :math:`\beta` in [1]_.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: total variation distance of the fixed point and its next exact iterate;
        without history also of :math:`p_{data}^{1/(1 + \alpha)}`, and the error of the spectral
        radius against :math:`1/\alpha`; with history, a spectral radius that is not below the
        one without. `tv` is the distance of the fixed point from p_data. `spectral_radius` says
        what becomes of small deviations from it, and nothing about a far start.

    Raises
    ------
    ValueError
        If there is more than one prompt, a parameter is out of its range, or no fixed point is
        found.

    Notes
    -----
    Derived; not in [1]_. At the published :math:`\alpha = 1` history turns a neutral 2-cycle
    into a contraction near the fixed point, so it does steady the game, but not at the data. For
    some :math:`\alpha < 1` a stable cycle of two exists next to a stable fixed point, and a far
    start ends in the cycle: at 0.7 with history 1, :math:`\pi_0` = (.001, .998, .001), data (.82,
    .12, .06). None was found at :math:`\alpha \geq 1`.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> evidence = check_tspin_fixed_point(start, data, beta=1.0, history_weight=0.1)
    >>> evidence.holds, evidence.numbers["spectral_radius"] < 1, evidence.numbers["tv"] > 0.01
    (True, True, True)
    """
    scale = beta if loss_type == "logistic" else 2 * beta
    point = fixed_point(
        start,
        data,
        beta=beta,
        loss_type=loss_type,
        opponent=without_reference,
        history_weight=history_weight,
    )
    problem = InnerProblem(
        data=data,
        sampler=point,
        reference=None,
        beta=beta,
        loss_type=loss_type,
        initial=start,
        history_weight=history_weight,
    )
    errors = [float(tv(minimise_problem(problem).policy, point).max())]
    radius = linearise(
        [start, point],
        data,
        beta=beta,
        loss_type=loss_type,
        opponent=without_reference,
        history_weight=history_weight,
    ).spectral_radius
    if history_weight == 0:
        expected = TabularPolicy.from_logits(data.log_probs / (1 + scale))
        errors += [float(tv(point, expected).max()), abs(radius - 1 / scale) * scale]
    elif data.log_probs.shape[-1] > 1:
        errors.append(radius * scale - 1)
    numbers = {"spectral_radius": radius, "tv": float(tv(point, data).max())}
    return Evidence(largest_error(errors), tolerance, numbers)


def _fixed_point(draw: Draw, *, history_weight: float) -> Evidence:
    return check_tspin_fixed_point(
        draw.small_start, draw.small_data, beta=draw.beta, history_weight=history_weight
    )


CLAIMS = (
    Claim(
        name="T-SPIN update, {loss_type}",
        statement="Without history T-SPIN's next policy is `(p_data / p_t)^(1 / beta)`, "
        "normalised, or with `1 / (2 beta)` for the exponential penalty.",
        source="derived",
        function=check_tspin_update,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: check_tspin_update(
            draw.small_start, draw.small_data, beta=draw.beta, loss_type=loss_type
        ),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="T-SPIN fixed point, no history",
        statement="Without history T-SPIN's fixed point is `p_data^(1 / (1 + beta))`, normalised, "
        "which is not the data.",
        source="derived",
        function=check_tspin_fixed_point,
        tolerance=SUMS,
        check=lambda draw, *_: _fixed_point(draw, history_weight=0.0),
    ),
    Claim(
        name="T-SPIN fixed point, history 0.1",
        statement="History lowers the spectral radius at T-SPIN's fixed point, so that small "
        "deviations shrink faster, but not towards the data. Far starts may end in a cycle.",
        source="derived",
        function=check_tspin_fixed_point,
        tolerance=SUMS,
        check=lambda draw, *_: _fixed_point(draw, history_weight=0.1),
    ),
)

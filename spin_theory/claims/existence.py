"""Where the exact update exists: its normaliser is a Renyi divergence, which has to be finite."""

import itertools
import math
from collections.abc import Sequence

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence
from spin_theory.divergences import renyi
from spin_theory.inputs import number
from spin_theory.losses import require_beta
from spin_theory.minima.closed_forms import Update, closed_form_update
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import EXACT, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_update_exists", "check_update_normaliser", "update_exists"]


def check_update_normaliser(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    beta: float,
    update: Update = closed_form_update,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that the exact update's normaliser is a Renyi divergence.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    beta : float
        Pull towards the opponent, > 0, no unit. At 1 the normaliser is 1.
    update : Update, default closed_form_update
        The update that is claimed to have this normaliser.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: largest error over responses of :math:`\log Z`, by which the update is short
        of its exponent, relative to the exponents' size. On infinitely many responses the
        update exists where this divergence is finite: :func:`update_exists`.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not > 0.

    Notes
    -----
    :math:`Z = \sum_y p_t (p_{data}/p_t)^{1/\beta}`, :math:`\log Z = (1/\beta - 1) \,
    D_{1/\beta}(p_{data} \| p_t)`: order 10 at beta = 0.1.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_update_normaliser(data, opponent, beta=0.1).holds
    True
    """
    require_same_shape(data=data, opponent=opponent)
    beta = require_beta(beta)
    exponents = (data.log_probs - opponent.log_probs) / beta
    updated = update(opponent, data, beta=beta, loss_type="logistic")
    log_normaliser = opponent.log_probs + exponents - updated.log_probs  # of any response
    order = 1 / beta
    excess = 0.0 if order == 1 else (order - 1) * renyi(data, opponent, order=order)[:, None]
    size = 1 + exponents.abs().amax(dim=-1, keepdim=True)
    error = (log_normaliser - excess).abs() / size
    return Evidence(float(error.max()), tolerance, {"log_normaliser": float(log_normaliser.max())})


def check_update_exists(
    ratios: Sequence[float], *, beta: float, tolerance: float = EXACT
) -> Evidence:
    r"""Check for which geometric distributions SPIN's exact update exists.

    Parameters
    ----------
    ratios : sequence of float
        a of distributions :math:`p(k) \propto a^k`, in (0, 1); each is the data against each.
    beta : float
        Pull towards the opponent, > 0, no unit.
    tolerance : float, default 0.0
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: for how many pairs :func:`update_exists` is not whether the terms of the
        normaliser fall. `exist` is how many have an update.

    Raises
    ------
    ValueError
        If a ratio is not in (0, 1) or `beta` is not > 0.

    Examples
    --------
    >>> check_update_exists([0.5, 0.9], beta=0.5).numbers["exist"]  # not 0.9 against 0.5
    3.0
    """
    wrong, exist = 0, 0
    for data_ratio, opponent_ratio in itertools.product(ratios, repeat=2):
        found = update_exists(data_ratio=data_ratio, opponent_ratio=opponent_ratio, beta=beta)
        # A term p_t(k) [p_data(k) / p_t(k)]^(1/beta) is so many times the one before it.
        growth = opponent_ratio * (data_ratio / opponent_ratio) ** (1 / beta)
        wrong += found is not (growth < 1)
        exist += growth < 1
    return Evidence(float(wrong), tolerance, {"exist": float(exist)})


def update_exists(*, data_ratio: float, opponent_ratio: float, beta: float) -> bool:
    r"""Whether SPIN's exact update exists for two geometric distributions.

    Parameters
    ----------
    data_ratio, opponent_ratio : float
        a and b of :math:`p_{data}(k) \propto a^k` and :math:`p_t(k) \propto b^k`, in (0, 1).
    beta : float
        Pull towards the opponent, > 0, no unit.

    Returns
    -------
    bool
        Whether :math:`\sum_k b^k (a/b)^{k/\beta}` is finite, that is :math:`b^{\beta - 1} a <
        1`: data with a heavier tail than the opponent's have no update below some beta.

    Raises
    ------
    ValueError
        If a ratio is not in (0, 1) or `beta` is not > 0.

    Examples
    --------
    >>> update_exists(data_ratio=0.9, opponent_ratio=0.5, beta=1.0)  # the data themselves
    True
    >>> update_exists(data_ratio=0.9, opponent_ratio=0.5, beta=0.5)  # 0.9^2 / 0.5
    False
    """
    data_ratio = number("data_ratio", data_ratio)
    opponent_ratio = number("opponent_ratio", opponent_ratio)
    for name, ratio in {"data_ratio": data_ratio, "opponent_ratio": opponent_ratio}.items():
        if not 0 < ratio < 1:
            raise ValueError(f"{name} must be in (0, 1), got {ratio!r}")
    beta = require_beta(beta)
    terms = (beta - 1) * math.log(opponent_ratio), math.log(data_ratio)
    return sum(terms) < -ROUNDING * sum(map(abs, terms))  # at 0 all terms of the sum are 1


CLAIMS = (
    Claim(
        name="normaliser is a Renyi divergence",
        statement="The log of the exact update's normaliser is `(1 / beta - 1) D(p_data, p_t)`, "
        "with D the Renyi divergence of order `1 / beta`. On infinitely many responses it need not "
        "be finite, and then there is no update.",
        source="derived",
        function=check_update_normaliser,
        tolerance=SUMS,
        check=lambda draw, *_: check_update_normaliser(draw.data, draw.opponent, beta=draw.beta),
    ),
    Claim(
        name="where the update exists",
        statement="For geometric distributions the exact update exists where `b (a / b)^(1 / "
        "beta)` is below 1, with a and b the ratios of data and opponent.",
        source="derived",
        function=check_update_exists,
        tolerance=EXACT,
        check=lambda draw, *_: check_update_exists(
            [0.5, 0.9, 0.99, *draw.parameters.sigmoid().flatten().tolist()], beta=draw.beta
        ),
    ),
)

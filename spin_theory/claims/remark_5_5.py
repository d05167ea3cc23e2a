"""SPIN's Remark 5.5, corrected: which responses an exact iteration makes more likely."""

import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import hilbert, kl, renyi, tv
from spin_theory.minima.closed_forms import Update, closed_form_update
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_remark_5_5"]


def check_remark_5_5(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    beta: float,
    update: Update = closed_form_update,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check which responses become more likely, and that a smaller beta changes more.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    beta : float
        Pull towards the opponent, > 0, no unit.
    update : Update, default closed_form_update
        The iteration.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of the change of a log-prob against :math:`[\log(p_{data}/p_t)
        - (1 - \beta) D] / \beta`, relative to its terms; and how far the change of the policy,
        in Hilbert's metric and in total variation, is below that at twice the beta. `printed`
        is how many responses go the other way than the remark says.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not finite and > 0.

    Notes
    -----
    Remark 5.5 of [1]_ says that the next policy exceeds p_t at a response where p_data does, and
    is below it where p_data is below. That holds for every response only at :math:`\beta = 1`.
    In general a response becomes more likely where :math:`\log(p_{data}/p_t) > (1 - \beta) \,
    D_{1/\beta}(p_{data} \| p_t)`, D the Renyi divergence: where beta is below 1, data above
    p_t are not enough, as the most underrated responses take it all. The second half of the
    remark, that a smaller beta changes the policy more, holds.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> data = TabularPolicy.from_probs([[0.5, 0.3, 0.2]])
    >>> opponent = TabularPolicy.from_probs([[0.2, 0.25, 0.55]])
    >>> evidence = check_remark_5_5(data, opponent, beta=0.1)  # 0.25 is below 0.3, and falls
    >>> evidence.holds, evidence.numbers["printed"]
    (True, 1.0)
    """
    require_same_shape(data=data, opponent=opponent)
    updated = update(opponent, data, beta=beta, loss_type="logistic")
    log_ratios = data.log_probs - opponent.log_probs
    divergence = kl(data, opponent) if beta == 1 else renyi(data, opponent, order=1 / beta)
    threshold = (1 - beta) * divergence[:, None]
    change = updated.log_probs - opponent.log_probs
    sizes = 1 + log_ratios.abs().amax(-1, keepdim=True) / beta + opponent.log_probs.abs()
    errors = (change - (log_ratios - threshold) / beta).abs() / sizes
    slower = update(opponent, data, beta=2 * beta, loss_type="logistic")
    shrinks = [
        float(((distance(slower, opponent) - distance(updated, opponent)) / sizes[:, 0]).max())
        for distance in (hilbert, tv)
    ]
    clear = torch.minimum(change.abs(), log_ratios.abs()) > ROUNDING * sizes
    printed = float((clear & (change.sign() != log_ratios.sign())).sum())
    residual = largest_error([float(errors.max()), *shrinks])
    return Evidence(residual, tolerance, {"printed": printed})


CLAIMS = (
    Claim(
        name="Remark 5.5, corrected",
        statement="A response becomes more likely where `log(p_data / p_t)` exceeds `(1 - beta) "
        "D(p_data, p_t)`, D the Renyi divergence of order `1 / beta`. SPIN's remark puts 0 in its "
        "place, which is right only at beta 1. A smaller beta changes the policy more.",
        source="SPIN, Remark 5.5, corrected",
        function=check_remark_5_5,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_remark_5_5(draw.data, draw.opponent, beta=draw.beta),
    ),
)

"""Where self-play rests when generation samples at a temperature, and how fast it goes there."""

from collections.abc import Sequence

from spin_theory.games.opponents import require_temperature
from spin_theory.losses import PENALTIES, require_beta
from spin_theory.minima.closed_forms import closed_form_exponent
from spin_theory.minima.token_trees import TokenTree
from spin_theory.policies import TabularPolicy

__all__ = ["tempered_limit", "tempered_multiplier", "tempered_sentence"]


def tempered_limit(
    data: TabularPolicy, *, temperature: float, tree: TokenTree | None = None
) -> TabularPolicy:
    r"""Policy at which SPIN rests when its opponent samples at a temperature.

    Parameters
    ----------
    data : TabularPolicy, shape (X, Y)
        p_data.
    temperature : float
        T, > 0, no unit.
    tree : TokenTree, optional
        Each token is sampled at T, as a language model does. By default the whole response is.

    Returns
    -------
    TabularPolicy, shape (X, Y)
        :math:`\propto p_{data}^T`, with `tree` for each next token, whatever the penalty and beta.

    Raises
    ------
    ValueError
        If `temperature` is not finite and > 0.

    Notes
    -----
    Derived. There the samples, :math:`\propto p_t^{1/T}`, are p_data's, and nothing is left to
    tell apart: cold samples (T < 1) end at a policy that is flatter than the data.

    Examples
    --------
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> tempered_limit(data, temperature=0.5).probs  # odds sqrt(4)
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    require_temperature(temperature)
    if tree is not None:
        return tree.powers(data, temperature)
    return TabularPolicy.from_logits(temperature * data.log_probs)


def tempered_multiplier(*, temperature: float, beta: float, loss_type: str = "logistic") -> float:
    r"""Factor by which an exact iteration multiplies the log-ratio to where SPIN rests.

    Parameters
    ----------
    temperature : float
        T of the opponent's samples, > 0, no unit.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    float
        :math:`1 - 1/(T \beta)`, for the exponential penalty :math:`1 - 1/(2 T \beta)`, no unit:
        that of plain SPIN at :math:`T \beta`.

    Raises
    ------
    ValueError
        If `temperature` or `beta` is not finite and > 0, or the penalty has no closed form.

    Notes
    -----
    Derived: :math:`p_{t+1} \propto p_t (p_{data} / p_t^{1/T})^{1/\beta}`, so that :math:`\log
    p_{t+1} - T \log p_{data} = (1 - 1/(T \beta)) (\log p_t - T \log p_{data})` up to a constant.
    Where each token is sampled at T it is every multiplier of the game near its limit. Early tokens
    wait for later ones, so that it shows only after some iterations.

    Examples
    --------
    >>> tempered_multiplier(temperature=0.5, beta=2.0)  # as plain SPIN at beta 1
    0.0
    """
    require_temperature(temperature)
    require_beta(beta)
    return 1 - closed_form_exponent(loss_type) / (temperature * beta)


def tempered_sentence(
    temperature: float,
    *,
    betas: Sequence[float],
    loss_type: str = "logistic",
    plain: bool = True,
    mixed: bool = False,
    truncated: bool = False,
) -> str | None:
    """Say where a run rests that samples each token of its opponent at a temperature.

    Parameters
    ----------
    temperature : float
        Of the samples, > 0, no unit.
    betas : sequence of float
        The beta of each iteration, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    plain : bool, default True
        Whether the game is SPIN's alone, without a history or an SFT term.
    mixed : bool, default False
        Whether earlier iterates generate too.
    truncated : bool, default False
        Whether top-p or top-k leaves responses out.

    Returns
    -------
    str or None
        The consequence in words; None at temperature 1 without truncation.

    Raises
    ------
    ValueError
        If `temperature` or a beta is not finite and > 0.

    Examples
    --------
    >>> print(tempered_sentence(0.5, betas=[2.0, 0.1]))
    samples are drawn at temperature 0.5, not from p_t: solved exactly, the run rests at \
p_data^0.5 (normalised), not at p_data, the power taken of each next token's probability. Near it \
an iteration multiplies the log-ratio to it by 1 - 1/(0.5 * beta): 0 at beta 2, -19 at beta 0.1, \
where it does not settle
    """
    require_temperature(temperature)
    for beta in betas:
        require_beta(beta)
    if truncated:
        return (
            "top-p or top-k never samples some responses that the data may hold: the supports "
            "differ, and the objective has no minimum where the run could rest"
        )
    if temperature == 1:
        return None
    start = f"samples are drawn at temperature {temperature:g}, not from p_t: "
    if not plain:
        return f"{start}the run does not rest where it would at temperature 1"
    rest = (
        f"p_data^{temperature:g} (normalised), not at p_data, the power taken of each next token's "
        "probability"
    )
    exponent = PENALTIES[loss_type].exponent
    if exponent is None or mixed:
        return f"{start}solved exactly, the run rests at {rest}"
    factors = []
    for beta in dict.fromkeys(betas):
        factor = tempered_multiplier(temperature=temperature, beta=beta, loss_type=loss_type)
        unstable = "" if abs(factor) < 1 else ", where it does not settle"
        factors.append(f"{factor:.4g} at beta {beta:g}{unstable}")
    formula = f"1 - {exponent:g}/({temperature:g} * beta)"
    return (
        f"{start}solved exactly, the run rests at {rest}. Near it an iteration multiplies the "
        f"log-ratio to it by {formula}: {', '.join(factors)}"
    )

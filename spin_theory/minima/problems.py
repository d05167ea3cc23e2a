"""One iteration of self-play as an optimisation problem: what the main player minimises.

SPIN, its variants and T-SPIN differ in who generated y', in the denominator of the log-ratios
and in one more term; all of them average a penalty over pairs of responses.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.losses import Penalty, penalty_named, require_beta, require_weight
from spin_theory.minima.sft_term import SftTerm
from spin_theory.objectives.objectives import average_penalty
from spin_theory.policies import TabularPolicy, pair_log_probs, require_same_shape

__all__ = ["InnerProblem"]


@dataclass(frozen=True, eq=False)
class InnerProblem:
    r"""The objective of one iteration, over all tabular policies.

    Parameters
    ----------
    data : TabularPolicy, shape (X, Y)
        p_data, who gives the real responses.
    sampler : TabularPolicy, shape (X, Y)
        Who generates y': the opponent, or a mixture of opponents.
    reference : TabularPolicy, shape (X, Y), or None
        Denominator of the log-ratios; the opponent in SPIN, None in T-SPIN, which has none.
    beta : float
        Scale on log-prob differences, > 0, no unit. :math:`\lambda` of [1]_, :math:`\alpha`
        of [2]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    initial : TabularPolicy, shape (X, Y), optional
        Who gave the proto responses; needed where `history_weight` > 0.
    history_weight : float, default 0.0
        Weight of the historical advantage, >= 0, no unit. :math:`\beta` of [2]_.
    sft_weight : float, default 0.0
        Weight of the expected negative log-prob of real responses, >= 0, per nat.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `loss_type` is unknown,
        a weight is not finite and >= 0, or `history_weight` > 0 and `initial` is missing.

    Notes
    -----
    With the scores :math:`f_y = \beta \log p_\theta(y|x)`, minus :math:`\beta \log
    p_{ref}(y|x)` where there is a reference, the objective is

    .. math:: E_x \Bigl[ E_{y \sim p_{data}, y' \sim s} \, \ell(f_y - f_{y'})
        + w \, E_{y' \sim s, y_0 \sim p_0} \, \ell(f_{y'} - f_{y_0}) \Bigr],

    (4.7) of [1]_ with s = p_ref = p_t and w = 0, (7) of [2]_ without p_ref. The policy's
    normaliser cancels in every margin, so it is convex in the log-probs for a convex penalty.
    An SFT term adds `sft_weight` times :math:`E_x E_{y \sim p_{data}} [-\log p_\theta(y|x)]`,
    which is convex in the logits (:class:`SftTerm`).

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.
    .. [2] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> problem = InnerProblem(data=half, sampler=half, reference=half, beta=1.0)
    >>> problem.values(half)  # log 2
    tensor([0.6931], dtype=torch.float64)
    """

    data: TabularPolicy
    sampler: TabularPolicy
    reference: TabularPolicy | None
    beta: float
    loss_type: str = "logistic"
    initial: TabularPolicy | None = None
    history_weight: float = 0.0
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        tables = {"data": self.data, "sampler": self.sampler}
        if self.reference is not None:
            tables["reference"] = self.reference
        if self.initial is not None:
            tables["initial"] = self.initial
        require_same_shape(**tables)
        penalty_named(self.loss_type)
        object.__setattr__(self, "beta", require_beta(self.beta))
        for name in ("history_weight", "sft_weight"):
            object.__setattr__(self, name, require_weight(name, getattr(self, name)))
        if self.history_weight > 0 and self.initial is None:
            raise ValueError("history_weight > 0 needs initial, which gave the proto responses")

    @property
    def penalty(self) -> Penalty:
        """The penalty that `loss_type` names."""
        return penalty_named(self.loss_type)

    @property
    def sft(self) -> SftTerm | None:
        """The SFT term.

        Returns
        -------
        SftTerm or None
            None where its weight is 0.
        """
        if self.sft_weight == 0:
            return None
        real = self.data.log_probs
        reference = torch.zeros_like(real) if self.reference is None else self.reference.log_probs
        return SftTerm(self.sft_weight, self.beta, real, reference)

    def scores(self, policy: TabularPolicy) -> Tensor:
        """Scores of a policy's responses, whose differences are the margins.

        Parameters
        ----------
        policy : TabularPolicy, shape (X, Y)
            The policy p_theta.

        Returns
        -------
        Tensor, shape (X, Y)
            beta times log-probs or log-ratios, no unit; differentiable.
        """
        log_probs = policy.log_probs
        if self.reference is not None:
            log_probs = log_probs - self.reference.log_probs
        return self.beta * log_probs

    def policy(self, scores: Tensor) -> TabularPolicy:
        """Policy with given scores: the inverse of :meth:`scores`.

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            No unit; constants per prompt do not matter.

        Returns
        -------
        TabularPolicy
            The policy, normalised.
        """
        logits = scores / self.beta
        if self.reference is not None:
            logits = logits + self.reference.log_probs
        return TabularPolicy.from_logits(logits)

    def values(self, policy: TabularPolicy) -> Tensor:
        """Objective of each prompt.

        Parameters
        ----------
        policy : TabularPolicy, shape (X, Y)
            The policy p_theta.

        Returns
        -------
        Tensor, shape (X,)
            The expected loss, float64, differentiable in a policy built from logits.
        """
        return self.score_values(self.scores(policy))

    def score_values(self, scores: Tensor) -> Tensor:
        """Objective of each prompt as a function of the scores.

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            No unit.

        Returns
        -------
        Tensor, shape (X,)
            The expected loss, float64, differentiable in the scores.
        """
        total = average_penalty(
            scores, self.data.log_probs, self.sampler.log_probs, loss_type=self.loss_type
        )
        if self.history_weight > 0 and self.initial is not None:
            total = total + self.history_weight * average_penalty(
                scores, self.sampler.log_probs, self.initial.log_probs, loss_type=self.loss_type
            )
        return total if self.sft is None else total + self.sft.values(scores)

    def log_pair_weights(self) -> Tensor:
        r"""Log of the weight that each margin has in the objective.

        Returns
        -------
        Tensor, shape (X, Y, Y)
            Entry [x, i, j] is :math:`\log W_{ij}`, in nats, where the objective without its SFT
            term is :math:`\sum_{ij} W_{ij} \, \ell(f_i - f_j)`: :math:`W = p_{data} \otimes s + w
            \, s \otimes p_0`.
        """
        weights = pair_log_probs(self.data.log_probs, self.sampler.log_probs)
        if self.history_weight > 0 and self.initial is not None:
            history = pair_log_probs(self.sampler.log_probs, self.initial.log_probs)
            weights = torch.logaddexp(weights, history + math.log(self.history_weight))
        return weights

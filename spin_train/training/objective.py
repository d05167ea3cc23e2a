"""Which loss a training stage minimises: its roles, its weights, its value on log-probs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spin_theory.losses import gsil_loss, sft_loss, space_loss, spin_loss, tspin_loss, with_sft
from spin_train.config.schema import Config

__all__ = ["Objective", "control_objective", "selfplay_objective", "sft_objective"]

_ROLES = {
    "sft": ("real",),
    "spin": ("real", "generated"),
    "space": ("real", "generated"),
    "gsil": ("real", "generated"),
    "tspin": ("real", "generated", "proto"),
    "tspin_ref": ("real", "generated", "proto"),
}
_REFERENCES = {
    "spin": "opponent",
    "space": "opponent",
    "gsil": "opponent",
    "tspin_ref": "reference",
}


@dataclass(frozen=True)
class Objective:
    """A loss on the log-probs of a prompt's responses, one column per role."""

    algorithm: str
    """`sft`, or the `algorithm` of the run."""
    loss_type: str = "logistic"
    """Penalty of the loss, or the name of GSIL's."""
    beta: float = 1.0
    """Scale on log-prob differences; 1 in SPACE."""
    history_weight: float = 0.0
    """Weight of T-SPIN's historical advantage."""
    scale: float = 1.0
    """Factor on the whole loss."""
    sft_weight: float = 0.0
    """Weight of the SFT term."""
    space_mu: float = 1.0
    """SPACE's mu."""
    gsil_shift: float = 0.0
    """GSIL's shift."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the columns, in order."""
        return _ROLES[self.algorithm]

    @property
    def reference(self) -> str | None:
        """Whose log-probs the loss subtracts: the `opponent`'s, T-SPIN_ref p_0's, T-SPIN none."""
        return _REFERENCES.get(self.algorithm)

    def scores(self, policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
        """Take what the loss compares: log-ratios, or log-probs where there is no reference.

        Parameters
        ----------
        policy_logps, reference_logps : Tensor, shape (B, roles)
            Summed log-probs of the responses, nats.

        Returns
        -------
        Tensor, shape (B, roles)
            In nats.
        """
        return policy_logps - reference_logps if self.reference else policy_logps

    def __call__(self, policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
        """Loss of each row.

        Parameters
        ----------
        policy_logps, reference_logps : Tensor, shape (B, roles)
            Summed log-probs of the responses, nats. T-SPIN and SFT ignore the reference's.

        Returns
        -------
        Tensor, shape (B,)
            Not reduced.
        """
        real = policy_logps[:, 0]
        if self.algorithm == "sft":
            return self.scale * sft_loss(policy_real_logps=real)
        losses = self._self_play(policy_logps, reference_logps)
        return self.scale * with_sft(losses, policy_real_logps=real, sft_weight=self.sft_weight)

    def _self_play(self, policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
        """Loss of each row (B,), unscaled and without the SFT term."""
        if self.algorithm in ("tspin", "tspin_ref"):
            # T-SPIN_ref is T-SPIN on log-ratios to p_0.
            scores = self.scores(policy_logps, reference_logps)
            return tspin_loss(
                policy_real_logps=scores[:, 0],
                policy_generated_logps=scores[:, 1],
                policy_proto_logps=scores[:, 2],
                beta=self.beta,
                history_weight=self.history_weight,
                loss_type=self.loss_type,
            )
        logps: dict[str, Any] = {
            "policy_real_logps": policy_logps[:, 0],
            "policy_generated_logps": policy_logps[:, 1],
            "opponent_real_logps": reference_logps[:, 0],
            "opponent_generated_logps": reference_logps[:, 1],
        }
        if self.algorithm == "space":
            return space_loss(**logps, mu=self.space_mu)
        if self.algorithm == "gsil":
            return gsil_loss(
                **logps, beta=self.beta, loss_type=self.loss_type, shift=self.gsil_shift
            )
        return spin_loss(**logps, beta=self.beta, loss_type=self.loss_type)

    def sft_factor(
        self, opponent_logps: Tensor, reference_logps: Tensor, weights: Tensor | None = None
    ) -> float:
        r"""Say what the gradient at the opponent is of SFT's.

        Parameters
        ----------
        opponent_logps, reference_logps : Tensor, shape (B, roles)
            Summed log-probs of the responses under the opponent, and under whose log-probs the
            loss subtracts, nats.
        weights : Tensor, shape (B,), optional
            Factors on the losses of the rows, > 0; all 1 if not given.

        Returns
        -------
        float
            Weighted mean of :math:`-\partial L/\partial \log p_\theta(y)` where the policy is the
            opponent.

        Notes
        -----
        Where log-ratios are to the opponent they are 0 there, and the factor is the same for
        every row: SPIN :math:`\beta |\ell'(0)|`, SPACE :math:`\mu/(1 + \mu)`, GSIL :math:`\beta`
        times the slope of its real term at the shift; plus `sft_weight`. What the generated
        response adds has mean zero. T-SPIN's gradient is no multiple of SFT's: its factor is
        :math:`\beta |\ell'(\beta u)|`, u the margin of the row under the opponent, of which
        this is the mean, and its generated and proto responses add something of their own.
        """
        policy = opponent_logps.detach().double().requires_grad_()
        with torch.enable_grad():
            losses = self(policy, reference_logps.detach().double())
            (gradient,) = torch.autograd.grad(losses.sum(), policy)
        slopes = -gradient[:, 0]
        weights = torch.ones_like(slopes) if weights is None else weights.to(slopes)
        return float((weights * slopes).sum() / weights.sum())


def selfplay_objective(config: Config, iteration: int) -> Objective:
    """Objective of self-play iteration K.

    Parameters
    ----------
    config : Config
        Configuration of the run.
    iteration : int
        K, from 0.

    Returns
    -------
    Objective
        With the values its schedules have in this iteration.
    """
    return Objective(
        algorithm=config.algorithm,
        loss_type=config.loss_type,
        beta=config.at("beta", iteration),
        history_weight=config.at("history_weight", iteration),
        sft_weight=config.at("sft_weight", iteration),
        space_mu=config.space_mu,
        gsil_shift=config.gsil_shift,
    )


def sft_objective() -> Objective:
    """Objective of the supervised stage.

    Returns
    -------
    Objective
        The negative log-prob of the real response, summed over its tokens.
    """
    return Objective(algorithm="sft")


def control_objective(
    config: Config,
    iteration: int,
    scored: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
) -> Objective:
    r"""Objective of the control: what the self-play loss is to first order.

    Parameters
    ----------
    config : Config
        Configuration of the run.
    iteration : int
        K, from 0.
    scored : pair of Tensor, shape (B, roles), optional
        Log-probs of all training examples under the opponent, and under whose the loss
        subtracts, nats; only T-SPIN's factor depends on them.
    weights : Tensor, shape (B,), optional
        Factors on the losses of these examples, > 0; all 1 if not given.

    Returns
    -------
    Objective
        SFT times :meth:`Objective.sft_factor`. In expectation its gradient at the opponent is
        self-play's, so optimiser, clipping and learning rate see the same scale. T-SPIN's differs
        from SFT's in direction, and the factor makes the real responses count as much.
    """
    objective = selfplay_objective(config, iteration)
    if objective.reference == "opponent":  # every log-ratio is 0, whatever the row
        zeros = torch.zeros(1, len(objective.roles), dtype=torch.float64)
        return Objective(algorithm="sft", scale=objective.sft_factor(zeros, zeros))
    if scored is None:
        raise ValueError(f"the control of {config.algorithm} needs the scores of its examples")
    return Objective(algorithm="sft", scale=objective.sft_factor(*scored, weights))

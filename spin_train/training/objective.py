"""Which loss a training stage minimises: its roles, its weights, its value on log-probs."""

from dataclasses import dataclass

from torch import Tensor

from spin_theory.losses import PENALTIES, sft_loss, spin_loss, tspin_loss
from spin_train.config.schema import Config

__all__ = ["Objective", "control_objective", "selfplay_objective", "sft_objective"]

_ROLES = {
    "sft": ("real",),
    "spin": ("real", "generated"),
    "tspin": ("real", "generated", "proto"),
    "tspin_ref": ("real", "generated", "proto"),
}


@dataclass(frozen=True)
class Objective:
    """A loss on the log-probs of a prompt's responses, one column per role."""

    algorithm: str
    """`sft`, `spin`, `tspin` or `tspin_ref`."""
    loss_type: str = "logistic"
    """Penalty of the loss."""
    beta: float = 1.0
    """Scale on log-prob differences."""
    history_weight: float = 0.0
    """Weight of T-SPIN's historical advantage."""
    scale: float = 1.0
    """Factor on the whole loss."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the columns, in order."""
        return _ROLES[self.algorithm]

    @property
    def reference(self) -> str | None:
        """Whose log-probs the loss subtracts: SPIN the `opponent`'s, T-SPIN_ref p_0's."""
        return {"spin": "opponent", "tspin_ref": "reference"}.get(self.algorithm)

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
        if self.algorithm == "sft":
            return self.scale * sft_loss(policy_real_logps=policy_logps[:, 0])
        if self.algorithm == "spin":
            return self.scale * spin_loss(
                policy_real_logps=policy_logps[:, 0],
                policy_generated_logps=policy_logps[:, 1],
                opponent_real_logps=reference_logps[:, 0],
                opponent_generated_logps=reference_logps[:, 1],
                beta=self.beta,
                loss_type=self.loss_type,
            )
        # T-SPIN_ref is T-SPIN on log-ratios to p_0.
        scores = self.scores(policy_logps, reference_logps)
        return self.scale * tspin_loss(
            policy_real_logps=scores[:, 0],
            policy_generated_logps=scores[:, 1],
            policy_proto_logps=scores[:, 2],
            beta=self.beta,
            history_weight=self.history_weight,
            loss_type=self.loss_type,
        )


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
    )


def sft_objective() -> Objective:
    """Objective of the supervised stage.

    Returns
    -------
    Objective
        The negative log-prob of the real response, summed over its tokens.
    """
    return Objective(algorithm="sft")


def control_objective(config: Config, iteration: int) -> Objective:
    r"""Objective of the control: what the self-play loss is to first order.

    Parameters
    ----------
    config : Config
        Configuration of the run.
    iteration : int
        K, from 0.

    Returns
    -------
    Objective
        SFT times :math:`\beta |\ell'(0)|`. In expectation its gradient at the opponent is SPIN's,
        so optimiser, clipping and learning rate see the same scale.
    """
    slope = PENALTIES[config.loss_type].slope_at_zero
    return Objective(algorithm="sft", scale=config.at("beta", iteration) * abs(slope))

"""`SpinTrainer`: the loss and its metrics on transformers' Trainer, nothing else."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from spin_train.errors import DivergedError, UserError
from spin_train.model.logps import Group, response_logps, response_loss
from spin_train.model.rounding import Rounding
from spin_train.model.routers import RouterLoss
from spin_train.system.ranks import Ranks
from spin_train.training.batching import MicroBatch
from spin_train.training.objective import Objective
from spin_train.training.speed import SpeedLines
from spin_train.training.sums import MetricSums

__all__ = ["STEP_ZERO_TOLERANCE", "SpinTrainer", "collate"]

# Scoring and training see a response in batches of other shapes. Seen, at most: float32 2e-4 nats
# for 128 tokens, bfloat16 2.4 for 256.
STEP_ZERO_TOLERANCE = {
    "float32": Rounding(1e-4, 5e-5, drift=1e-6),
    "bfloat16": Rounding(0.1, 0.5, drift=5e-3),
}


def collate(items: list[MicroBatch]) -> dict[str, MicroBatch]:
    """Pass a micro-batch through the data loader as it is.

    Parameters
    ----------
    items : list of MicroBatch
        Exactly one: the data set yields whole micro-batches.

    Returns
    -------
    dict
        ``{"batch": micro_batch}``.
    """
    (item,) = items
    return {"batch": item}


class SpinTrainer(Trainer):
    """Trains the policy on examples whose opponent log-probs were read from disk.

    Parameters
    ----------
    *args, **kwargs
        As for `transformers.Trainer`; `train_dataset` is a `MicroBatches`.
    objective : Objective
        The loss and its roles.
    dtype : str
        Of the forward pass, ``float32`` or ``bfloat16``; sets the tolerance of the step-0 check.
    ranks : Ranks
        Metrics are means over all of them.
    sums : MetricSums
        What was summed since the last logged line.
    routers : RouterLoss, optional
        Auxiliary loss of a mixture of experts.
    speed : SpeedLines, optional
        What reporters show of the speed, next to the metrics.
    """

    # The weights of the micro-batches make the sum over them the mean over the global batch.
    loss_is_scaled_for_ga = True
    objective: Objective

    def __init__(
        self,
        *args: Any,
        objective: Objective,
        dtype: str,
        ranks: Ranks,
        sums: MetricSums,
        routers: RouterLoss | None = None,
        speed: SpeedLines | None = None,
        **kwargs: Any,
    ) -> None:
        # Before transformers 5.20 a Trainer knows no `loss_is_scaled_for_ga`: it takes a loss as
        # scaled where it was given a function for it, which `compute_loss` below never calls.
        kwargs["compute_loss_func"] = self.compute_loss
        super().__init__(*args, **kwargs)
        self.objective = objective
        self._dtype = dtype
        self._ranks = ranks
        self._sums = sums
        self._routers = routers
        self._speed = speed

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One micro-batch; before the first update, the step-0 checks on it as well."""
        if self.state.global_step == 0:
            self._check_step_zero(model, inputs["batch"])
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Sum of the micro-batch's losses times its weight."""
        batch: MicroBatch = inputs["batch"]
        reference_logps = _on_device(
            model, [example.reference_logps or example.opponent_logps for example in batch.examples]
        )

        weights = _on_device(model, [example.weight for example in batch.examples])

        def weighted(policy_logps: Tensor, block: slice) -> Tensor:
            losses = self.objective(self._by_role(policy_logps), reference_logps[block])
            return batch.weight * (weights[block] * losses).sum()

        loss, logps = response_loss(model, _groups(batch), weighted, routers=self._routers)
        policy_logps = self._by_role(logps)
        values = self._metrics(policy_logps, reference_logps)
        if self._routers is not None:  # counts as much per example as any other term
            balance = self._routers.taken()
            loss = loss + batch.weight * len(batch.examples) * balance
            values["loss/router"] = balance.detach().expand(len(batch.examples))
        if self.objective.sft_weight > 0:  # how much of `loss` it is
            values["loss/sft"] = -self.objective.sft_weight * weights * policy_logps[:, 0]
        self._sums.add(values, loss=loss, counts=batch.weight > 0)
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics, means over the examples of all ranks since the last line."""
        if "train_runtime" in logs:
            # The summary at the end counts micro-batches as samples, and starts again on resuming;
            # the seconds of the stage are in the manifest.
            return
        if "loss" in logs:
            # Ours, which a checkpoint keeps; transformers' own forgets what came before it.
            logs |= self._sums.means(self._ranks, step=self.state.global_step)
            if not math.isfinite(logs["loss"]):
                raise DivergedError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}: lower "
                    "learning_rate (or beta), then start in a new output_dir"
                )
        super().log(logs, start_time)
        if self._speed is not None and (shown := self._speed.shown):
            # For reporters alone: in `logs` they would get into metrics.jsonl and checkpoints.
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, shown)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Leave weights out of checkpoints: DeepSpeed's own files hold them."""
        if not _internal_call:
            super().save_model(output_dir)

    def _by_role(self, logps: Tensor) -> Tensor:
        """Give each example a row, each role a column."""
        return logps.view(-1, len(self.objective.roles))

    def _check_step_zero(self, model: Any, batch: MicroBatch) -> None:
        """Refuse scores that are not the policy's, and noise that only training has."""
        groups = _groups(batch)
        model.eval()
        with torch.no_grad():
            policy_logps = self._by_role(response_logps(model, groups))
            model.train()
            in_training = self._by_role(response_logps(model, groups))
        lengths = torch.tensor(
            [[len(ids) for ids in group.responses] for group in groups], device=policy_logps.device
        )
        tolerance = STEP_ZERO_TOLERANCE[self._dtype]
        noise = (in_training - policy_logps).abs()
        if not tolerance.explains(noise.nan_to_num(), lengths):  # nan is told below
            raise UserError(
                "step-0 check: in training mode the model's log-probs differ from those in "
                f"evaluation by {noise.max().item():.3g} nats: it has dropout, or draws random "
                "numbers, that cannot be switched off; without training.gradient_checkpointing "
                "layers stay in evaluation mode"
            )
        if self.objective.algorithm == "sft":
            return
        opponent_logps = _on_device(model, [example.opponent_logps for example in batch.examples])
        log_ratio = (policy_logps - opponent_logps).abs()
        if not tolerance.explains(log_ratio, lengths):
            rms = log_ratio.square().mean().sqrt().item()
            raise UserError(
                "step-0 check: before any update, log-ratios to the stored opponent scores are up "
                f"to {log_ratio.max().item():.3g} nats, {rms:.3g} root mean square, and not 0 "
                f"(tolerance: {tolerance}): the scores come from another model; delete this "
                "iteration's scored/ to score again. If the same numbers come back, it is rounding "
                f"in {self._dtype}: branch with training.dtype=float32, and report it"
            )

    def _metrics(self, policy_logps: Tensor, reference_logps: Tensor) -> dict[str, Tensor]:
        """Metrics of each example, by name."""
        columns = {"logps": policy_logps}
        if self.objective.reference:
            columns["rewards"] = self.objective.beta * (policy_logps - reference_logps)
        values = {
            f"{name}/{role}": column
            for name, of_roles in columns.items()
            for role, column in zip(self.objective.roles, of_roles.unbind(1), strict=True)
        }
        if self.objective.algorithm != "sft":
            contrast = columns.get("rewards", self.objective.beta * policy_logps)
            values["rewards/margin"] = contrast[:, 0] - contrast[:, 1]
            values["rewards/accuracy"] = (values["rewards/margin"] > 0).float()
        return values


def _groups(batch: MicroBatch) -> list[Group]:
    return [example.group for example in batch.examples]


def _on_device(model: Any, logps: Sequence[Any]) -> Tensor:
    """Move stored numbers to the model's device, in the type of its own sums."""
    parameter = next(model.parameters())
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    # Without waiting for a forward pass that still runs on the GPU.
    return torch.tensor(logps, dtype=dtype).to(parameter.device, non_blocking=True)

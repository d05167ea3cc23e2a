"""The game on finite data: rows drawn once and kept, fresh samples, epochs, and the SFT control."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spin_theory.divergences import kl, tv
from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.inputs import generator as seeded
from spin_theory.inputs import whole
from spin_theory.losses import penalty_named, require_beta, require_weight, with_sft
from spin_theory.policies import TabularPolicy, require_same_shape

__all__ = ["FiniteGame", "Track", "play_rows"]

OPTIMISERS = {"gd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}

Loss = Callable[[Tensor, Tensor], Tensor]
"""From log-probs (X, Y) and the indices of a batch of rows (X, B) to losses (X, B)."""


@dataclass(frozen=True)
class Track:
    """Policies of one way of training, and how far they are from the data and from the rows.

    Attributes
    ----------
    policies : tuple of TabularPolicy, shape (X, Y)
        The start, then one after each iteration, T + 1 of them.
    data : TabularPolicy, shape (X, Y)
        p_data, from which the rows were drawn.
    frequencies : Tensor, shape (X, Y)
        Share of each response among the rows, zeros included.
    """

    policies: tuple[TabularPolicy, ...]
    data: TabularPolicy
    frequencies: Tensor

    @cached_property
    def kl(self) -> Tensor:
        """Divergence of each policy from the population.

        Returns
        -------
        Tensor, shape (T + 1,)
            KL(p_data || p_t) in nats, mean over prompts.
        """
        return torch.stack([kl(self.data, policy).mean() for policy in self.policies])

    @cached_property
    def tv(self) -> Tensor:
        """Distance of each policy from the population.

        Returns
        -------
        Tensor, shape (T + 1,)
            Total variation distance of p_data and p_t, mean over prompts.
        """
        return torch.stack([tv(self.data, policy).mean() for policy in self.policies])

    @cached_property
    def train_kl(self) -> Tensor:
        """Divergence of each policy from the rows.

        Returns
        -------
        Tensor, shape (T + 1,)
            KL(rows || p_t) in nats with 0 log 0 = 0, mean over prompts.
        """
        shares = self.frequencies
        terms = [torch.xlogy(shares, shares) - shares * one.log_probs for one in self.policies]
        return torch.stack([term.sum(dim=-1).mean() for term in terms])


@dataclass(frozen=True)
class FiniteGame:
    """Self-play on rows and its control, as :func:`play_rows` returns them.

    Attributes
    ----------
    spin : Track
        The iterates of self-play.
    control : Track
        Continued SFT on the same batches, for as many steps.
    rows : Tensor of int, shape (X, N)
        The real response of each row.
    """

    spin: Track
    control: Track
    rows: Tensor


def play_rows(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    rows: int,
    beta: float,
    iterations: int,
    epochs: int = 2,
    batch_size: int = 64,
    learning_rate: float = 1.0,
    optimiser: str = "gd",
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
    sft_weight: float = 0.0,
    seed: int = 0,
) -> FiniteGame:
    r"""Play on rows that are drawn once, as a run does on its data set.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data. Prompts share nothing, so X prompts are X games played at once.
    rows : int
        Real responses drawn from p_data for each prompt, at least 1. With the same seed, fewer
        rows are the first of more: training sets are nested.
    beta : float
        Scale on log-prob differences, > 0, no unit.
    iterations : int
        How many, at least 0. Each draws one fresh generated response per row from its opponent.
    epochs : int, default 2
        Passes over the rows in each iteration, at least 0. One iteration of many epochs is
        training against one opponent and its first samples.
    batch_size : int, default 64
        Rows per step, at least 1; the last batch of an epoch may be smaller.
    learning_rate : float, default 1.0
        On the logits of a prompt, > 0. The control's is scaled by ``beta * abs(l'(0)) +
        sft_weight``, which makes its first step SPIN's in expectation.
    optimiser : {'gd', 'rmsprop'}, default 'gd'
        Gradient descent or torch's RMSProp, with fresh state in each iteration.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator: :func:`last_iterate` is SPIN,
        :func:`without_reference` T-SPIN.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term, >= 0; its proto responses are drawn once, one per row.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    seed : int, default 0
        Of rows, samples and the order of the rows.

    Returns
    -------
    FiniteGame
        Iterates and control, with divergences to the rows and to the data.

    Raises
    ------
    ValueError
        If shapes differ or a number is out of its range.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> game = play_rows(start, data, rows=200, beta=1.0, iterations=3)
    >>> bool(game.spin.kl[-1] < game.spin.kl[0]), len(game.control.policies)
    (True, 4)
    """
    require_same_shape(start=start, data=data)
    require_beta(beta)
    _require(rows=rows, iterations=iterations, epochs=epochs, batch_size=batch_size)
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be > 0, got {learning_rate!r}")
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}, got {optimiser!r}")
    if not history_weight >= 0:
        raise ValueError(f"history_weight must be >= 0, got {history_weight!r}")
    sft_weight = require_weight("sft_weight", sft_weight)
    penalty = penalty_named(loss_type)
    first = whole("seed", seed, least=-(2**63))
    sources = [seeded((4 * first + kind) % 2**63) for kind in range(4)]
    real, proto = (
        _sample(policy, rows, source)
        for policy, source in zip((data, start), sources, strict=False)
    )
    policies, controls = [start], [start]
    for _ in range(iterations):
        chosen = opponent(policies)
        generated = _sample(chosen.sampler, rows, sources[2])
        reference = 0.0 if chosen.reference is None else chosen.reference.log_probs

        def of_pairs(
            log_probs: Tensor,
            batch: Tensor,
            generated: Tensor = generated,
            reference: Tensor | float = reference,
        ) -> Tensor:
            scores = beta * (log_probs - reference)
            mine, other, first = (
                scores.gather(1, drawn.gather(1, batch)) for drawn in (real, generated, proto)
            )
            losses = penalty(mine - other)
            if history_weight > 0:
                losses = losses + history_weight * penalty(other - first)
            real_logps = log_probs.gather(1, real.gather(1, batch))
            return with_sft(losses, policy_real_logps=real_logps, sft_weight=sft_weight)

        def of_rows(log_probs: Tensor, batch: Tensor) -> Tensor:
            factor = sft_weight - penalty.slope_at_zero * beta
            return -factor * log_probs.gather(1, real.gather(1, batch))

        orders = [_order(len(real), rows, sources[3]) for _ in range(epochs)]
        batches = [batch for order in orders for batch in torch.split(order, batch_size, dim=1)]
        rule = OPTIMISERS[optimiser]
        policies.append(_train(policies[-1], of_pairs, batches, rule, learning_rate))
        controls.append(_train(controls[-1], of_rows, batches, rule, learning_rate))
    counts = torch.zeros_like(data.log_probs)
    frequencies = counts.scatter_add(1, real, torch.ones_like(real, dtype=counts.dtype)) / rows
    spin, control = (Track(tuple(track), data, frequencies) for track in (policies, controls))
    return FiniteGame(spin, control, real)


def _require(**counts: int) -> None:
    """Raise ValueError unless rows and batch_size are at least 1, the others at least 0."""
    for name, value in counts.items():
        least = 1 if name in ("rows", "batch_size") else 0
        if not value >= least:
            raise ValueError(f"{name} must be >= {least}, got {value!r}")


def _sample(policy: TabularPolicy, rows: int, generator: torch.Generator) -> Tensor:
    """Draw responses by inversion, (X, N), prompt after row: fewer rows are the first of more."""
    heights = torch.rand(rows, len(policy.log_probs), 1, generator=generator, dtype=torch.float64)
    steps = policy.probs.cumsum(dim=-1)[:, :-1]  # (X, Y - 1)
    return (heights >= steps).sum(dim=-1).T.contiguous()


def _order(prompts: int, rows: int, generator: torch.Generator) -> Tensor:
    """Order in which an epoch takes the rows of each prompt, (X, N)."""
    return torch.rand(prompts, rows, generator=generator).argsort(dim=-1)


def _train(
    start: TabularPolicy,
    loss: Loss,
    batches: list[Tensor],
    rule: type[torch.optim.SGD] | type[torch.optim.RMSprop],
    learning_rate: float,
) -> TabularPolicy:
    """Take a step on the mean loss of each batch."""
    logits = start.log_probs.detach().clone().requires_grad_()
    steps = rule([logits], lr=learning_rate)
    for batch in batches:
        losses = loss(torch.log_softmax(logits, dim=-1), batch)
        (logits.grad,) = torch.autograd.grad(losses.mean(dim=-1).sum(), logits)
        steps.step()
    return TabularPolicy.from_logits(logits.detach())

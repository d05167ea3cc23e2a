"""Where self-play settles and how fast: multipliers, the linearised map, cycles, inexact runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.divergences import tv
from spin_theory.dynamics import multiplier
from spin_theory.inner_problems import InnerProblem
from spin_theory.losses import penalty_named
from spin_theory.newton import log_pulls
from spin_theory.opponents import OpponentRule, last_iterate
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.updates import solve

__all__ = [
    "Linearisation",
    "cycle_length",
    "effective_beta",
    "fixed_point",
    "iterations_to",
    "linearise",
    "mixing_multipliers",
    "observed_multipliers",
]

Policies = Sequence[TabularPolicy]

MOST_ITERATIONS = 10_000  # of the fixed point's search


@dataclass(frozen=True)
class Linearisation:
    """One iteration of a game near some policies, as a matrix.

    Attributes
    ----------
    matrix : Tensor, shape (depth * Y, depth * Y)
        From the log-probs of the last `depth` iterates, newest first, to those one iteration
        later, to first order; constants per iterate are projected out.
    multipliers : Tensor, shape (depth * Y,), complex
        Its eigenvalues, the largest in absolute value first; no unit.
    """

    matrix: Tensor
    multipliers: Tensor

    @property
    def spectral_radius(self) -> float:
        """Factor by which a small deviation shrinks or grows, in the long run."""
        return float(self.multipliers.abs().max())


def linearise(
    policies: Policies,
    data: TabularPolicy,
    *,
    beta: float,
    depth: int = 1,
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
) -> Linearisation:
    r"""Linearise one exact iteration of a game of one prompt.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (1, Y)
        p_0, then the iterates up to p_t at which to linearise; at least `depth` after p_0.
    data : TabularPolicy, shape (1, Y)
        p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit.
    depth : int, default 1
        How many of the last iterates the rule looks at: 2 for :func:`mixed_samples`.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty :math:`\ell`.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term, >= 0, no unit.

    Returns
    -------
    Linearisation
        The matrix and its multipliers.

    Raises
    ------
    ValueError
        If there is more than one prompt, too few policies, or a penalty that is not smooth.

    Notes
    -----
    By the implicit function theorem: the scores f solve g(f, state) = 0, g the gradient of the
    inner problem, so df = -H^+ (dg/dstate), H the Hessian, a graph Laplacian.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    >>> round(linearise([data, data], data, beta=2.0).spectral_radius, 12)  # 1 - 1/2
    0.5
    """
    if loss_type not in ("logistic", "exponential"):
        raise ValueError(f"loss_type must be logistic or exponential, got {loss_type!r}")
    if len(data.log_probs) != 1:
        raise ValueError(f"data must have one prompt, got {len(data.log_probs)}")
    if not 1 <= depth <= len(policies) - 1:
        raise ValueError(f"depth must be from 1 to {len(policies) - 1}, got {depth!r}")
    earlier, tail = list(policies[:-depth]), policies[-depth:]
    responses = data.log_probs.shape[1]

    def problem(state: Tensor) -> InnerProblem:  # (depth, Y), newest first
        iterates = [TabularPolicy.from_logits(row[None]) for row in state.flip(0)]
        chosen = opponent([*earlier, *iterates])
        return InnerProblem(
            data=data,
            sampler=chosen.sampler,
            reference=chosen.reference,
            beta=beta,
            loss_type=loss_type,
            initial=policies[0],
            history_weight=history_weight,
        )

    state = torch.cat([policy.log_probs for policy in reversed(tail)]).detach()
    scores = problem(state).scores(solve(problem(state))).detach()

    def gradient(moved: Tensor) -> Tensor:
        pulls = log_pulls(scores, problem(moved).log_pair_weights(), loss_type)[0].exp()
        return (pulls.sum(dim=-2) - pulls.sum(dim=-1))[0]

    def log_reference(moved: Tensor) -> Tensor:
        reference = problem(moved).reference
        return moved.sum() * data.log_probs[0] * 0 if reference is None else reference.log_probs[0]

    curvature = log_pulls(scores, problem(state).log_pair_weights(), loss_type)[1].exp()[0].detach()
    curvature = curvature + curvature.T
    curvature.fill_diagonal_(0.0)
    hessian = curvature.sum(dim=-1).diag() - curvature
    push: Tensor = jacobian(gradient, state)  # type: ignore[no-untyped-call]
    carried: Tensor = jacobian(log_reference, state)  # type: ignore[no-untyped-call]
    ones = torch.ones_like(hessian) / responses  # the null space, lifted
    moved_scores = -torch.linalg.solve(hessian + ones * hessian.diagonal().mean(), push.flatten(1))
    step = carried.flatten(1) + moved_scores / beta  # (Y, depth * Y)
    centre = torch.eye(responses, dtype=step.dtype) - ones
    centres = torch.kron(torch.eye(depth, dtype=step.dtype), centre)
    blocks = centre @ step @ centres
    shift = torch.eye((depth - 1) * responses, depth * responses, dtype=step.dtype)
    matrix = torch.cat([blocks, shift @ centres])
    multipliers = torch.linalg.eigvals(matrix)
    return Linearisation(matrix, multipliers[multipliers.abs().argsort(descending=True)])


def mixing_multipliers(*, beta: float, loss_type: str = "logistic") -> tuple[complex, complex]:
    r"""Multipliers of SPIN with the samples of the last two iterates mixed, near the data.

    Parameters
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    tuple of complex
        The roots of :math:`r^2 - (1 - \frac{1}{2\beta}) r + \frac{1}{2\beta}` (exponential:
        :math:`2\beta` for :math:`\beta`), no unit.

    Raises
    ------
    ValueError
        If `beta` is not finite and > 0, or the penalty has no closed form.

    Notes
    -----
    Stable near the data where beta > 1/2; at 1/2 the roots are i and -i, so that just above a
    game from afar goes round in four for a thousand iterations before it settles. The rate is
    :math:`1/\sqrt{2\beta}` while the roots are complex, :math:`0.086 < \beta < 2.914`.

    Examples
    --------
    >>> abs(mixing_multipliers(beta=2.0)[0])  # 1/sqrt(4), as plain SPIN: 1 - 1/2
    0.5
    """
    half = (1 - multiplier(beta=beta, loss_type=loss_type)) / 2  # 1/(2 beta)
    one, two = np.roots([1.0, -(1 - half), half])
    return complex(one), complex(two)


def fixed_point(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
    damping: float = 0.5,
    tolerance: float = 1e-14,
) -> TabularPolicy:
    r"""Policy that an exact iteration leaves as it is, whether or not the game gets there.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0, which T-SPIN's history term holds on to, and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential'}, default 'logistic'
        The penalty.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator; called with p_0 and the candidate.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term, >= 0, no unit.
    damping : float, default 0.5
        Part of the way to the next iterate that a step goes, in (0, 1]; below 1, negative
        multipliers lose their cycles and the fixed point does not move.
    tolerance : float, default 1e-14
        Total variation distance of the policy and its next iterate.

    Returns
    -------
    TabularPolicy
        The fixed point found from `start`.

    Raises
    ------
    ValueError
        If none is found within 10,000 steps.

    Notes
    -----
    T-SPIN without history: :math:`\propto p_{data}^{1/(1 + \alpha)}`, not the data.

    Examples
    --------
    >>> from spin_theory.opponents import without_reference
    >>> start, data = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.4, 0.8))
    >>> fixed_point(start, data, beta=1.0, opponent=without_reference).probs  # odds sqrt(4)
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], got {damping!r}")
    policy, updated, moved = start, None, math.inf
    for _ in range(MOST_ITERATIONS):
        chosen = opponent([start, policy])
        updated = solve(
            InnerProblem(
                data=data,
                sampler=chosen.sampler,
                reference=chosen.reference,
                beta=beta,
                loss_type=loss_type,
                initial=start,
                history_weight=history_weight,
            ),
            start=updated,
        )
        moved = float(tv(updated, policy).max())
        if moved <= tolerance:
            return policy
        policy = TabularPolicy.from_logits(
            (1 - damping) * policy.log_probs + damping * updated.log_probs
        )
    raise ValueError(
        f"no fixed point within {MOST_ITERATIONS} steps: the last moved by {moved:.1e}"
    )


def observed_multipliers(
    policies: Policies, limit: TabularPolicy, *, order: int = 1
) -> tuple[complex, ...]:
    r"""Multipliers that a run of iterates shows, by a least-squares fit of a recurrence.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (X, Y)
        Consecutive iterates; more than `order`.
    limit : TabularPolicy, shape (X, Y)
        What deviations are taken from: the fixed point.
    order : int, default 1
        How many earlier deviations the next one is a combination of.

    Returns
    -------
    tuple of complex
        Roots of the fitted recurrence, no unit, the largest in absolute value first.

    Raises
    ------
    ValueError
        If there are too few policies, or none deviates.

    Notes
    -----
    Deviations are log-ratios to the limit, centred per prompt, each equation scaled to the size
    of its deviations, so that late ones count as much as early ones.

    Examples
    --------
    >>> from spin_theory.dynamics import play
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> game = play(start, data, beta=4.0, iterations=3)
    >>> round(observed_multipliers(game.policies, data)[0].real, 12)  # 1 - 1/4
    0.75
    """
    if len(policies) <= order:
        raise ValueError(f"policies must be more than order, got {len(policies)} and {order}")
    rows = [_centred(policy, limit).flatten().numpy() for policy in policies]
    knowns, unknowns = [], []
    for index in range(order, len(rows)):
        past = np.stack(rows[index - order : index][::-1], axis=1)  # newest first
        scale = np.abs(past).max()
        if scale > 0:
            knowns.append(past / scale)
            unknowns.append(rows[index] / scale)
    if not knowns:
        raise ValueError("policies must deviate from the limit, and none does")
    solution = np.linalg.lstsq(np.concatenate(knowns), np.concatenate(unknowns), rcond=None)[0]
    roots = np.roots(np.concatenate([[1.0], -solution]))
    return tuple(complex(root) for root in sorted(roots, key=abs, reverse=True))


def cycle_length(policies: Policies, *, tolerance: float = 1e-9) -> int | None:
    """Period of the cycle that a run of iterates ended in.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (X, Y)
        Consecutive iterates.
    tolerance : float, default 1e-9
        Total variation distance below which two iterates are the same.

    Returns
    -------
    int or None
        1 for a fixed point, k for a cycle of k iterates, None where the last half of the
        iterates repeats with no period up to a quarter of their number.

    Examples
    --------
    >>> from spin_theory.dynamics import play
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> cycle_length(play(start, data, beta=0.5, iterations=8).policies)
    2
    """
    late = policies[len(policies) // 2 :]
    for period in range(1, len(policies) // 4 + 1):
        pairs = zip(late, late[period:], strict=False)
        if all(float(tv(one, other).max()) <= tolerance for one, other in pairs):
            return period
    return None


def iterations_to(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    epsilon: float,
    loss_type: str = "logistic",
) -> int | None:
    r"""Count the iterations of exact SPIN until the policy stays within epsilon of the data.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    epsilon : float
        Total variation distance, the largest over prompts, > 0.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    int or None
        The least such number; None where the log-ratio does not contract.

    Raises
    ------
    ValueError
        If shapes differ, `epsilon` or `beta` is not > 0, or the penalty has no closed form.

    Notes
    -----
    Along :math:`p_{data} (p_0/p_{data})^s` total variation from the data grows with |s| on
    either side of 0, and s = m^t, so the even and the odd iterations are searched by bisection.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> iterations_to(start, data, beta=1.0, epsilon=1e-6)
    1
    """
    require_same_shape(start=start, data=data)
    if not epsilon > 0:
        raise ValueError(f"epsilon must be > 0, got {epsilon!r}")
    factor = multiplier(beta=beta, loss_type=loss_type)

    def far(iteration: int) -> bool:
        power = factor**iteration
        logits = data.log_probs + power * (start.log_probs - data.log_probs)
        return float(tv(TabularPolicy.from_logits(logits), data).max()) > epsilon

    if abs(factor) >= 1:
        return None if far(0) else 0
    last = -1  # the last iteration that is far
    for parity in (0, 1):
        if not far(parity):
            continue
        low, high = 0, 1  # in steps of two iterations
        while far(parity + 2 * high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if far(parity + 2 * middle) else (low, middle)
        last = max(last, parity + 2 * low)
    return last + 1


def effective_beta(
    opponent: TabularPolicy,
    policy: TabularPolicy,
    data: TabularPolicy,
    *,
    loss_type: str = "logistic",
) -> Tensor:
    r"""Beta at which one exact iteration would come nearest to an inexact one.

    Parameters
    ----------
    opponent, policy, data : TabularPolicy, shape (X, Y)
        p_t, the p_{t+1} that a run reached, and p_data.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    Tensor, shape (X,)
        Beta of each prompt, no unit; infinite where the policy did not move, negative where it
        moved away from the data, nan where the opponent is the data.

    Raises
    ------
    ValueError
        If shapes differ or the penalty has no closed form.

    Notes
    -----
    The multiplier m of :math:`\log p_{t+1}/p_{data} = m \log p_t/p_{data}` by least squares
    under p_data; :math:`\beta = 1/(1 - m)` for logistic, half of it for exponential.

    Examples
    --------
    >>> from spin_theory.updates import closed_form_update
    >>> opponent, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> float(effective_beta(opponent, closed_form_update(opponent, data, beta=2.0), data).round())
    2.0
    """
    require_same_shape(opponent=opponent, policy=policy, data=data)
    penalty_named(loss_type)
    moved = policy.log_probs - opponent.log_probs
    wanted = data.log_probs - opponent.log_probs
    weights = data.probs
    moved, wanted = (part - (weights * part).sum(dim=-1, keepdim=True) for part in (moved, wanted))
    share = (weights * moved * wanted).sum(dim=-1) / (weights * wanted.square()).sum(dim=-1)
    return (1 - multiplier(beta=1.0, loss_type=loss_type)) / share  # 1 - m is that over beta


def _centred(policy: TabularPolicy, limit: TabularPolicy) -> Tensor:
    log_ratios = policy.log_probs - limit.log_probs
    return log_ratios - log_ratios.mean(dim=-1, keepdim=True)

"""Tables of probabilities, averages over prompts, and who the opponent is."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.distance import pair_policies
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.games.opponents import (
    average_of_iterates,
    geometric_mixture,
    last_iterate,
    mixed_samples,
    moving_average,
    without_reference,
)
from spin_theory.inputs import rounding_of
from spin_theory.minima.policy_classes import LogLinearClass
from spin_theory.policies import (
    TabularPolicy,
    pair_log_probs,
    pairwise_differences,
    prompt_average,
    prompt_weights,
)
from spin_theory.tolerances import FEW_TERMS, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_opponents", "check_tables"]


def check_tables(
    p: TabularPolicy,
    q: TabularPolicy,
    *,
    features: Tensor,
    parameters: Tensor,
    seed: int,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check what tables are made from and what is made of them.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        Two policies.
    features : Tensor, shape (X, Y, D)
        Features of a log-linear class, float64.
    parameters : Tensor, shape (D,)
        A member of that class.
    seed : int
        Of the random policy that is drawn again.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of log-probs from probabilities and from logits, of
        differences and products of pairs, of averages over prompts, of a log-linear policy, and
        of a random policy, whose log-probs are uniform up to a constant.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> p, q = (TabularPolicy.random(2, 5, seed=seed) for seed in (0, 1))
    >>> features = torch.randn(2, 5, 3, dtype=torch.float64)
    >>> check_tables(p, q, features=features, parameters=features[0, 0], seed=3).holds
    True
    """
    log_p, log_q = p.log_probs.numpy(), q.log_probs.numpy()
    size = 1 + np.abs(log_p).max() + np.abs(log_q).max()
    differences = np.array([[a - b for b in row] for row in log_p for a in row])
    pairs = np.array(
        [[a + b for b in other] for row, other in zip(log_p, log_q, strict=True) for a in row]
    )
    orders = pair_policies(p, q)
    again = np.arange(1.0, 1.0 + log_p.shape[0])[:, None]  # a constant per prompt, which is free
    scores = np.einsum("xyd,d->xy", features.numpy(), parameters.numpy())
    log_linear = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    fractions = torch.rand(
        2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).numpy()
    logits = fractions * math.log(1e-6)
    drawn = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    family = LogLinearClass(features)
    apart = [
        (p.probs, np.exp(log_p)),
        (TabularPolicy.from_probs(torch.from_numpy(np.exp(log_p))).log_probs, log_p),
        (TabularPolicy.from_logits(torch.from_numpy(log_p + again)).log_probs, log_p),
        (pairwise_differences(p.log_probs).flatten(0, 1), differences),
        (pair_log_probs(p.log_probs, q.log_probs).flatten(0, 1), pairs),
        (orders[0].log_probs.flatten(), pairs.flatten()),
        (orders[1].log_probs.reshape(len(log_p), -1, log_p.shape[1]).mT.flatten(), pairs.flatten()),
        (family.log_probs(parameters), log_linear),
        (family.policy(parameters).log_probs, log_linear),
        (TabularPolicy.random(2, 6, seed=seed, smallest=1e-6).log_probs, drawn),
    ]
    errors = [float(np.abs(found.numpy() - right).max()) / size for found, right in apart]
    # Tables of float32 may be off by 32 units in their last place, those of float64 by none.
    errors.append(abs(rounding_of(p.probs.float()) / 2**-18 - 1) + rounding_of(p.probs))
    for weights in (None, torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=torch.float64)):
        shares = [0.25] * 4 if weights is None else weights.tolist()
        errors.append(float((prompt_weights(4, weights) - torch.tensor(shares)).abs().max()))
        values = log_p[0, [0, -1, 0, 1]]
        average = math.fsum(share * value for share, value in zip(shares, values, strict=True))
        errors.append(
            abs(float(prompt_average(torch.from_numpy(values), weights)) - average) / size
        )
    return Evidence(largest_error(errors), tolerance, {"largest": float(size)})


def check_opponents(
    first: TabularPolicy,
    second: TabularPolicy,
    third: TabularPolicy,
    *,
    base_weight: float = 0.3,
    decay: float = 0.4,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check who generates and what the denominator is, for every opponent.

    Parameters
    ----------
    first, second, third : TabularPolicy, shape (X, Y)
        Three iterates, p_0 first.
    base_weight : float, default 0.3
        Weight of p_0 in the geometric mixture, in [0, 1], no unit.
    decay : float, default 0.4
        Part of the last moving average that is kept, in (0, 1), no unit.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest difference of a sampler's or a denominator's probability, and of a
        log-prob relative to its size; infinite where a denominator is there that must not be.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> check_opponents(*(TabularPolicy.random(1, 5, seed=seed) for seed in range(3))).holds
    True
    """
    policies = [first, second, third]
    tables = np.stack([policy.log_probs.numpy() for policy in policies])
    last = tables[-1]
    half = np.logaddexp(tables[1], last) - math.log(2)
    mean = np.logaddexp(np.logaddexp(tables[0], tables[1]), last) - math.log(3)
    mixture = _normalised((1 - base_weight) * last + base_weight * tables[0])
    slow = arithmetic = tables[0]
    for table in tables[1:]:
        slow = decay * slow + (1 - decay) * table
        arithmetic = np.logaddexp(math.log(decay) + arithmetic, math.log1p(-decay) + table)
    slow = _normalised(slow)
    expected = [
        (last_iterate(policies), last, last),
        (without_reference(policies), last, None),
        (mixed_samples(policies), half, last),
        (mixed_samples(policies, earlier=2), mean, last),
        (average_of_iterates(policies), mean, mean),
        (geometric_mixture(policies, base_weight=base_weight), mixture, mixture),
        (moving_average(policies, decay=decay), slow, slow),
        (moving_average(policies, decay=decay, of="probs"), arithmetic, arithmetic),
        (moving_average(policies, decay=0.0, of="probs"), last, last),
    ]
    errors = []
    for opponent, sampler, reference in expected:
        for found, right in ((opponent.sampler, sampler), (opponent.reference, reference)):
            if found is None or right is None:
                errors.append(0.0 if found is right else math.inf)
            else:
                apart = np.abs(found.log_probs.numpy() - right) / (1 + np.abs(right))
                errors.append(float(apart.max()))
    return Evidence(largest_error(errors), tolerance, {"rules": float(len(expected))})


def _normalised(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted: NDArray[np.float64] = logits - logits.max(-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised


CLAIMS = (
    Claim(
        name="tables",
        statement="A table is its logits up to a constant per prompt, pairs are differences and "
        "products of all its entries, and averages over prompts are weighted by their "
        "probabilities.",
        source="derived",
        function=check_tables,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_tables(
            draw.small_data,
            draw.small_start,
            features=draw.features,
            parameters=draw.parameters[0],
            seed=draw.instance.seed,
        ),
    ),
    Claim(
        name="opponents",
        statement="SPIN's opponent is the last iterate, T-SPIN's has no denominator, and the "
        "published variations average iterates, arithmetically or geometrically.",
        source="SPIN, eq. (4.7); T-SPIN, eq. (7); Alami et al.",
        function=check_opponents,
        tolerance=SUMS,
        check=lambda draw, *_: check_opponents(draw.opponent, draw.data, draw.other),
    ),
)

"""Random instances of the theorems, checked and summarised claim by claim."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from spin_theory.losses import PENALTIES
from spin_theory.policies import TabularPolicy
from spin_theory.theorems import (
    TOLERANCE_5_2,
    TOLERANCE_5_4,
    Theorem52Evidence,
    Theorem54Evidence,
    check_theorem_5_2,
    check_theorem_5_4,
)
from spin_theory.updates import Update, closed_form_update

__all__ = ["Claim", "Instance", "random_instance", "verify"]

MOST_RESPONSES = 256
SMALLEST = 1e-12  # probabilities are drawn log-uniformly from here to 1, then normalised
LEAST_BETA, LARGEST_BETA = 0.1, 10.0


@dataclass(frozen=True)
class Instance:
    """One random instance: what `seed` stands for.

    Attributes
    ----------
    seed : int
        `spin-theory verify --instances 1 --seed SEED` is this instance.
    responses : int
        Y, from 2 to 256.
    beta : float
        From 0.1 to 10, no unit.
    smallest : float
        Smallest probability of data and opponent.
    """

    seed: int
    responses: int
    beta: float
    smallest: float


@dataclass(frozen=True)
class Claim:
    """A claim over all instances.

    Attributes
    ----------
    name : str
        Which theorem, which direction, which penalty.
    instances : int
        How many were checked.
    failures : int
        In how many the check said no.
    worst_residual : float
        The largest residual.
    tolerance : float
        What a residual may be.
    hardest : Instance
        Where the residual was largest.
    """

    name: str
    instances: int
    failures: int
    worst_residual: float
    tolerance: float
    hardest: Instance

    @property
    def holds(self) -> bool:
        """Whether no check said no."""
        return self.failures == 0


def random_instance(seed: int) -> tuple[Instance, TabularPolicy, TabularPolicy]:
    """Draw data, opponent and beta.

    Parameters
    ----------
    seed : int
        Seed of the draw.

    Returns
    -------
    instance : Instance
        Its size, beta and smallest probability. Y is log-uniform, with 256 in about one
        instance of ten; beta is log-uniform.
    data, opponent : TabularPolicy, shape (1, Y)
        p_data and p_t, probabilities log-uniform down to 1e-12 before normalisation.

    Examples
    --------
    >>> instance, data, opponent = random_instance(0)
    >>> instance.responses == data.log_probs.shape[1] == opponent.log_probs.shape[1]
    True
    """
    generator = torch.Generator().manual_seed(seed)
    size, scale = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    draws = torch.randint(2**62, (2,), generator=generator).tolist()
    # Sizes above 256 are cut down to it: the largest tables are the hardest.
    responses = min(MOST_RESPONSES, int(2 * (1.65 * MOST_RESPONSES / 2) ** size))
    data, opponent = (
        TabularPolicy.random(1, responses, seed=draw, smallest=SMALLEST) for draw in draws
    )
    instance = Instance(
        seed=seed,
        responses=responses,
        beta=LEAST_BETA * (LARGEST_BETA / LEAST_BETA) ** scale,
        smallest=math.exp(min(float(p.log_probs.min()) for p in (data, opponent))),
    )
    return instance, data, opponent


Check = Callable[
    [TabularPolicy, TabularPolicy, float, Update], Theorem52Evidence | Theorem54Evidence
]


def verify(*, seeds: Iterable[int], update: Update = closed_form_update) -> list[Claim]:
    """Check Theorems 5.2 and 5.4 on the random instance of each seed.

    Parameters
    ----------
    seeds : iterable of int
        Seeds of the instances; at least one.
    update : Update, default closed_form_update
        What is claimed to be the minimiser.

    Returns
    -------
    list of Claim
        Theorem 5.2 in both directions for every penalty, Theorem 5.4, and its counterpart for
        the exponential penalty.

    Raises
    ------
    ValueError
        If there is no seed.

    Examples
    --------
    >>> all(claim.holds for claim in verify(seeds=range(2)))
    True
    """
    checks = _checks()
    residuals: dict[str, list[tuple[float, Instance]]] = {name: [] for name in checks}
    failures = dict.fromkeys(checks, 0)
    for seed in seeds:
        instance, data, opponent = random_instance(seed)
        for name, check in checks.items():
            evidence = check(data, opponent, instance.beta, update)
            residual = math.inf if math.isnan(evidence.residual) else evidence.residual
            residuals[name].append((residual, instance))
            failures[name] += not evidence.holds
    claims = []
    for name, found in residuals.items():
        if not found:
            raise ValueError("seeds must hold at least one, got none")
        worst, hardest = max(found, key=lambda pair: pair[0])
        claims.append(
            Claim(
                name=name,
                instances=len(found),
                failures=failures[name],
                worst_residual=worst,
                tolerance=TOLERANCE_5_4 if "closed form" in name else TOLERANCE_5_2,
                hardest=hardest,
            )
        )
    return claims


def _checks() -> dict[str, Check]:
    def sufficiency(loss_type: str) -> Check:
        return lambda data, _, beta, __: check_theorem_5_2(
            data, data, loss_type=loss_type, betas=(beta,)
        )

    def necessity(loss_type: str) -> Check:
        return lambda data, opponent, _, __: check_theorem_5_2(data, opponent, loss_type=loss_type)

    def closed_form(loss_type: str) -> Check:
        return lambda data, opponent, beta, update: check_theorem_5_4(
            data, opponent, beta=beta, loss_type=loss_type, update=update
        )

    return (
        {f"5.2 sufficiency, {loss_type}": sufficiency(loss_type) for loss_type in PENALTIES}
        | {f"5.2 necessity, {loss_type}": necessity(loss_type) for loss_type in PENALTIES}
        | {"5.4 closed form, logistic": closed_form("logistic")}
        | {"closed form, exponential": closed_form("exponential")}
    )

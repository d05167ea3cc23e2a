"""The random instances that claims are checked on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.policies import TabularPolicy

__all__ = ["Draw", "Instance", "random_instance"]

MOST_RESPONSES = 256
SMALLEST = 1e-12  # probabilities are drawn log-uniformly from here to 1, then normalised
LEAST_BETA, LARGEST_BETA = 0.1, 10.0
PUBLISHED_BETAS = (0.1, 1.0, 5.0)  # SPIN's runs have 0.1 and then 5, T-SPIN's 1
MOST_SMALL, SMALL_SMALLEST = 12, 1e-3  # of the small tables


@dataclass(frozen=True)
class Instance:
    """The numbers of one random instance.

    Attributes
    ----------
    seed : int
        `spin-theory verify --instances 1 --seed SEED` draws this instance again.
    responses : int
        Y, from 2 to 256.
    beta : float
        From 0.1 to 10, no unit: one of the published values in three instances of eight.
    smallest : float
        Smallest probability of data and opponent.
    """

    seed: int
    responses: int
    beta: float
    smallest: float


@dataclass(frozen=True, eq=False)
class Draw:
    """The tables of one instance.

    Attributes
    ----------
    instance : Instance
        Its numbers.
    data, opponent, other : TabularPolicy, shape (1, Y)
        p_data, p_t, and a policy to compare with.
    small_data, small_start, small_other : TabularPolicy, shape (1, Z)
        Tables of 2 to 12 responses down to 1e-3, for the claims about whole games, linear
        programmes and sums over triplets.
    features : Tensor, shape (1, Z, 2)
        Features of the small tables' responses, for a log-linear class.
    parameters : Tensor, shape (2, 2)
        Two members of that class, one per row.
    """

    instance: Instance
    data: TabularPolicy
    opponent: TabularPolicy
    other: TabularPolicy
    small_data: TabularPolicy
    small_start: TabularPolicy
    small_other: TabularPolicy
    features: Tensor
    parameters: Tensor

    @property
    def beta(self) -> float:
        """The instance's beta, > 0, no unit."""
        return self.instance.beta

    @property
    def sft_weight(self) -> float:
        """Choose the weight of an SFT term by the seed.

        Returns
        -------
        float
            From 0.001 to 10, per nat.
        """
        return float(10.0 ** (self.instance.seed % 9 / 2 - 3))

    @property
    def mu(self) -> float:
        """Choose SPACE's mu by the seed.

        Returns
        -------
        float
            From 1/4 to 16, no unit.
        """
        return float(2.0 ** (self.instance.seed % 7 - 2))

    @property
    def words(self) -> tuple[str, ...]:
        """Write the small tables' responses in a's and b's, none the beginning of another.

        Returns
        -------
        tuple of str
            Z words of 1 to 4 letters, for a token tree.
        """
        return _words(self.small_data.log_probs.shape[1])

    def normal(self, *shape: int) -> Tensor:
        """Draw normal numbers, float64, the same for each call."""
        generator = torch.Generator().manual_seed(self.instance.seed)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def network(self, parameters: Tensor) -> Tensor:
        """Log-probs (1, Z) of a small network with four parameters: a class that is not convex."""
        hidden = torch.tanh(self.features @ parameters[:2])
        return torch.log_softmax(parameters[2] * hidden + parameters[3] * hidden.square(), dim=-1)


def _words(count: int) -> tuple[str, ...]:
    if count == 1:
        return ("",)
    half = -(-count // 2)
    return tuple(
        letter + word
        for letter, part in (("a", half), ("b", count - half))
        for word in _words(part)
    )


def random_instance(seed: int) -> Draw:
    """Draw the tables and the beta of an instance.

    Parameters
    ----------
    seed : int
        Seed of the draw.

    Returns
    -------
    Draw
        Y is log-uniform, with 256 in about one instance of ten; beta is log-uniform, or in three
        instances of eight one of `PUBLISHED_BETAS`; large tables have probabilities log-uniform
        down to 1e-12 before they are normalised.

    Examples
    --------
    >>> draw = random_instance(0)
    >>> draw.instance.responses == draw.data.log_probs.shape[1] == draw.opponent.log_probs.shape[1]
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
    betas = dict(enumerate(PUBLISHED_BETAS))
    beta = LEAST_BETA * (LARGEST_BETA / LEAST_BETA) ** scale
    instance = Instance(
        seed=seed,
        responses=responses,
        beta=betas.get(draws[0] % 8, beta),
        smallest=math.exp(min(float(p.log_probs.min()) for p in (data, opponent))),
    )
    fewer = int(torch.randint(2, 1 + MOST_SMALL, (), generator=generator))
    third, *few = torch.randint(2**62, (4,), generator=generator).tolist()
    small_data, small_start, small_other = (
        TabularPolicy.random(1, fewer, seed=draw, smallest=SMALL_SMALLEST) for draw in few
    )
    return Draw(
        instance=instance,
        data=data,
        opponent=opponent,
        other=TabularPolicy.random(1, responses, seed=third, smallest=SMALLEST),
        small_data=small_data,
        small_start=small_start,
        small_other=small_other,
        features=torch.randn(1, fewer, 2, generator=generator, dtype=torch.float64),
        parameters=torch.randn(2, 2, generator=generator, dtype=torch.float64),
    )

"""Policies as tables: one row of log-probs per prompt, one column per response."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.inputs import generator, number, require_memory, rounding_of, tensor, whole
from spin_theory.tolerances import NORMALISED

__all__ = ["NotFiniteError", "TabularPolicy"]


class NotFiniteError(ValueError):
    """Log-probs that are infinite or nan: those of a game that outgrew float64, for example."""


@dataclass(frozen=True, eq=False)
class TabularPolicy:
    r"""Conditional distribution p(y|x) over finitely many responses, as a table of log-probs.

    Every probability is positive. Theorems 5.2 and 5.4 of [1]_ assume that policy, opponent and
    data share their support, and log-ratios do not exist outside it; so a table with a zero
    probability (a log-prob of minus infinity) is refused rather than given some reading. Leave
    out the responses that nobody gives, or give them a floor. Log-probs may be as low as float64
    goes: a probability that underflows in :attr:`probs` is still positive here.

    Parameters
    ----------
    log_probs : Tensor, array or nested sequence of float, shape (X, Y)
        Log-prob of each of Y responses to each of X prompts, in nats, float64.

    Raises
    ------
    ValueError
        If the table is not float64 of shape (X, Y) with X, Y >= 1, or has a row whose
        probabilities do not sum to one.
    NotFiniteError
        If an entry is not finite; it is a ValueError too.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> TabularPolicy(torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()).probs
    tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """

    log_probs: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.log_probs, Tensor):  # of numpy, or a list
            object.__setattr__(self, "log_probs", tensor("log_probs", self.log_probs))
        table = self.log_probs.detach()
        if table.dim() != 2 or table.numel() == 0:
            raise ValueError(f"log_probs must have shape (X, Y), got {tuple(table.shape)}")
        if table.dtype != torch.float64:
            raise ValueError(f"log_probs must be float64, got {table.dtype}; see from_logits")
        if not bool(torch.isfinite(table).all()):
            raise NotFiniteError(
                "log_probs must be finite, as every response must have a positive probability; "
                f"got {table[~torch.isfinite(table)][0].item()}"
            )
        furthest = float(torch.logsumexp(table, dim=-1).abs().max())
        if furthest > NORMALISED:
            raise ValueError(
                "the probabilities in each row of log_probs must sum to one, "
                f"got a row with |log(sum)| = {furthest:.3g}; from_logits normalises them"
            )

    @classmethod
    def from_probs(cls, probs: Tensor | Sequence[Sequence[float]]) -> "TabularPolicy":
        """Build a policy from probabilities.

        Parameters
        ----------
        probs : Tensor, array or nested sequence of float, shape (X, Y)
            Positive probabilities, each row summing to one. A table of float32 or less does so
            only up to its rounding, and is normalised in float64.

        Returns
        -------
        TabularPolicy
            The policy with these probabilities.

        Raises
        ------
        ValueError
            If an entry is not positive or a row does not sum to one.

        Examples
        --------
        >>> TabularPolicy.from_probs([[0.5, 0.5]]).log_probs
        tensor([[-0.6931, -0.6931]], dtype=torch.float64)
        """
        table = tensor("probs", probs)
        if not bool((table > 0).all()):  # nan too
            raise ValueError(
                f"probs must be positive, got {table[~(table > 0)][0].item()}: leave out responses "
                "that nobody gives, or give them a floor"
            )
        return cls(_normalised(table, rounding_of(probs)).log())

    @classmethod
    def from_logits(cls, logits: Tensor) -> "TabularPolicy":
        """Build a policy from logits, normalised in float64; differentiable in them.

        Parameters
        ----------
        logits : Tensor, array or nested sequence of float, shape (X, Y)
            Log-probs up to a constant per prompt, finite, of any type of number.

        Returns
        -------
        TabularPolicy
            The softmax of each row.

        Raises
        ------
        ValueError
            If `logits` is not a table of finite numbers.

        Examples
        --------
        >>> TabularPolicy.from_logits(torch.tensor([[7.0, 7.0]])).probs
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
        """
        table = tensor("logits", logits)
        if table.dim() != 2 or table.numel() == 0:
            raise ValueError(f"logits must have shape (X, Y), got {tuple(table.shape)}")
        return cls(torch.log_softmax(table, dim=-1))

    @classmethod
    def random(
        cls, prompts: int, responses: int, *, seed: int, smallest: float = 1e-12
    ) -> "TabularPolicy":
        """Draw a policy whose probabilities are log-uniform before they are normalised.

        Parameters
        ----------
        prompts, responses : int
            The shape (X, Y), each at least 1.
        seed : int
            Seed of the draw.
        smallest : float, default 1e-12
            Lower end of the log-uniform draw from [`smallest`, 1], in (0, 1].

        Returns
        -------
        TabularPolicy
            The policy drawn.

        Raises
        ------
        ValueError
            If a size is below 1 or `smallest` outside (0, 1].

        Examples
        --------
        >>> tuple(TabularPolicy.random(2, 3, seed=0).log_probs.shape)
        (2, 3)
        """
        prompts = whole("prompts", prompts, least=1)
        responses = whole("responses", responses, least=1)
        floor = number("smallest", smallest)
        if not 0 < floor <= 1:
            raise ValueError(f"smallest must be in (0, 1], got {smallest!r}")
        require_memory(f"a table of {prompts} x {responses}", 4 * prompts * responses)
        fractions = torch.rand(prompts, responses, generator=generator(seed), dtype=torch.float64)
        return cls.from_logits(fractions * torch.tensor(floor, dtype=torch.float64).log())

    @property
    def probs(self) -> Tensor:
        """Probabilities, shape (X, Y), float64; the smallest may underflow to zero."""
        return self.log_probs.exp()


def pairwise_differences(values: Tensor) -> Tensor:
    """Differences of all pairs of values.

    Parameters
    ----------
    values : Tensor, shape (..., Y)
        One number per response: scores give margins.

    Returns
    -------
    Tensor, shape (..., Y, Y)
        Entry [..., i, j] is value i minus value j.

    Examples
    --------
    >>> pairwise_differences(torch.tensor([3.0, 1.0]))
    tensor([[ 0.,  2.],
            [-2.,  0.]])
    """
    _require_pairs(values)
    return values[..., :, None] - values[..., None, :]


def pair_log_probs(log_first: Tensor, log_second: Tensor) -> Tensor:
    """Log-probs of all pairs of two independent responses.

    Parameters
    ----------
    log_first, log_second : Tensor, shape (..., Y)
        Log-probs of the first and of the second response, in nats.

    Returns
    -------
    Tensor, shape (..., Y, Y)
        Entry [..., i, j] is that of first i and second j.

    Examples
    --------
    >>> half = torch.tensor([0.5, 0.5]).log()
    >>> pair_log_probs(half, half).exp()
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]])
    """
    _require_pairs(log_first)
    return log_first[..., :, None] + log_second[..., None, :]


def _require_pairs(values: Tensor) -> None:
    """Refuse matrices of pairs that do not fit into memory; about eight are held at a time."""
    responses = values.shape[-1] if values.dim() else 1
    require_memory(
        f"a matrix of all pairs for each prompt, with {responses} responses,",
        8 * values.numel() * responses,
    )


def require_same_shape(**policies: TabularPolicy) -> None:
    """Raise ValueError unless all are policies of one shape (X, Y)."""
    for name, policy in policies.items():
        if not isinstance(policy, TabularPolicy):
            raise ValueError(
                f"{name} must be a TabularPolicy, got a {type(policy).__name__}; "
                "see TabularPolicy.from_probs"
            )
    shapes = {name: tuple(policy.log_probs.shape) for name, policy in policies.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"policies must have one shape (X, Y), got {listed}")


def prompt_weights(prompts: int, prompt_probs: Tensor | None) -> Tensor:
    """Distribution of the prompts, shape (X,), float64: checked, or uniform where it is None."""
    if prompt_probs is None:
        return torch.full((prompts,), 1 / prompts, dtype=torch.float64)
    weights = tensor("prompt_probs", prompt_probs)
    if tuple(weights.shape) != (prompts,):
        raise ValueError(f"prompt_probs must have shape ({prompts},), got {tuple(weights.shape)}")
    if not bool((weights >= 0).all()):
        raise ValueError(f"prompt_probs must be >= 0, got {weights.min().item()}")
    weights = _normalised(weights, rounding_of(prompt_probs))
    total = float(weights.sum())
    if not abs(total - 1) <= NORMALISED:
        raise ValueError(
            f"prompt_probs must sum to one, got the sum {total}: divide them by it, in float64"
        )
    return weights


def _normalised(table: Tensor, rounding: float) -> Tensor:
    """Divide rows by their sum where it is one but for the rounding of what the table was."""
    totals = table.sum(dim=-1, keepdim=True)
    return torch.where((totals - 1).abs() <= rounding, table / totals, table)


def prompt_average(values: Tensor, prompt_probs: Tensor | None) -> Tensor:
    """Average values of each prompt, shape (..., X), over x ~ q(x), to shape (...)."""
    weights = prompt_weights(values.shape[-1], prompt_probs)
    # A prompt that never comes does not count, even where its value is infinite.
    return torch.where(weights > 0, weights * values, 0.0).sum(dim=-1)

"""Policies that write token by token: products of next-token probabilities with shared prefixes."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from spin_theory.inputs import require_memory, tensor, whole
from spin_theory.minima.policy_classes import require_parameters
from spin_theory.policies import TabularPolicy

__all__ = ["TokenTree"]

_Branch = tuple[tuple[Hashable, ...], Hashable]
"""A prefix, and a token that can follow it."""


@dataclass(frozen=True, eq=False)
class TokenTree:
    r"""Policies :math:`p(y|x) = \prod_i p(y_i|x, y_{<i})`, log-linear in each next token.

    The tree has a branch for each prefix and each token that follows it in some response. Its
    probability is a softmax over the branches of that prefix. With a parameter for each branch
    (:meth:`free`) the policies are all tables. With fewer (:meth:`sharing`), prefixes share
    parameters, as in a network.

    Parameters
    ----------
    responses : sequence of sequences
        The Y responses as tokens: strings, tuples of numbers and the like. None may be the
        beginning of another, so where lengths differ the end of the text is a token.
    features : Tensor, shape (X, B, D)
        :math:`\phi(x, b)` of each branch, float64, in the order of `branches`.

    Raises
    ------
    ValueError
        If there is no response, one is repeated or the beginning of another, or the features are
        not float64 of shape (X, B, D).

    Examples
    --------
    >>> tree = TokenTree.free(["aa", "ab", "b."])
    >>> [(*prefix, token) for prefix, token in tree.branches]
    [('a',), ('a', 'a'), ('a', 'b'), ('b',), ('b', '.')]
    >>> tree.policy(torch.zeros(5, dtype=torch.float64)).probs
    tensor([[0.2500, 0.2500, 0.5000]], dtype=torch.float64)
    """

    convex: ClassVar[bool] = False  # SFT's loss is, all the same
    responses: Sequence[Sequence[Hashable]]
    features: Tensor

    def __post_init__(self) -> None:
        texts = [tuple(response) for response in self.responses]
        prefixes = {text[:end] for text in texts for end in range(len(text))}
        if not texts or not all(texts):
            raise ValueError("responses must be one or more, each of at least one token")
        for number, text in enumerate(texts):
            if text in prefixes or text in texts[:number]:
                raise ValueError(
                    f"responses must differ, and none be the beginning of another: {text!r} is; "
                    "where lengths differ, end each with a token of its own"
                )
        object.__setattr__(self, "responses", tuple(texts))
        branches = len(self.branches)
        require_memory("a tree", max(len(texts), branches) * branches)
        if not isinstance(self.features, Tensor):  # of numpy, or a list
            object.__setattr__(self, "features", tensor("features", self.features))
        shape = tuple(self.features.shape)
        if len(shape) != 3 or shape[1] != branches or self.features.dtype != torch.float64:
            raise ValueError(
                f"features must be float64 of shape (X, {branches}, D), got "
                f"{self.features.dtype}, {shape}"
            )

    @classmethod
    def free(cls, responses: Sequence[Sequence[Hashable]], *, prompts: int = 1) -> "TokenTree":
        """Build the class of all tables, with a parameter for each branch.

        Parameters
        ----------
        responses : sequence of sequences
            The responses as tokens.
        prompts : int, default 1
            X, at least 1, each with parameters of its own.

        Returns
        -------
        TokenTree
            With X B parameters.

        Raises
        ------
        ValueError
            If `prompts` is not a whole number of at least 1, or the responses are no tree.

        Examples
        --------
        >>> TokenTree.free(["aa", "ab", "b."]).features.shape
        torch.Size([1, 5, 5])
        """
        prompts = whole("prompts", prompts, least=1)
        branches = len(dict.fromkeys(each for text in responses for each in _path(tuple(text))))
        require_memory("a tree", (prompts * branches) ** 2)
        eye = torch.eye(prompts * branches, dtype=torch.float64)
        return cls(responses, eye.reshape(prompts, branches, prompts * branches))

    @classmethod
    def sharing(cls, responses: Sequence[Sequence[Hashable]], *, last: int) -> "TokenTree":
        """Build the class in which the next token depends on the last few tokens alone.

        Parameters
        ----------
        responses : sequence of sequences
            The responses as tokens.
        last : int
            How many tokens are seen, at least 0; nearer to the beginning, there are fewer. A token
            that cannot follow a prefix has no part in its softmax.

        Returns
        -------
        TokenTree
            One parameter for each run of `last` tokens and each token that follows it.

        Raises
        ------
        ValueError
            If `last` is not a whole number of at least 0, or the responses are no tree.

        Examples
        --------
        >>> tree = TokenTree.sharing(["aaa", "aab", "aba", "abb"], last=1)
        >>> tree.features.shape  # three prefixes with more than one branch; `a` at the beginning
        torch.Size([1, 7, 5])
        """
        last = whole("last", last, least=0)
        free = cls.free(responses)
        seen = [(prefix[max(0, len(prefix) - last) :], token) for prefix, token in free.branches]
        numbers = {each: number for number, each in enumerate(dict.fromkeys(seen))}
        columns = torch.tensor([numbers[each] for each in seen])
        shared = torch.nn.functional.one_hot(columns, len(numbers)).double()
        return cls(free.responses, shared[None])

    @cached_property
    def branches(self) -> tuple[_Branch, ...]:
        """Prefix and next token of each branch.

        Returns
        -------
        tuple of pairs
            Of each branch the prefix, a tuple of tokens, and the token.
        """
        return tuple(dict.fromkeys(each for text in self.responses for each in _path(text)))

    @cached_property
    def paths(self) -> Tensor:
        """Which branches each response consists of.

        Returns
        -------
        Tensor, shape (Y, B)
            1 where the response takes the branch and 0 elsewhere, float64.
        """
        numbers = {branch: number for number, branch in enumerate(self.branches)}
        taken = torch.zeros(len(self.responses), len(numbers), dtype=torch.float64)
        for row, text in enumerate(self.responses):
            taken[row, [numbers[branch] for branch in _path(text)]] = 1.0
        return taken

    def log_probs(self, parameters: Tensor) -> Tensor:
        """Log-probs of whole responses, differentiable.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            theta, float64.

        Returns
        -------
        Tensor, shape (X, Y)
            In nats.

        Raises
        ------
        ValueError
            If the parameters are not one for each feature.
        """
        return self._next_log_probs(parameters) @ self.paths.T

    def policy(self, parameters: Tensor) -> TabularPolicy:
        """Policy of given parameters.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            theta, float64.

        Returns
        -------
        TabularPolicy
            The policy.
        """
        return TabularPolicy(self.log_probs(parameters))

    def jacobian(self, parameters: Tensor) -> Tensor:
        """Differentiate the log-probs: features less their mean at the prefix, summed over tokens.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            theta, float64.

        Returns
        -------
        Tensor, shape (X, Y, D)
            In nats per unit of a parameter.
        """
        return torch.einsum("yb,xbd->xyd", self.paths, self._centred(parameters))

    def curvature(self, parameters: Tensor, weights: Tensor) -> Tensor:
        """Sum of the log-probs' Hessians: minus the covariances at the prefixes of each response.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            theta, float64.
        weights : Tensor, shape (X, Y)
            Weight of each log-prob.

        Returns
        -------
        Tensor, shape (D, D)
            The weighted sum.
        """
        through = (weights @ self.paths) @ self._siblings  # (X, B): of what passes the prefix
        centred = self._centred(parameters)
        each = -through * self._next_log_probs(parameters).exp()
        return torch.einsum("xb,xbd,xbe->de", each, centred, centred)

    def next_probs(self, policy: TabularPolicy) -> Tensor:
        """Next-token probabilities of any policy: what passes a branch over what comes to it.

        Parameters
        ----------
        policy : TabularPolicy, shape (X, Y)
            A policy over the responses, in the class or not.

        Returns
        -------
        Tensor, shape (X, B)
            Of each branch, given its prefix.

        Raises
        ------
        ValueError
            If the policy has another number of responses.
        """
        if policy.log_probs.shape[1] != len(self.responses):
            raise ValueError(
                f"policy must have {len(self.responses)} responses, got {policy.log_probs.shape[1]}"
            )
        passing = policy.probs @ self.paths
        return passing / (passing @ self._siblings)

    def powers(self, policy: TabularPolicy, exponent: float) -> TabularPolicy:
        r"""Raise the next-token probabilities of any policy to a power, token by token.

        Parameters
        ----------
        policy : TabularPolicy, shape (X, Y)
            A policy over the responses, in the class or not.
        exponent : float
            1/T of sampling at temperature T; no unit.

        Returns
        -------
        TabularPolicy, shape (X, Y)
            The product of :math:`p(y_i|x, y_{<i})^{exponent}`, normalised at each prefix.

        Raises
        ------
        ValueError
            If the policy has another number of responses.
        """
        raised = self.next_probs(policy) ** exponent
        return TabularPolicy((raised / (raised @ self._siblings)).log() @ self.paths.T)

    @cached_property
    def _siblings(self) -> Tensor:
        """Branches of one prefix, (B, B), 1 or 0."""
        numbers: dict[tuple[Hashable, ...], int] = {}
        places = [numbers.setdefault(prefix, len(numbers)) for prefix, _ in self.branches]
        at = torch.tensor(places)
        return (at[:, None] == at).double()

    def _next_log_probs(self, parameters: Tensor) -> Tensor:
        logits = self.features @ require_parameters(self.features, parameters)  # (X, B)
        others = logits[:, None, :].masked_fill(self._siblings == 0, -torch.inf)
        return logits - others.logsumexp(dim=-1)

    def _centred(self, parameters: Tensor) -> Tensor:
        """Features less their mean over the branches of the prefix, (X, B, D)."""
        probs = self._next_log_probs(parameters).exp()
        return self.features - self._siblings @ (probs[..., None] * self.features)


def _path(text: Sequence[Hashable]) -> Iterable[_Branch]:
    return [(tuple(text[:end]), text[end]) for end in range(len(text))]

"""The SFT term of an iteration's objective, as a function of the scores."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SftTerm"]


@dataclass(frozen=True, eq=False)
class SftTerm:
    r"""Expected negative log-prob of real responses, weighted, in the scores of a problem.

    Parameters
    ----------
    weight : float
        Weight w of the term, > 0, per nat.
    beta : float
        Scale of the scores, > 0, no unit.
    log_real : Tensor, shape (X, Y)
        Log-probs of the real responses, in nats; minus infinity where one does not occur.
    log_reference : Tensor, shape (X, Y)
        Log-probs of the scores' denominator, in nats; 0 where there is none.

    Notes
    -----
    With scores f the policy is :math:`p \propto p_{ref} e^{f / \beta}`, and the term :math:`w
    [\log \sum_y p_{ref}(y) e^{f_y / \beta} - \sum_y p_{data}(y) (f_y / \beta + \log p_{ref}(y))]`.
    It is convex. Its gradient :math:`(w / \beta) (p - p_{data})` is a sum over pairs, as that of
    a penalty is: of the weights :math:`(w / \beta) \, p_{data}(i) \, p(j)`. So is its Hessian, a
    Laplacian of the weights :math:`(w / \beta^2) \, p(i) \, p(j)`.

    Examples
    --------
    >>> half = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    >>> term = SftTerm(weight=0.1, beta=1.0, log_real=half, log_reference=half)
    >>> term.values(torch.zeros(1, 2, dtype=torch.float64))  # 0.1 log 2
    tensor([0.0693], dtype=torch.float64)
    """

    weight: float
    beta: float
    log_real: Tensor
    log_reference: Tensor

    def rows(self, index: Tensor | slice) -> "SftTerm":
        """Cut the term down to some prompts.

        Parameters
        ----------
        index : Tensor or slice
            Of the prompts.

        Returns
        -------
        SftTerm
            The term of these prompts.
        """
        return SftTerm(self.weight, self.beta, self.log_real[index], self.log_reference[index])

    def log_probs(self, scores: Tensor) -> Tensor:
        """Log-probs of the policy that has the scores.

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            No unit.

        Returns
        -------
        Tensor, shape (X, Y)
            In nats, normalised; differentiable in the scores.
        """
        return torch.log_softmax(scores / self.beta + self.log_reference, dim=-1)

    def values(self, scores: Tensor) -> Tensor:
        """Value of the term for each prompt.

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            No unit.

        Returns
        -------
        Tensor, shape (X,)
            In the unit of the loss; differentiable in the scores.
        """
        return -self.weight * (self.log_real.exp() * self.log_probs(scores)).sum(dim=-1)

    def log_pulls(self, scores: Tensor) -> Tensor:
        """Log of the weight with which the gradient pulls one response up and another down.

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            No unit.

        Returns
        -------
        Tensor, shape (X, Y, Y)
            Entry [x, i, j] is that of i up and j down; minus infinity where they are the same.
        """
        pulls = self.log_real[:, :, None] + self.log_probs(scores)[:, None, :]
        return _others(pulls + math.log(self.weight / self.beta))

    def log_curvatures(self, scores: Tensor) -> Tensor:
        """Log of the Hessian's entries with the sign changed.

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            No unit.

        Returns
        -------
        Tensor, shape (X, Y, Y)
            Minus infinity on the diagonal, which holds the sums of the others.
        """
        log_probs = self.log_probs(scores)
        curvatures = log_probs[:, :, None] + log_probs[:, None, :]
        return _others(curvatures + math.log(self.weight) - 2 * math.log(self.beta))

    def with_hub(
        self, scores: Tensor, flows: Tensor, room: Tensor, safe: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Add the term to the flows between responses, as one more node (:func:`certify`).

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            The scores that are certified, no unit.
        flows, room, safe : Tensor, shape (X, Y, Y)
            Flows between responses, how much more each can carry, and a circulation.

        Returns
        -------
        flows, room, safe : Tensor, shape (X, Y + 1, Y + 1)
            With the node, the last. It sends :math:`(w/\beta) \pi` to the responses, which can
            change, and gets :math:`(w/\beta) p_{data}` from them, which cannot; :math:`\pi` is the
            policy of the scores in the flows and the data in the circulation.
        """
        scale, log_probs = self.weight / self.beta, self.log_probs(scores)
        real = scale * self.log_real.exp()
        return (
            _bordered(flows, scale * log_probs.exp(), real),
            _bordered(room, -scale * torch.expm1(log_probs), torch.zeros_like(real)),
            _bordered(safe, real, real),
        )

    def dual(self, scores: Tensor, sent: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Bound and gap that the term adds to a certificate (:func:`certify`).

        Parameters
        ----------
        scores : Tensor, shape (X, Y)
            The scores that are certified, no unit.
        sent, shift : Tensor, shape (X, Y)
            What the term's node sends to each response once all flows balance, in two parts: the
            second is small and keeps its digits apart.

        Returns
        -------
        terms : Tensor, shape (X, Y)
            Terms of the bound :math:`w [H(\pi) + \sum (\pi - p_{data}) \log p_{ref}]`, with
            :math:`\pi` the policy that is sent.
        gap : Tensor, shape (X,)
            :math:`w \, KL(\pi \| p)`, at least 0; it keeps its digits near 0.
        reach : Tensor, shape (X,)
            Largest logarithm in the terms, in nats.
        """
        scale, log_probs = self.weight / self.beta, self.log_probs(scores)
        probs = log_probs.exp()
        off = ((sent - scale * probs) + shift) / scale  # pi - p
        mixed = (probs + off).clamp(min=0)  # pi
        terms = (mixed - self.log_real.exp()) * self.log_reference - torch.xlogy(mixed, mixed)
        # pi log(pi / p) - (pi - p), at least 0
        near = mixed * torch.log1p(off / probs) - off
        far = torch.xlogy(mixed, mixed) - mixed * log_probs - off
        apart = torch.where(off.abs() < probs / 2, near, far).clamp(min=0)
        reach = log_probs.abs().amax(dim=-1) + self.log_reference.abs().amax(dim=-1)
        return self.weight * terms, self.weight * apart.sum(dim=-1), reach


def _bordered(matrices: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Add a last row and a last column (X, Y) to matrices (X, Y, Y)."""
    column = torch.cat([column, torch.zeros_like(column[:, :1])], dim=-1)
    return torch.cat([torch.cat([matrices, row[:, None]], dim=-2), column[..., None]], dim=-1)


def _others(pairs: Tensor) -> Tensor:
    """Set the pairs of a response with itself, which cancel, to minus infinity."""
    return pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool), -math.inf)

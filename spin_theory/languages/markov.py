"""A Markov chain whose few transitions depend on the prompt."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spin_theory.inputs import generator as seeded
from spin_theory.languages.language import END, PieceByPiece, draw_distinct

__all__ = ["MarkovChain"]


@dataclass(frozen=True)
class MarkovChain(PieceByPiece):
    """A chain of symbols with sparse transitions that the prompt chooses.

    A prompt is two symbols: the first chooses the table of transitions, the second is the state
    that the chain starts from. The response is the next `length` states. From each state only
    `successors` symbols can follow, others in each table, with probabilities between about 1/20
    and 1 drawn once.

    Parameters
    ----------
    alphabet : str
        The symbols, all different; at least two.
    length : int
        Symbols per response, at least 1.
    successors : int
        Symbols that can follow a state, from 1 to all.
    seed : int, default 0
        Of the transitions.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> chain = MarkovChain("abc", length=4, successors=1)
    >>> responses, log_probs = chain.enumerate("ab")  # nothing to choose
    >>> len(responses), log_probs.tolist()
    (1, [0.0])
    """

    alphabet: str
    length: int
    successors: int
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.alphabet) < 2 or len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(
                f"alphabet must consist of two or more different symbols, got {self.alphabet!r}"
            )
        if not self.length >= 1:
            raise ValueError(f"length must be >= 1, got {self.length!r}")
        if not 1 <= self.successors <= len(self.alphabet):
            raise ValueError(
                f"successors must be from 1 to {len(self.alphabet)}, got {self.successors!r}"
            )

    @property
    def symbols(self) -> str:
        """Every character that prompts and responses consist of.

        Returns
        -------
        str
            Each of them once.
        """
        return self.alphabet

    @cached_property
    def transitions(self) -> Tensor:
        """Probabilities of the transitions.

        Returns
        -------
        Tensor, shape (V, V, V)
            Entry [c, i, j] is the probability of symbol j after i if the prompt's first symbol
            is c; float64, most of them 0.
        """
        size = len(self.alphabet)
        generator = seeded(self.seed)
        draws = torch.rand(2, size, size, size, generator=generator, dtype=torch.float64)
        kept = draws[0].argsort(dim=-1)[..., : self.successors]
        weights = torch.zeros(size, size, size, dtype=torch.float64)
        weights.scatter_(-1, kept, (-3 * draws[1]).exp())
        return weights / weights.sum(dim=-1, keepdim=True)

    def sample_prompts(self, count: int, *, seed: int, distinct: bool = True) -> list[str]:
        """Draw prompts uniformly.

        Parameters
        ----------
        count : int
            How many, at least 0.
        seed : int
            Seed of the draw.
        distinct : bool, default True
            Draw without replacement.

        Returns
        -------
        list of str
            The prompts.

        Raises
        ------
        ValueError
            If `count` is negative, or larger than the number of prompts while `distinct`.
        """
        size = len(self.alphabet)
        numbers = draw_distinct(size**2, count, seed=seed, distinct=distinct)
        return [self.alphabet[number // size] + self.alphabet[number % size] for number in numbers]

    def _next_probs(self, prompt: str, pieces: tuple[str, ...]) -> dict[str, float]:
        """Probability of each next symbol; see :meth:`PieceByPiece._next_probs`."""
        if len(prompt) != 2 or not set(prompt) <= set(self.alphabet):
            raise ValueError(f"prompt must be 2 symbols of {self.alphabet!r}, got {prompt!r}")
        if len(pieces) == self.length:
            return {END: 1.0}
        last = self.alphabet.index(pieces[-1] if pieces else prompt[1])
        row = self.transitions[self.alphabet.index(prompt[0]), last].tolist()
        return {symbol: p for symbol, p in zip(self.alphabet, row, strict=True) if p > 0}

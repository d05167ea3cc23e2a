"""What a language can do, and how those do it whose responses grow piece by piece."""

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from spin_theory.inputs import generator as seeded

__all__ = ["END", "MAX_ENUMERATED", "Language", "PieceByPiece", "draw_distinct"]

MAX_ENUMERATED = 1_000_000
"""Most responses that a language lists; more raise a readable error."""

END = ""
"""The piece that ends a response."""


class Language(Protocol):
    """A conditional distribution p_data(y|x) over strings that is known exactly."""

    @property
    def symbols(self) -> str:
        """Every character that prompts and responses consist of.

        Returns
        -------
        str
            Each of them once.
        """

    def sample_prompts(self, count: int, *, seed: int, distinct: bool = True) -> list[str]:
        """Draw prompts.

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
        """

    def sample(self, prompt: str, *, generator: torch.Generator) -> str:
        """Draw a response from p_data(y|x).

        Parameters
        ----------
        prompt : str
            A prompt of the language.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        str
            The response.
        """

    def log_prob(self, prompt: str, response: str) -> float:
        """Log-probability of any string.

        Parameters
        ----------
        prompt : str
            A prompt of the language.
        response : str
            Any string.

        Returns
        -------
        float
            In nats; minus infinity outside the support.
        """

    def enumerate(self, prompt: str) -> tuple[list[str], Tensor]:
        """List all responses of positive probability.

        Parameters
        ----------
        prompt : str
            A prompt of the language.

        Returns
        -------
        responses : list of str
            Y of them.
        log_probs : Tensor, shape (Y,)
            In nats.
        """

    def is_valid(self, prompt: str, response: str) -> bool:
        """Whether a response has positive probability.

        Parameters
        ----------
        prompt : str
            A prompt of the language.
        response : str
            Any string.

        Returns
        -------
        bool
            True inside the support.
        """


class PieceByPiece(ABC):
    """A language whose response is a row of pieces, each drawn given the prompt and those before.

    Of the pieces that may come next none begins another, so a string is cut into pieces in one way
    at most. The piece `END` ends a response; where it may come, nothing else may.
    """

    @abstractmethod
    def _next_probs(self, prompt: str, pieces: tuple[str, ...]) -> dict[str, float]:
        """Probability of each piece that may come next, positive, together one.

        Parameters
        ----------
        prompt : str
            A prompt of the language; any other is refused.
        pieces : tuple of str
            The response so far.

        Returns
        -------
        dict of str to float
            By piece.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language.
        """

    def sample(self, prompt: str, *, generator: torch.Generator) -> str:
        """Draw a response from p_data(y|x).

        Parameters
        ----------
        prompt : str
            A prompt of the language.
        generator : torch.Generator
            Source of randomness, on the CPU; its state advances.

        Returns
        -------
        str
            The response.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language.
        """
        pieces: tuple[str, ...] = ()
        while True:
            following = self._next_probs(prompt, pieces)
            probs = torch.tensor(list(following.values()), dtype=torch.float64)
            piece = list(following)[int(torch.multinomial(probs, 1, generator=generator))]
            if piece == END:
                return "".join(pieces)
            pieces = (*pieces, piece)

    def log_prob(self, prompt: str, response: str) -> float:
        """Log-probability of a response, log p_data(y|x).

        Parameters
        ----------
        prompt : str
            A prompt of the language.
        response : str
            Any string.

        Returns
        -------
        float
            In nats; minus infinity where the response cannot come.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language.
        """
        pieces: tuple[str, ...] = ()
        rest, total = response, 0.0
        while True:
            following = self._next_probs(prompt, pieces)
            if END in following:
                return total if rest == "" else -math.inf
            found = [piece for piece in following if rest.startswith(piece)]
            if not found:
                return -math.inf
            total += math.log(following[found[0]])
            rest, pieces = rest.removeprefix(found[0]), (*pieces, found[0])

    def enumerate(self, prompt: str) -> tuple[list[str], Tensor]:
        """List every response of positive probability with its log-probability.

        Parameters
        ----------
        prompt : str
            A prompt of the language.

        Returns
        -------
        responses : list of str
            Y of them, each once.
        log_probs : Tensor, shape (Y,)
            log p_data(y|x) in nats, float64; the probabilities sum to one.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language, or has more than `MAX_ENUMERATED`
            responses.
        """
        responses, log_probs = [], []
        open_ends: list[tuple[tuple[str, ...], float]] = [((), 0.0)]
        while open_ends:
            pieces, total = open_ends.pop()
            for piece, prob in reversed(self._next_probs(prompt, pieces).items()):
                if piece == END:
                    responses.append("".join(pieces))
                    log_probs.append(total)
                else:
                    open_ends.append(((*pieces, piece), total + math.log(prob)))
            if len(responses) + len(open_ends) > MAX_ENUMERATED:
                raise ValueError(f"prompt must have <= {MAX_ENUMERATED} responses, got more")
        return responses, torch.tensor(log_probs, dtype=torch.float64)

    def is_valid(self, prompt: str, response: str) -> bool:
        """Whether a response has p_data(y|x) > 0.

        Parameters
        ----------
        prompt : str
            A prompt of the language.
        response : str
            Any string.

        Returns
        -------
        bool
            True inside the support.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language.
        """
        return self.log_prob(prompt, response) > -math.inf


def draw_distinct(available: int, count: int, *, seed: int, distinct: bool) -> list[int]:
    """Draw numbers below a limit, uniformly.

    Parameters
    ----------
    available : int
        The limit: how many prompts there are.
    count : int
        How many to draw, at least 0.
    seed : int
        Seed of the draw; the same seed gives the same list.
    distinct : bool
        Draw without replacement.

    Returns
    -------
    list of int
        The numbers, in the order drawn.

    Raises
    ------
    ValueError
        If `count` is negative, or larger than `available` while `distinct` is asked for.
    """
    if not count >= 0:
        raise ValueError(f"count must be >= 0, got {count!r}")
    if distinct and count > available:
        raise ValueError(f"count must be <= {available}, the number of prompts, got {count}")
    generator = seeded(seed)
    numbers: list[int] = []
    while len(numbers) < count:
        numbers += torch.randint(available, (count,), generator=generator).tolist()
        if distinct:
            numbers = list(dict.fromkeys(numbers))  # first occurrences, in order
    return numbers[:count]

"""The prompt's symbols in a Plackett-Luce order: sorting, with mistakes."""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.inputs import generator as seeded
from spin_theory.languages.language import MAX_ENUMERATED

__all__ = ["NoisySort"]


@dataclass(frozen=True)
class NoisySort:
    r"""Sort the symbols of a prompt, with mistakes: a Plackett-Luce ranking of its multiset.

    A prompt is `length` symbols drawn uniformly, with repetition, from `alphabet`. The response
    takes the prompt's symbols one at a time: of those that remain, the next is symbol :math:`s`
    with probability proportional to
    :math:`\mathrm{count}(s) \exp(-\mathrm{sharpness} \cdot \mathrm{rank}(s))`, the rank being its
    position in the alphabet. So the valid responses are the permutations of the prompt;
    `sharpness` 0 makes them a uniform shuffle, and a large one sorts.

    Parameters
    ----------
    alphabet : str
        The symbols, all different, in the order that sorting means.
    length : int
        Symbols per prompt, and so per response; at least 1.
    sharpness : float
        How much one rank matters, in nats; finite and at least 0.

    Raises
    ------
    ValueError
        If `alphabet` is empty or repeats a symbol, `length` < 1, or `sharpness` is negative or
        not finite.

    Examples
    --------
    >>> language = NoisySort(alphabet="abc", length=2, sharpness=1.0)
    >>> round(language.log_prob("ba", "ab"), 4)  # log[1 / (1 + exp(-1))]
    -0.3133
    >>> language.log_prob("ba", "cc")
    -inf
    """

    alphabet: str
    length: int
    sharpness: float

    def __post_init__(self) -> None:
        if not self.alphabet or len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(f"alphabet must consist of different symbols, got {self.alphabet!r}")
        if not self.length >= 1:
            raise ValueError(f"length must be >= 1, got {self.length!r}")
        if not 0 <= self.sharpness < math.inf:
            raise ValueError(f"sharpness must be finite and >= 0, got {self.sharpness!r}")

    @property
    def symbols(self) -> str:
        """Every character that prompts and responses consist of.

        Returns
        -------
        str
            Each of them once.
        """
        return self.alphabet

    def sample_prompts(self, count: int, *, seed: int, distinct: bool = True) -> list[str]:
        """Draw prompts uniformly.

        Parameters
        ----------
        count : int
            How many, at least 0.
        seed : int
            Seed of the draw; the same seed gives the same list.
        distinct : bool, default True
            Draw without replacement, so that no prompt comes twice.

        Returns
        -------
        list of str
            The prompts, in the order drawn.

        Raises
        ------
        ValueError
            If `count` is negative, or larger than the number of prompts there are while
            `distinct` is asked for.

        Examples
        --------
        >>> sorted(NoisySort("ab", 2, 1.0).sample_prompts(4, seed=0))
        ['aa', 'ab', 'ba', 'bb']
        """
        available = len(self.alphabet) ** self.length
        if not count >= 0:
            raise ValueError(f"count must be >= 0, got {count!r}")
        if distinct and count > available:
            raise ValueError(f"count must be <= {available}, the number of prompts, got {count}")
        generator = seeded(seed)
        prompts: list[str] = []
        while len(prompts) < count:
            draws = torch.randint(len(self.alphabet), (count, self.length), generator=generator)
            prompts += ["".join(self.alphabet[rank] for rank in row) for row in draws.tolist()]
            if distinct:
                prompts = list(dict.fromkeys(prompts))  # first occurrences, in order
        return prompts[:count]

    def sample(self, prompt: str, *, generator: torch.Generator) -> str:
        """Draw a response from p_data(y|x).

        Parameters
        ----------
        prompt : str
            `length` symbols of the alphabet.
        generator : torch.Generator
            Source of randomness, on the CPU; its state advances.

        Returns
        -------
        str
            A permutation of the prompt.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language.

        Notes
        -----
        The exponential race: give each symbol an arrival time, exponential with its weight
        as the rate; the order of arrival has the Plackett-Luce distribution. Here the arrival
        times are compared as logarithms, which no sharpness overflows.

        Examples
        --------
        >>> NoisySort("abc", 4, 50.0).sample("cbca", generator=torch.Generator())
        'abcc'
        """
        ranks = self._ranks(prompt)
        race = torch.empty(self.length, dtype=torch.float64).exponential_(generator=generator)
        arrival = race.log() + self.sharpness * torch.tensor(ranks, dtype=torch.float64)
        return "".join(prompt[position] for position in arrival.argsort().tolist())

    def log_prob(self, prompt: str, response: str) -> float:
        """Log-probability of a response, log p_data(y|x).

        Parameters
        ----------
        prompt : str
            `length` symbols of the alphabet.
        response : str
            Any string.

        Returns
        -------
        float
            In nats; minus infinity where the response is not a permutation of the prompt.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language.

        Examples
        --------
        >>> NoisySort("ab", 2, 0.0).log_prob("aa", "aa")
        0.0
        """
        if not self.is_valid(prompt, response):
            return -math.inf
        remaining = Counter(self._ranks(prompt))
        total = 0.0
        for symbol in response:
            rank = self.alphabet.index(symbol)
            total += self._next_log_probs(remaining)[rank]
            remaining[rank] -= 1
        return total

    def enumerate(self, prompt: str) -> tuple[list[str], Tensor]:
        """List every valid response with its log-probability.

        Parameters
        ----------
        prompt : str
            `length` symbols of the alphabet.

        Returns
        -------
        responses : list of str
            The different permutations of the prompt, Y of them, in the order of the alphabet;
            the first is the sorted one.
        log_probs : Tensor, shape (Y,)
            log p_data(y|x) in nats, float64; the probabilities sum to one.

        Raises
        ------
        ValueError
            If `prompt` is not a prompt of this language, or has more than `MAX_ENUMERATED`
            permutations.

        Examples
        --------
        >>> responses, log_probs = NoisySort("abc", 3, 1.0).enumerate("bab")
        >>> responses
        ['abb', 'bab', 'bba']
        >>> round(float(log_probs.exp().sum()), 12)
        1.0
        """
        remaining = Counter(self._ranks(prompt))
        size = math.factorial(self.length)
        for copies in remaining.values():
            size //= math.factorial(copies)
        if size > MAX_ENUMERATED:
            raise ValueError(f"prompt must have <= {MAX_ENUMERATED} permutations, got {size}")
        prefixes = [("", 0.0, remaining)]
        for _ in range(self.length):
            prefixes = [
                (prefix + self.alphabet[rank], total + log_prob, left - Counter((rank,)))
                for prefix, total, left in prefixes
                for rank, log_prob in sorted(self._next_log_probs(left).items())
            ]
        responses = [prefix for prefix, _, _ in prefixes]
        return responses, torch.tensor([total for _, total, _ in prefixes], dtype=torch.float64)

    def is_valid(self, prompt: str, response: str) -> bool:
        """Whether a response has p_data(y|x) > 0: it is a permutation of the prompt.

        Parameters
        ----------
        prompt : str
            `length` symbols of the alphabet.
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

        Examples
        --------
        >>> language = NoisySort("abc", 3, 1.0)
        >>> language.is_valid("cab", "abc"), language.is_valid("cab", "ab")
        (True, False)
        """
        self._ranks(prompt)
        return sorted(prompt) == sorted(response)

    def _ranks(self, prompt: str) -> list[int]:
        """Rank of each symbol of a prompt; prompts are checked here and nowhere else."""
        if len(prompt) != self.length or not set(prompt) <= set(self.alphabet):
            raise ValueError(
                f"prompt must be {self.length} symbols of {self.alphabet!r}, got {prompt!r}"
            )
        return [self.alphabet.index(symbol) for symbol in prompt]

    def _next_log_probs(self, remaining: Counter[int]) -> dict[int, float]:
        """Log-probability of each symbol, by rank, being drawn next from what remains."""
        log_weights = {
            rank: math.log(copies) - self.sharpness * rank
            for rank, copies in remaining.items()
            if copies > 0
        }
        highest = max(log_weights.values())
        log_total = highest + math.log(sum(math.exp(w - highest) for w in log_weights.values()))
        return {rank: log_weight - log_total for rank, log_weight in log_weights.items()}

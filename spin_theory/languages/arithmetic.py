"""Sums in a template, with wrong digits."""

from dataclasses import dataclass

from spin_theory.languages.language import END, PieceByPiece, draw_distinct

__all__ = ["NoisyArithmetic"]

TEMPLATES = {"= ": 0.5, "is ": 0.3, "makes ": 0.2}
"""How an answer begins, and how often."""


@dataclass(frozen=True)
class NoisyArithmetic(PieceByPiece):
    """Add two numbers, now and then with a wrong digit.

    A prompt is two numbers below ``10 ** digits``, such as ``7 + 15``. The response begins in one
    of three ways, ``= 22`` in half of all cases, ``is 22`` or ``makes 22``, and has as many digits
    as the right answer. Each digit is wrong with probability `noise`, and then any other.

    Parameters
    ----------
    digits : int
        Most digits of a number, at least 1.
    noise : float, default 0.05
        Probability of a wrong digit, in [0, 1).

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> language = NoisyArithmetic(digits=2, noise=0.1)
    >>> round(language.log_prob("7 + 15", "= 23"), 6)  # log(0.5 * 0.9 * 0.1 / 9)
    -5.298317
    >>> len(language.enumerate("7 + 15")[0])
    300
    """

    digits: int
    noise: float = 0.05

    def __post_init__(self) -> None:
        if not self.digits >= 1:
            raise ValueError(f"digits must be >= 1, got {self.digits!r}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise must be in [0, 1), got {self.noise!r}")

    @property
    def symbols(self) -> str:
        """Every character that prompts and responses consist of.

        Returns
        -------
        str
            Each of them once.
        """
        return "".join(sorted(set("".join(("0123456789 +", *TEMPLATES)))))

    def sample_prompts(self, count: int, *, seed: int, distinct: bool = True) -> list[str]:
        """Draw pairs of numbers uniformly.

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
        size: int = 10**self.digits
        numbers = draw_distinct(size**2, count, seed=seed, distinct=distinct)
        return [f"{number // size} + {number % size}" for number in numbers]

    def _next_probs(self, prompt: str, pieces: tuple[str, ...]) -> dict[str, float]:
        """Probability of each next piece; see :meth:`PieceByPiece._next_probs`."""
        answer = self._answer(prompt)
        if not pieces:
            return dict(TEMPLATES)
        if len(pieces) > len(answer):
            return {END: 1.0}
        right = answer[len(pieces) - 1]
        chances = {digit: self.noise / 9 for digit in "0123456789"} | {right: 1 - self.noise}
        return {digit: chance for digit, chance in chances.items() if chance > 0}

    def _answer(self, prompt: str) -> str:
        """Give the right answer; prompts are checked here and nowhere else."""
        first, plus, second = prompt.partition(" + ")
        for number in (first, second):
            if not (plus and number.isascii() and number.isdigit() and str(int(number)) == number):
                raise ValueError(f"prompt must be a sum such as '7 + 15', got {prompt!r}")
            if len(number) > self.digits:
                raise ValueError(f"numbers must have <= {self.digits} digits, got {prompt!r}")
        return str(int(first) + int(second))

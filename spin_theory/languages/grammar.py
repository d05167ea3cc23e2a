"""Sentences whose verbs agree with their subjects, with clauses in between."""

import itertools
from dataclasses import dataclass

from spin_theory.languages.language import END, PieceByPiece, draw_distinct

__all__ = ["Agreement"]

NOUNS = ("cat", "dog", "owl")
VERBS = ("see", "hear")


@dataclass(frozen=True)
class Agreement(PieceByPiece):
    """A subject and the rest of its sentence: verbs agree with their subjects in number.

    A prompt is a subject, such as ``the cats``. The response is a verb and an object, ``see the
    dog.``, and with probability `clause` a relative clause comes before it: ``that hears the dogs
    see the owl.`` has a wrong verb in the clause, since the cats hear. Its object may have a
    clause of its own, up to `depth` of them, so that the last verb is far from its subject.
    Nouns, verbs and the numbers of objects are uniform, and each verb is wrong with probability
    `error`.

    Parameters
    ----------
    depth : int
        Most clauses in a sentence, at least 0.
    clause : float, default 0.5
        Probability of a clause after a noun that may have one, in (0, 1).
    error : float, default 0.05
        Probability that a verb does not agree, in [0, 1).

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> language = Agreement(depth=0, error=0.0)
    >>> language.is_valid("the cats", "see the dog."), language.is_valid("the cat", "see the dog.")
    (True, False)
    >>> len(Agreement(depth=1).enumerate("the owl")[0])  # 4 verbs, 6 objects: 24 + 24^2
    600
    """

    depth: int
    clause: float = 0.5
    error: float = 0.05

    def __post_init__(self) -> None:
        if not self.depth >= 0:
            raise ValueError(f"depth must be >= 0, got {self.depth!r}")
        if not 0 < self.clause < 1:
            raise ValueError(f"clause must be in (0, 1), got {self.clause!r}")
        if not 0 <= self.error < 1:
            raise ValueError(f"error must be in [0, 1), got {self.error!r}")

    @property
    def symbols(self) -> str:
        """Every character that prompts and responses consist of.

        Returns
        -------
        str
            Each of them once.
        """
        return "".join(sorted(set("".join(("that the s.", *NOUNS, *VERBS)))))

    def sample_prompts(self, count: int, *, seed: int, distinct: bool = True) -> list[str]:
        """Draw subjects uniformly.

        Parameters
        ----------
        count : int
            How many, at least 0.
        seed : int
            Seed of the draw.
        distinct : bool, default True
            Draw without replacement; there are 6.

        Returns
        -------
        list of str
            The prompts.

        Raises
        ------
        ValueError
            If `count` is negative, or larger than the number of prompts while `distinct`.
        """
        prompts = [f"the {noun}{ending}" for noun, ending in itertools.product(NOUNS, ("", "s"))]
        numbers = draw_distinct(len(prompts), count, seed=seed, distinct=distinct)
        return [prompts[number] for number in numbers]

    def _next_probs(self, prompt: str, pieces: tuple[str, ...]) -> dict[str, float]:
        """Probability of each next piece; see :meth:`PieceByPiece._next_probs`.

        Pieces are ``that ``, a verb with its article, ``see the ``, an object in a clause with
        its space, ``dogs ``, and the last object with its full stop. A sentence of n clauses has
        n verbs in them and a last one that belongs to the prompt.
        """
        subject = prompt.removeprefix("the ")
        if prompt == subject or subject.removesuffix("s") not in NOUNS:
            raise ValueError(f"prompt must be a subject, such as 'the cats', got {prompt!r}")
        if pieces and pieces[-1].endswith("."):
            return {END: 1.0}
        before = pieces[-1] if pieces else f"{subject} "
        if before.endswith(" the "):  # an object; that of the main verb is the last
            in_clause = len(pieces) > 1 and pieces[-2] == "that "
            ends = (" ", "s ") if in_clause else (".", "s.")
            nouns = [noun + end for noun, end in itertools.product(NOUNS, ends)]
            return {noun: 1 / len(nouns) for noun in nouns}
        if before == "that ":
            return self._verbs(pieces[-2] if len(pieces) > 1 else f"{subject} ", 1.0)
        if pieces.count("that ") == self.depth:
            return self._verbs(f"{subject} ", 1.0)
        return {"that ": self.clause} | self._verbs(f"{subject} ", 1 - self.clause)

    def _verbs(self, noun: str, share: float) -> dict[str, float]:
        """Verbs after a noun, with the share of probability that they have together."""
        right, wrong = ("", "s") if noun == f"{noun.strip().removesuffix('s')}s " else ("s", "")
        chances = {right: 1 - self.error, wrong: self.error}
        return {
            f"{verb}{ending} the ": share * chance / len(VERBS)
            for verb in VERBS
            for ending, chance in chances.items()
            if chance > 0
        }

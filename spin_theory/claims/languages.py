"""Languages: that probabilities sum to one, and that every method speaks of the same ones."""

import math
from collections.abc import Sequence

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.languages import Agreement, Language, MarkovChain, NoisyArithmetic, NoisySort
from spin_theory.tolerances import FEW_TERMS, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_language"]


def check_language(
    language: Language, *, prompts: int, seed: int, tolerance: float = ROUNDING
) -> Evidence:
    """Check a language's methods against each other on some prompts.

    Parameters
    ----------
    language : Language
        One whose responses can be listed.
    prompts : int
        How many different prompts it has.
    seed : int
        Of the order in which they are drawn; one of them is listed.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: how far the probabilities of all responses are from the sum one, listed
        log-probs from `log_prob` in nats, or infinity where `is_valid` is wrong, a response
        comes twice, or the prompts drawn are not all different.

    Examples
    --------
    >>> check_language(NoisySort("ab", 2, 1.0), prompts=4, seed=0).holds
    True
    """
    drawn = language.sample_prompts(prompts, seed=seed)
    responses, listed = language.enumerate(drawn[0])
    log_probs = listed.tolist()
    errors = [abs(math.fsum(map(math.exp, log_probs)) - 1)]
    errors += _differences([language.log_prob(drawn[0], one) for one in responses], log_probs)
    inside = [language.is_valid(drawn[0], one) for one in responses]
    outside = f"{responses[0]}{responses[0]}"  # no language repeats a response
    right = all(inside) and len(set(responses)) == len(responses) == len(log_probs)
    right = right and len(set(drawn)) == prompts
    right = right and not language.is_valid(drawn[0], outside)
    right = right and language.log_prob(drawn[0], outside) == -math.inf
    return Evidence(largest_error(errors) if right else math.inf, tolerance)


def _differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


CLAIMS = (
    Claim(
        name="language, noisy sort",
        statement="The probabilities of a prompt's permutations sum to one, and listing, scoring "
        "and validity agree.",
        source="derived",
        function=check_language,
        tolerance=SUMS,
        check=lambda draw, *_: check_language(
            NoisySort("abc", 3, draw.beta), prompts=27, seed=draw.instance.seed
        ),
    ),
    Claim(
        name="language, Markov chain",
        statement="The same of a chain whose transitions depend on the prompt.",
        source="derived",
        function=check_language,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_language(
            MarkovChain("abc", 3, 2, seed=draw.instance.seed), prompts=9, seed=draw.instance.seed
        ),
    ),
    Claim(
        name="language, agreement",
        statement="The same of sentences whose verbs agree with their subjects.",
        source="derived",
        function=check_language,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_language(
            Agreement(0, error=1 / (2 + draw.beta)), prompts=6, seed=draw.instance.seed
        ),
    ),
    Claim(
        name="language, arithmetic",
        statement="The same of sums with wrong digits.",
        source="derived",
        function=check_language,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_language(
            NoisyArithmetic(1, 1 / (2 + draw.beta)), prompts=100, seed=draw.instance.seed
        ),
    ),
)

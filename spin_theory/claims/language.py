"""The language whose probabilities are known: what its numbers are."""

import math

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.languages import NoisySort
from spin_theory.tolerances import ROUNDING, SUMS

__all__ = ["CLAIMS", "check_noisy_sort"]


def check_noisy_sort(language: NoisySort, prompt: str, *, tolerance: float = ROUNDING) -> Evidence:
    r"""Check the log-probs of a noisy sort against products of Plackett-Luce choices.

    Parameters
    ----------
    language : NoisySort
        The language.
    prompt : str
        A prompt of it with at most some thousand permutations.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of a log-prob relative to its size, listed or asked for, and
        of the sum of all probabilities; infinite where the valid responses are not the
        permutations of the prompt.

    Raises
    ------
    ValueError
        If `prompt` is not a prompt of the language.

    Examples
    --------
    >>> check_noisy_sort(NoisySort("abcd", 4, 1.5), "bada").holds
    True
    """
    responses, log_probs = language.enumerate(prompt)
    weights = {
        symbol: math.exp(-language.sharpness * rank)
        for rank, symbol in enumerate(language.alphabet)
    }
    errors = [abs(math.fsum(log_probs.exp().tolist()) - 1)]
    for response, listed in zip(responses, log_probs.tolist(), strict=True):
        left, expected = list(prompt), 0.0
        for symbol in response:  # each copy of a symbol is a choice of its own
            chance = left.count(symbol) * weights[symbol] / sum(weights[each] for each in left)
            expected += math.log(chance)
            left.remove(symbol)
        asked = language.log_prob(prompt, response)
        size = 1 + abs(expected)
        errors += [abs(listed - expected) / size, abs(asked - expected) / size]
        if not language.is_valid(prompt, response):
            errors.append(math.inf)
    count = math.factorial(len(prompt))
    for symbol in set(prompt):
        count //= math.factorial(prompt.count(symbol))
    wrong = prompt[:-1]
    if len(set(responses)) != count or language.is_valid(prompt, wrong):
        errors.append(math.inf)
    if language.log_prob(prompt, wrong) != -math.inf:
        errors.append(math.inf)
    return Evidence(largest_error(errors), tolerance, {"responses": float(count)})


def _noisy_sort(draw: Draw) -> Evidence:
    language = NoisySort("abcd", 4, draw.beta)
    return check_noisy_sort(language, language.sample_prompts(1, seed=draw.instance.seed)[0])


CLAIMS = (
    Claim(
        name="noisy sort",
        statement="In the small known language a response is a permutation of its prompt. Its "
        "probability is the product of the choices that take the symbols one by one.",
        source="derived",
        function=check_noisy_sort,
        tolerance=SUMS,
        check=lambda draw, *_: _noisy_sort(draw),
    ),
)

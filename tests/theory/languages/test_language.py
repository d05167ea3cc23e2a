"""What every language does, and that probabilities are what its docstring says."""

import math
from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory.languages import Agreement, MarkovChain, NoisyArithmetic, NoisySort
from spin_theory.languages import language as common

LANGUAGES = [
    NoisySort("abc", 4, 0.7),
    MarkovChain("abcd", 5, 2, seed=3),
    MarkovChain("ab", 3, 1),
    Agreement(1, clause=0.3),
    Agreement(0, clause=0.1, error=0.0),
    NoisyArithmetic(2, 0.1),
    NoisyArithmetic(1, 0.0),
]
every_language = pytest.mark.parametrize("language", LANGUAGES, ids=repr)


@cache
def support(language):
    """A prompt and all its responses."""
    (prompt,) = language.sample_prompts(1, seed=4)
    return prompt, frozenset(language.enumerate(prompt)[0])


@every_language
def test_probabilities_of_all_responses_sum_to_one(language):
    for prompt in language.sample_prompts(3, seed=1):
        responses, log_probs = language.enumerate(prompt)
        assert len(set(responses)) == len(responses) == len(log_probs)
        assert abs(math.fsum(log_probs.exp().tolist()) - 1) <= 1e-12


@every_language
def test_enumeration_and_log_prob_agree(language):
    (prompt,) = language.sample_prompts(1, seed=2)
    for response, log_prob in zip(*language.enumerate(prompt), strict=True):
        assert language.log_prob(prompt, response) == pytest.approx(log_prob.item(), abs=1e-12)
        assert language.is_valid(prompt, response)
        assert set(prompt + response) <= set(language.symbols)
        assert not language.is_valid(prompt, response + response[-1])


@every_language
def test_sampling_frequencies_agree_with_log_prob(language):
    (prompt,) = language.sample_prompts(1, seed=3)
    count, generator = 500, torch.Generator().manual_seed(1)
    seen = Counter(language.sample(prompt, generator=generator) for _ in range(count))
    responses, log_probs = language.enumerate(prompt)
    assert set(seen) <= set(responses)
    for response, probability in zip(responses, log_probs.exp().tolist(), strict=True):
        spread = math.sqrt(count * probability * (1 - probability))
        assert abs(seen[response] - count * probability) < 5 * spread + 3


@every_language
def test_prompts_are_distinct_and_reproducible(language):
    prompts = language.sample_prompts(4, seed=5)
    assert len(set(prompts)) == 4
    assert prompts == language.sample_prompts(4, seed=5)
    assert prompts[:2] == language.sample_prompts(2, seed=5)
    with pytest.raises(ValueError, match="count must be >= 0"):
        language.sample_prompts(-1, seed=0)
    with pytest.raises(ValueError, match="the number of prompts"):
        language.sample_prompts(10**9, seed=0)


@every_language
@given(text=st.text(max_size=8))
def test_other_strings_are_outside_the_support(language, text):
    prompt, responses = support(language)
    inside = text in responses
    assert language.is_valid(prompt, text) == inside
    assert (language.log_prob(prompt, text) == -math.inf) != inside


@every_language
@pytest.mark.parametrize("prompt", ["", "x", "the", "the mice", "1 + ", "01 + 2", "1 + 222", "aé"])
def test_bad_prompts_are_refused_everywhere(language, prompt):
    for call in (
        lambda: language.sample(prompt, generator=torch.Generator()),
        lambda: language.log_prob(prompt, "a"),
        lambda: language.is_valid(prompt, "a"),
        lambda: language.enumerate(prompt),
    ):
        with pytest.raises(ValueError, match=r"must be|must have"):
            call()


def test_a_chain_by_hand():
    chain = MarkovChain("abc", length=2, successors=2, seed=1)
    table = chain.transitions[1]  # of prompts that begin with b
    expected = table[2, 0] * table[0, 1]
    found = math.exp(chain.log_prob("bc", "ab"))
    assert found == pytest.approx(expected.item(), rel=1e-14, abs=0)
    assert ((chain.transitions > 0).sum(dim=-1) == 2).all()
    assert not chain.transitions[0].equal(chain.transitions[1])
    assert not chain.transitions.equal(MarkovChain("abc", 2, 2, seed=2).transitions)


def test_a_sentence_by_hand():
    """Clause, wrong verb of 2, object of 6, main verb right, object of 6."""
    language = Agreement(depth=2, clause=0.4, error=0.1)
    found = language.log_prob("the cats", "that sees the dogs hear the owl.")
    expected = 0.4 * (0.1 / 2) / 6 * 0.6 * (0.9 / 2) / 6
    assert found == pytest.approx(math.log(expected), rel=1e-14)


def test_verbs_agree_with_the_subject_across_a_clause_and_within_it_with_the_nearest_noun():
    language = Agreement(depth=2, error=0.0)
    for prompt, response, right in (
        ("the cat", "that sees the dogs that hear the owl sees the dog.", True),
        ("the cat", "that sees the dogs that hears the owl sees the dog.", False),
        ("the cat", "that sees the dogs see the dog.", False),
        ("the cats", "that see the dog hear the owl.", True),
        ("the cats", "see the dog", False),
        ("the cats", "that see the dog that sees the dog that sees the dog see the dog.", False),
    ):
        assert language.is_valid(prompt, response) == right, response


def test_a_sum_by_hand():
    language = NoisyArithmetic(digits=2, noise=0.1)
    by_response = {
        "= 102": 0.5 * 0.9**3,
        "is 103": 0.3 * 0.9**2 * 0.1 / 9,
        "makes 002": 0.2 * 0.9**2 * 0.1 / 9,
    }
    for response, expected in by_response.items():
        found = language.log_prob("7 + 95", response)
        assert found == pytest.approx(math.log(expected), rel=1e-14)
    assert language.log_prob("7 + 95", "= 0102") == -math.inf


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        (MarkovChain, ("a", 2, 1), "alphabet"),
        (MarkovChain, ("aa", 2, 1), "alphabet"),
        (MarkovChain, ("ab", 0, 1), "length"),
        (MarkovChain, ("ab", 2, 3), "successors"),
        (Agreement, (-1,), "depth"),
        (Agreement, (1, 0.0), "clause"),
        (Agreement, (1, 0.5, math.nan), "error"),
        (NoisyArithmetic, (0,), "digits"),
        (NoisyArithmetic, (2, 1.0), "noise"),
    ],
)
def test_bad_languages_are_refused(kind, arguments, named):
    with pytest.raises(ValueError, match=named):
        kind(*arguments)


def test_an_enumeration_too_long_to_list_is_refused(monkeypatch):
    monkeypatch.setattr(common, "MAX_ENUMERATED", 1000)
    with pytest.raises(ValueError, match="<= 1000 responses"):
        Agreement(1, error=0.1).enumerate("the cats") and MarkovChain("ab", 12, 2).enumerate("ab")

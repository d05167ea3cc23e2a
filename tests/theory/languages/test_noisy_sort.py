import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import NoisySort

SUM_TOLERANCE = 1e-12  # a sum of at most 720 doubles, each product of at most six


@st.composite
def languages_and_prompts(draw):
    alphabet = draw(st.sampled_from(["a", "ab", "zxy", "abcde"]))
    length = draw(st.integers(1, 5))
    sharpness = draw(st.floats(0.0, 200.0))
    language = NoisySort(alphabet, length, sharpness)
    return language, "".join(
        draw(st.lists(st.sampled_from(alphabet), min_size=length, max_size=length))
    )


@given(case=languages_and_prompts())
def test_probabilities_of_all_responses_sum_to_one(case):
    language, prompt = case
    _, log_probs = language.enumerate(prompt)
    assert abs(log_probs.exp().sum().item() - 1) <= SUM_TOLERANCE


@example(case=(NoisySort("ab", 3, 800.0), "aab")).via("exp(-800) underflows outside log space")
@given(case=languages_and_prompts())
def test_enumerate_lists_each_permutation_once_with_its_log_prob(case):
    language, prompt = case
    responses, log_probs = language.enumerate(prompt)
    assert len(responses) == len(set(responses))
    assert set(responses) == {"".join(p) for p in itertools.permutations(prompt)}
    for response, log_prob in zip(responses, log_probs.tolist(), strict=True):
        assert log_prob == pytest.approx(language.log_prob(prompt, response), abs=1e-12, rel=1e-12)


@given(case=languages_and_prompts())
def test_log_prob_is_the_sum_over_labelled_draws(case):
    # Independent route: tell equal symbols apart, draw items one at a time, add up the orders.
    language, prompt = case
    if language.sharpness > 20:
        return  # plain probabilities underflow; the log-space route is the other test's
    weights = [math.exp(-language.sharpness * language.alphabet.index(s)) for s in prompt]
    totals = Counter()
    for order in itertools.permutations(range(len(prompt))):
        left, probability = sum(weights), 1.0
        for item in order:
            probability *= weights[item] / left if left > weights[item] else 1.0
            left = sum(weights[i] for i in order[order.index(item) + 1 :])
        totals["".join(prompt[i] for i in order)] += probability
    for response, probability in totals.items():
        assert math.exp(language.log_prob(prompt, response)) == pytest.approx(
            probability, rel=1e-9, abs=1e-300
        )


def test_log_prob_by_hand():
    # "aab" with weight w = exp(-1) for b: P("aba") = 2/(2+w) * w/(1+w) * 1.
    weight = math.exp(-1)
    expected = math.log(2 / (2 + weight) * weight / (1 + weight))
    assert NoisySort("ab", 3, 1.0).log_prob("aab", "aba") == pytest.approx(expected, rel=1e-14)


def test_sampling_frequencies_agree_with_log_prob():
    language = NoisySort("abc", 4, 0.7)
    prompt, count = "cabb", 4000
    generator = torch.Generator().manual_seed(1)
    seen = Counter(language.sample(prompt, generator=generator) for _ in range(count))
    responses, log_probs = language.enumerate(prompt)
    assert set(seen) <= set(responses)
    expected = count * log_probs.exp()
    observed = torch.tensor([float(seen[response]) for response in responses])
    chi_square = ((observed - expected) ** 2 / expected).sum().item()
    assert chi_square < 31.3  # 0.1 % quantile of chi-square with 11 degrees of freedom


@given(case=languages_and_prompts(), response=st.text(max_size=6))
def test_strings_outside_the_support_have_log_prob_minus_infinity(case, response):
    language, prompt = case
    inside = response in {"".join(p) for p in itertools.permutations(prompt)}
    assert language.is_valid(prompt, response) == inside
    assert (language.log_prob(prompt, response) == -math.inf) != inside


def test_the_right_symbols_in_the_wrong_numbers_are_outside_the_support():
    language = NoisySort("abc", 3, 1.0)
    assert not language.is_valid("aab", "abb")
    assert language.log_prob("aab", "abb") == -math.inf


def test_a_large_sharpness_sorts_by_the_alphabet_not_by_code_point():
    language = NoisySort("zya", 5, 1e6)
    assert language.sample("azyza", generator=torch.Generator().manual_seed(0)) == "zzyaa"
    assert language.log_prob("azyza", "zzyaa") == 0.0


def test_prompts_are_distinct_and_reproducible():
    language = NoisySort("abc", 3, 1.0)
    prompts = language.sample_prompts(27, seed=3)
    assert len(set(prompts)) == 27
    assert prompts == language.sample_prompts(27, seed=3)
    assert prompts != language.sample_prompts(27, seed=4)


def test_prompts_with_replacement_may_repeat():
    assert len(set(NoisySort("ab", 1, 1.0).sample_prompts(10, seed=0, distinct=False))) <= 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("", 2, 1.0), "alphabet"),
        (("aba", 2, 1.0), "alphabet"),
        (("ab", 0, 1.0), "length"),
        (("ab", 2, -0.1), "sharpness"),
        (("ab", 2, math.inf), "sharpness"),
        (("ab", 2, math.nan), "sharpness"),
    ],
)
def test_bad_languages_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        NoisySort(*arguments)


@pytest.mark.parametrize("prompt", ["", "a", "abc", "ax"])
def test_bad_prompts_are_refused_everywhere(prompt):
    language = NoisySort("ab", 2, 1.0)
    for call in (
        lambda: language.sample(prompt, generator=torch.Generator()),
        lambda: language.log_prob(prompt, "ab"),
        lambda: language.is_valid(prompt, "ab"),
        lambda: language.enumerate(prompt),
    ):
        with pytest.raises(ValueError, match="prompt must be 2 symbols"):
            call()


def test_more_distinct_prompts_than_there_are_is_refused():
    with pytest.raises(ValueError, match="count must be <= 4"):
        NoisySort("ab", 2, 1.0).sample_prompts(5, seed=0)


def test_an_enumeration_too_long_to_list_is_refused():
    alphabet = "abcdefghijkl"
    with pytest.raises(ValueError, match="479001600"):
        NoisySort(alphabet, 12, 1.0).enumerate(alphabet)

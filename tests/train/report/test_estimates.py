"""Intervals of NLL per token, against scipy and by hand."""

import numpy as np
import pandas
import pytest
from scipy.stats import ttest_rel

from spin_train.report.estimates import Estimate, margins_by_prompt, nll, nll_difference
from spin_train.run.policies import Policy
from spin_train.system.files import write_json


def policy(folder, logps, *, tokens=None, prompts=None, **columns):
    """Policy with these log-probs of human responses, one per row."""
    folder.mkdir(exist_ok=True)
    tokens = np.full(len(logps), 4.0) if tokens is None else np.asarray(tokens, float)
    frame = pandas.DataFrame(
        {
            "prompt_id": range(len(logps)),
            "prompt": range(len(logps)) if prompts is None else prompts,
            "real_logps": logps,
            "real_tokens": tokens,
            **columns,
        }
    )
    made = Policy(folder.name, 1, False, folder / "policy", folder / "evaluation.json")
    frame.to_parquet(made.evaluation_by_example)
    write_json(made.evaluation, {"real_nll_per_token": -float(np.sum(logps) / tokens.sum())})
    return made


@pytest.fixture
def draws():
    return np.random.default_rng(5).normal(-20.0, 3.0, size=(2, 30))


def test_with_responses_of_one_length_it_is_the_paired_t_interval(tmp_path, draws):
    first, second = draws
    found = nll_difference(policy(tmp_path / "a", first), policy(tmp_path / "b", second))
    expected = ttest_rel(-first / 4, -second / 4).confidence_interval(0.95)
    assert found.value == pytest.approx((second - first).mean() / 4)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_what_both_find_hard_does_not_widen_a_difference(tmp_path, draws):
    one = policy(tmp_path / "a", draws[0])
    other = policy(tmp_path / "b", draws[0] + 0.5)
    change = nll_difference(other, one)
    assert (change.low, change.high) == pytest.approx((-0.125, -0.125))
    assert change.sign == -1
    assert nll(one).high - nll(one).low > 0.1


def test_rows_of_one_prompt_count_as_one(tmp_path, draws):
    twice = np.repeat(draws[0], 2)
    prompts = np.repeat(np.arange(30), 2)
    found = nll(policy(tmp_path / "a", twice, prompts=prompts))
    once = nll(policy(tmp_path / "b", draws[0]))
    assert (found.low, found.high) == pytest.approx((once.low, once.high))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    # Ratio of sums with lengths that go with the log-probs: true NLL per token is 2.
    from spin_train.report.estimates import _ratio

    generator, hits = np.random.default_rng(0), 0
    for _ in range(400):
        tokens = pandas.Series(generator.integers(2, 40, 60).astype(float))
        sums = tokens * 2.0 + generator.normal(0, 1, 60) * tokens
        found = _ratio(sums, tokens, pandas.Series(range(60)))
        hits += found.low < 2.0 < found.high
    assert 0.92 < hits / 400 < 0.98  # binomial, three standard errors around 0.95


def test_samples_of_a_row_are_one_row(tmp_path):
    frame = {"margin": [1.0, 3.0, 5.0]}
    made = policy(tmp_path / "a", [-1.0, -1.0, -2.0], **frame, prompts=[0, 0, 1])
    rows = pandas.read_parquet(made.evaluation_by_example).assign(prompt_id=[7, 7, 9])
    rows.to_parquet(made.evaluation_by_example)
    assert nll(made).value == pytest.approx(3.0 / 8.0)
    assert margins_by_prompt(made) == {7: 2.0, 9: 5.0}


def test_few_prompts_and_runs_of_before_have_no_interval(tmp_path, draws):
    few = policy(tmp_path / "a", draws[0][:5])
    assert nll(few).low is None
    old = policy(tmp_path / "b", draws[0])
    old.evaluation_by_example.unlink()
    assert nll(old) == Estimate(old.numbers["real_nll_per_token"])
    full = policy(tmp_path / "c", draws[0])
    assert nll_difference(full, old) == Estimate(pytest.approx(0.0, abs=1e-12))
    assert margins_by_prompt(old) == {}
    old.evaluation.unlink()
    assert nll_difference(full, old) is None

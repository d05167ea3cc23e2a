"""Token trees by hand, against sums over next tokens, automatic differentiation and the table."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import hessian, jacobian

from spin_theory import TabularPolicy, kl, minimise_within, spin_objective, tv
from spin_theory.minima.policy_classes import LogLinearClass
from spin_theory.minima.resting import resting_point, sft_minimum
from spin_theory.minima.token_trees import TokenTree
from tests.strategies import at_most

BITS = ["".join(bits) for bits in itertools.product("ab", repeat=3)]
RAGGED = ["aa", "ab.", "aba", "b"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_response_is_the_product_of_its_tokens():
    # a | b at the beginning; a | b after a; . | a after ab
    tree = TokenTree.free(RAGGED)
    assert [(*prefix, token) for prefix, token in tree.branches] == [
        *(("a",), ("a", "a"), ("a", "b"), ("a", "b", "."), ("a", "b", "a"), ("b",))
    ]
    logits = torch.tensor([0.8, 0.3, 0.7, 0.4, 0.6, 0.2], dtype=torch.float64).log()
    expected = torch.tensor([[0.8 * 0.3, 0.8 * 0.7 * 0.4, 0.8 * 0.7 * 0.6, 0.2]]).double()
    torch.testing.assert_close(tree.policy(logits).probs, expected)


@given(seed=st.integers(0, 2**32))
def test_next_tokens_of_any_table_give_it_back(seed):
    table = TabularPolicy.random(2, 4, seed=seed)
    tree = TokenTree.free(RAGGED, prompts=2)
    again = tree.policy(tree.next_probs(table).log().flatten())
    assert tv(again, table).max() <= 1e-14


def test_prefixes_that_end_alike_share_their_next_tokens():
    tree = TokenTree.sharing(BITS, last=1)
    probs = tree.next_probs(tree.policy(normal(6)))[0]
    by_last = {}
    for (prefix, token), prob in zip(tree.branches, probs.tolist(), strict=True):
        by_last.setdefault((prefix[-1:], token), []).append(prob)
    assert sorted(map(len, by_last.values())) == [1, 1, 3, 3, 3, 3]
    for shared in by_last.values():
        assert shared == pytest.approx([shared[0]] * len(shared), rel=1e-14)


@pytest.mark.parametrize("last", [0, 1, 2])
@pytest.mark.parametrize("kind", ["tree", "log-linear"])
@at_most(10)
@given(seed=st.integers(0, 2**32))
def test_derivatives_are_those_of_the_log_probs(kind, last, seed):
    family = TokenTree.sharing(BITS, last=last)
    if kind == "log-linear":
        family = LogLinearClass(normal(2, 8, 3, seed=seed))
    theta = normal(family.features.shape[-1], seed=seed)
    weights = normal(len(family.features), 8, seed=seed + 1)
    found = jacobian(family.log_probs, theta)
    torch.testing.assert_close(family.jacobian(theta), found, rtol=1e-10, atol=1e-12)
    bent = hessian(lambda at: (weights * family.log_probs(at)).sum(), theta)
    torch.testing.assert_close(family.curvature(theta, weights), bent, rtol=1e-10, atol=1e-12)


def test_two_prompts_have_features_of_their_own():
    features = normal(2, 14, 3)
    both = TokenTree(BITS, features)
    theta = normal(3, seed=1)
    for prompt in (0, 1):
        alone = TokenTree(BITS, features[prompt : prompt + 1])
        torch.testing.assert_close(both.log_probs(theta)[prompt], alone.log_probs(theta)[0])


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
def test_sft_counts_transitions(loss_type):
    tree = TokenTree.sharing(BITS, last=1)
    data = TabularPolicy.random(1, 8, seed=3, smallest=0.05)
    after_a = sum(
        prob * sum(one + two == "ab" for one, two in itertools.pairwise(text))
        for text, prob in zip(BITS, data.probs[0].tolist(), strict=True)
    )
    from_a = sum(
        prob * text[:-1].count("a") for text, prob in zip(BITS, data.probs[0].tolist(), strict=True)
    )
    rest = resting_point(tree, data, loss_type=loss_type)
    at = tree.branches.index((("a",), "b"))
    assert tree.next_probs(rest.policy)[0, at].item() == pytest.approx(after_a / from_a, rel=1e-10)
    assert torch.equal(rest.parameters, sft_minimum(tree, data))


@pytest.mark.parametrize(("loss_type", "of_a_table"), [("logistic", 0.5), ("exponential", 0.25)])
def test_with_the_data_in_the_class_spin_rests_at_any_beta(loss_type, of_a_table):
    tree = TokenTree.sharing(BITS, last=1)
    data = tree.policy(normal(6, seed=5))
    rest = resting_point(tree, data, loss_type=loss_type)
    assert tv(rest.policy, data).max() <= 1e-10
    assert rest.least_beta == pytest.approx(0, abs=1e-9)
    assert rest.stable_beta == pytest.approx(of_a_table, rel=1e-9)
    rules = {"beta": 0.05, "loss_type": loss_type}
    found = minimise_within(tree, rest.parameters, data, **rules)
    assert tv(found.policy, data).max() <= 1e-9


def test_at_the_published_beta_half_of_the_resting_points_are_saddles():
    tree = TokenTree.sharing(BITS, last=1)
    tables = [TabularPolicy.random(1, 8, seed=seed, smallest=0.01) for seed in range(200)]
    rests = [resting_point(tree, data) for data in tables]
    assert sum(rest.least_beta > 0.1 for rest in rests) == 106
    assert sorted(rest.stable_beta for rest in rests)[100] == pytest.approx(0.689, abs=5e-4)


@pytest.mark.parametrize(("steps", "stays"), [(100, True), (300, False)])
def test_few_steps_return_to_a_saddle_and_many_leave_it(steps, stays):
    tree = TokenTree.sharing(BITS, last=1)
    data = TabularPolicy.random(1, 8, seed=6, smallest=0.01)
    rest = resting_point(tree, data)
    start = rest.parameters + 0.01 * normal(6)
    theta = start
    for _ in range(5):
        opponent = tree.policy(theta)
        for _ in range(steps):
            at = theta.clone().requires_grad_()
            value = spin_objective(tree.policy(at), opponent, data, beta=0.1)
            (gradient,) = torch.autograd.grad(value, at)
            theta = theta - 0.5 * gradient
    distances = [float(tv(tree.policy(at), rest.policy).max()) for at in (start, theta)]
    assert (distances[1] < distances[0] / 4) is stays
    assert stays or distances[1] > 4 * distances[0]


def test_of_a_log_linear_class_any_beta_will_do():
    family = LogLinearClass(normal(1, 8, 2))
    rest = resting_point(family, TabularPolicy.random(1, 8, seed=1, smallest=0.02))
    assert rest.least_beta <= 1e-12


def test_without_the_data_spin_leaves_sfts_solution_at_small_beta_and_loses_by_it():
    tree = TokenTree.sharing(BITS, last=1)
    data = TabularPolicy.random(1, 8, seed=6, smallest=0.01)
    rest = resting_point(tree, data)
    assert 0.1 < rest.least_beta < rest.stable_beta
    below, above = (
        minimise_within(tree, rest.parameters, data, beta=factor * rest.least_beta)
        for factor in (0.9, 1.1)
    )
    assert tv(above.policy, rest.policy).max() <= 1e-9
    assert below.objective < math.log(2) - 1e-6
    assert kl(data, below.policy).mean() > kl(data, rest.policy).mean() + 0.01


@pytest.mark.parametrize(("loss_type", "most"), [("logistic", 2.0), ("exponential", 1.0)])
@at_most(20)
@given(seed=st.integers(0, 2**32))
def test_above_the_ratio_of_slope_to_curvature_it_is_stable_in_any_tree(loss_type, most, seed):
    data = TabularPolicy.random(1, 8, seed=seed, smallest=1e-4)
    rest = resting_point(TokenTree.sharing(BITS, last=1), data, loss_type=loss_type)
    assert rest.least_beta < rest.stable_beta <= most * (1 + 1e-9)


@pytest.mark.parametrize(("factor", "returns"), [(0.93, False), (1.07, True)])
def test_exact_play_returns_above_the_stable_beta_and_not_below(factor, returns):
    tree = TokenTree.sharing(BITS, last=1)
    data = TabularPolicy.random(1, 8, seed=6, smallest=0.01)
    rest = resting_point(tree, data)
    theta = rest.parameters + 1e-4 * normal(6)
    distances = []
    for _ in range(45):
        theta = minimise_within(tree, theta, data, beta=factor * rest.stable_beta).parameters
        distances.append(float(tv(tree.policy(theta), rest.policy).max()))
    assert (distances[-1] < distances[20]) is returns


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ([], "responses must be one or more"),
        (["a", ""], "responses must be one or more"),
        (["a", "ab"], "none be the beginning of another"),
        (["a", "b", "a"], "responses must differ"),
    ],
)
def test_responses_that_are_no_tree_are_refused(responses, message):
    with pytest.raises(ValueError, match=message):
        TokenTree.free(responses)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"features must be float64 of shape \(X, 2, D\)"):
        TokenTree("ab", torch.ones(1, 3, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="last must be"):
        TokenTree.sharing("ab", last=-1)
    with pytest.raises(ValueError, match="prompts must be"):
        TokenTree.free("ab", prompts=0)
    with pytest.raises(ValueError, match=r"parameters must have shape \(2,\)"):
        TokenTree.free("ab").policy(torch.zeros(3).double())
    with pytest.raises(ValueError, match="policy must have 2 responses, got 3"):
        TokenTree.free("ab").next_probs(TabularPolicy.random(1, 3, seed=0))
    with pytest.raises(ValueError, match="one shape"):
        resting_point(TokenTree.free("ab"), TabularPolicy.random(1, 3, seed=0))
    with pytest.raises(ValueError, match="logistic or exponential"):
        resting_point(TokenTree.free("ab"), TabularPolicy.random(1, 2, seed=0), loss_type="hinge")

import pytest
import torch
from torch.autograd.functional import hessian

from paper_figures import token_trees
from spin_theory import TabularPolicy, spin_objective
from spin_theory.minima.resting import resting_point
from spin_theory.minima.token_trees import TokenTree


@pytest.fixture(scope="module")
def numbers():
    return token_trees.compute(tables=12, iterations=3)


def test_the_share_is_of_tables_whose_curvature_is_negative(numbers):
    tree = TokenTree.sharing(token_trees.WORDS, last=1)
    saddles = 0
    for seed in range(12):
        data = TabularPolicy.random(1, 8, seed=seed, smallest=token_trees.SMALLEST)
        rest = resting_point(tree, data)
        curvature = hessian(
            lambda theta, data=data, rest=rest: spin_objective(
                tree.policy(theta), rest.policy, data, beta=token_trees.BETA
            ),
            rest.parameters,
        )
        saddles += bool(torch.linalg.eigvalsh(curvature)[0] < -1e-8)
    assert 0 < saddles < 12
    assert sum(beta > token_trees.BETA for beta in numbers.least_betas) == saddles
    assert list(numbers.least_betas) == sorted(numbers.least_betas)
    pairs = zip(numbers.least_betas, numbers.stable_betas, strict=True)
    assert all(least < stable for least, stable in pairs)


def test_games_of_few_steps_return_and_those_of_many_leave(numbers):
    assert {steps: len(line) for steps, line in numbers.distances.items()} == {
        10: 4,
        100: 4,
        300: 4,
    }
    ends = {steps: line[-1] / line[0] for steps, line in numbers.distances.items()}
    assert ends[100] < ends[10] < 1 < ends[300]

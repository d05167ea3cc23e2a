import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spin_theory import (
    PENALTIES,
    InnerProblem,
    SampledMinimiser,
    TabularPolicy,
    closed_form_update,
    play,
    spin_loss,
    tv,
)
from spin_theory.games.samples import predicted_tv
from spin_theory.games.sampling import sampled_update
from tests.strategies import BETAS


def tables_of(responses, *, seed=0, smallest=0.2):
    return tuple(
        TabularPolicy.random(1, responses, seed=seed + k, smallest=smallest) for k in range(2)
    )


def draw_as_the_update_does(opponent, data, pairs, seed):
    """The pairs that sampled_update draws from a generator of this seed: (pairs, 2)."""
    joint = (data.log_probs[0, :, None] + opponent.log_probs[0, None, :]).exp().flatten()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint, pairs, replacement=True, generator=generator)
    responses = data.log_probs.shape[1]
    return torch.stack([drawn // responses, drawn % responses], dim=1)


def reaches_all(edges, responses):
    """Whether paths lead from response 0 to all others, by brute force."""
    reached = {0}
    for _ in range(responses):
        reached |= {loser for winner, loser in edges if winner in reached}
    return len(reached) == responses


@given(
    responses=st.integers(1, 5),
    pairs=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    beta=BETAS,
)
def test_the_sampled_update_exists_exactly_where_all_beat_all_on_some_path(
    responses, pairs, seed, beta
):
    opponent, data = tables_of(responses, seed=seed)
    edges = draw_as_the_update_does(opponent, data, pairs, seed).tolist()
    backwards = [(loser, winner) for winner, loser in edges]
    connected = reaches_all(edges, responses) and reaches_all(backwards, responses)
    generator = torch.Generator().manual_seed(seed)
    updated = sampled_update(opponent, data, beta=beta, pairs=pairs, generator=generator)
    assert (updated is not None) == connected


@given(responses=st.integers(2, 5), seed=st.integers(0, 10_000), beta=st.floats(0.3, 10.0))
def test_the_sampled_update_minimises_the_mean_loss_of_its_pairs(responses, seed, beta):
    opponent, data = tables_of(responses, seed=seed)
    pairs = 200
    generator = torch.Generator().manual_seed(seed)
    updated = sampled_update(opponent, data, beta=beta, pairs=pairs, generator=generator)
    assume(updated is not None)
    real, generated = draw_as_the_update_does(opponent, data, pairs, seed).T
    logits = updated.log_probs[0].clone().requires_grad_()
    table = torch.log_softmax(logits, dim=-1)
    loss = spin_loss(
        policy_real_logps=table[real],
        policy_generated_logps=table[generated],
        opponent_real_logps=opponent.log_probs[0, real],
        opponent_generated_logps=opponent.log_probs[0, generated],
        beta=beta,
    ).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.norm() <= 1e-12 * (1 + beta)  # convex: a global minimum


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@pytest.mark.parametrize("history_weight", [0.0, 0.3])
def test_the_solver_of_sampled_pairs_minimises_their_mean_loss(loss_type, history_weight):
    """Three prompts, T-SPIN's scores, and the gradient by automatic differentiation."""
    data, opponent, initial = (
        TabularPolicy.random(3, 4, seed=seed, smallest=0.2) for seed in range(3)
    )
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=None,
        beta=0.8,
        loss_type=loss_type,
        initial=initial,
        history_weight=history_weight,
    )
    updated = SampledMinimiser(pairs=400)(
        problem, start=opponent, generator=torch.Generator().manual_seed(3)
    )
    generator = torch.Generator().manual_seed(3)
    logits = updated.log_probs.clone().requires_grad_()
    loss = 0.0
    for weight, one, other in ((1.0, data, opponent), (history_weight, opponent, initial)):
        if weight > 0:
            joint = (one.log_probs[:, :, None] + other.log_probs[:, None, :]).exp().flatten(1)
            drawn = torch.multinomial(joint, 400, replacement=True, generator=generator)
            first, second = (logits.gather(1, index) for index in (drawn // 4, drawn % 4))
            loss = loss + weight * PENALTIES[loss_type](0.8 * (first - second)).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.norm() <= 1e-12


def test_the_solver_and_the_update_agree():
    opponent, data = tables_of(4)
    problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=0.5)
    found = SampledMinimiser(pairs=300)(
        problem, start=opponent, generator=torch.Generator().manual_seed(1)
    )
    same = sampled_update(
        opponent, data, beta=0.5, pairs=300, generator=torch.Generator().manual_seed(1)
    )
    assert tv(found, same).item() <= 1e-14


def test_a_game_of_sampled_pairs_ends_within_the_noise_of_the_data():
    start, data = tables_of(5)
    game = play(start, data, beta=1.0, iterations=6, solver=SampledMinimiser(pairs=20_000))
    noise = predicted_tv(data, data, beta=1.0).item() / math.sqrt(20_000)
    assert (game.tv[2:] < 4 * noise).all()
    assert game.tv[-1] > 0.05 * noise


def test_pairs_without_a_minimum_are_refused_by_the_prompt():
    opponent, data = (TabularPolicy.random(2, 5, seed=seed) for seed in (0, 1))
    problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=1.0)
    with pytest.raises(ValueError, match=r"prompt 0: the 3 pairs drawn have no minimum.*raise"):
        SampledMinimiser(pairs=3)(problem, start=opponent, generator=torch.Generator())
    with pytest.raises(ValueError, match="pairs must be >= 1"):
        SampledMinimiser(pairs=0)


def test_one_response_needs_no_pairs_to_be_compared():
    only = TabularPolicy.from_probs([[1.0]])
    updated = sampled_update(only, only, beta=1.0, pairs=1, generator=torch.Generator())
    assert updated.log_probs.tolist() == [[0.0]]


@given(responses=st.integers(2, 6), seed=st.integers(0, 1000), beta=st.floats(0.5, 5.0))
def test_very_many_pairs_find_the_exact_update(responses, seed, beta):
    opponent, data = tables_of(responses, seed=seed, smallest=0.3)
    pairs = 1_000_000
    found = sampled_update(
        opponent, data, beta=beta, pairs=pairs, generator=torch.Generator().manual_seed(seed)
    )
    distance = tv(found, closed_form_update(opponent, data, beta=beta)).item()
    expected = predicted_tv(opponent, data, beta=beta).item() / math.sqrt(pairs)
    assert distance < 6 * expected


def test_bad_arguments_are_refused():
    opponent, data = tables_of(3)
    prompts, two = TabularPolicy.random(2, 3, seed=0), TabularPolicy.random(1, 2, seed=0)
    rules = {"beta": 1.0, "pairs": 10, "generator": torch.Generator()}
    with pytest.raises(ValueError, match="one prompt"):
        sampled_update(prompts, prompts, **rules)
    with pytest.raises(ValueError, match="one shape"):
        sampled_update(opponent, two, **rules)
    with pytest.raises(ValueError, match="pairs must be >= 1"):
        sampled_update(opponent, data, **rules | {"pairs": 0})
    with pytest.raises(ValueError, match="beta must be finite"):
        sampled_update(opponent, data, **rules | {"beta": 0.0})

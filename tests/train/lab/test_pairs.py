"""Enumerated and sampled pairs, and the run that is made of them."""

import pytest
import torch

from spin_theory.objectives.objectives import spin_objective, tspin_objective
from spin_theory.policies import TabularPolicy
from spin_train.data.records import read_records
from spin_train.lab.pairs import (
    coupled_triplets,
    enumerated_pairs,
    prepare_run,
    sampled_pairs,
)
from spin_train.lab.tabulate import PolicyTable
from spin_train.lab.world import Space
from spin_train.training.examples import examples_of
from spin_train.training.objective import selfplay_objective

SPACE = Space(prompts=2, responses=4)
DATA, OPPONENT, POLICY, INITIAL = (
    TabularPolicy.random(2, 4, seed=s, smallest=0.1) for s in range(4)
)
EXACT = 1e-12
"""Nats; sums of a few dozen terms in float64."""


def loss_of(run, policy):
    """What the trainer minimises, for a policy that is a table: the mean over weighted examples."""
    objective = selfplay_objective(run.config, 0)
    scored = sorted((run.directory.iteration(0) / "scored").glob("train-*.parquet"))
    examples = list(examples_of(read_records(*scored), objective))
    rows = {tuple(ids): row for row, ids in enumerate(SPACE.prompt_ids)}
    places = {tuple(ids): place for place, ids in enumerate(SPACE.response_ids)}
    logps = torch.stack(
        [
            torch.stack(
                [
                    policy.log_probs[rows[tuple(e.group.prompt_ids)], places[tuple(ids)]]
                    for ids in e.group.responses
                ]
            )
            for e in examples
        ]
    )
    opponent = torch.tensor([e.opponent_logps for e in examples], dtype=torch.float64)
    weights = torch.tensor([e.weight for e in examples], dtype=torch.float64)
    return float((weights * objective(logps, opponent)).mean())


def test_the_loss_of_a_run_on_all_pairs_is_the_exact_objective(tmp_path):
    run = prepare_run(
        tmp_path,
        SPACE,
        PolicyTable(tuple(OPPONENT.log_probs), ()),
        DATA,
        enumerated_pairs(DATA, OPPONENT),
        model="m",
        beta=0.7,
        sft_weight=0.3,
    )
    expected = spin_objective(POLICY, OPPONENT, DATA, beta=0.7, sft_weight=0.3)
    assert loss_of(run, POLICY) == pytest.approx(float(expected), abs=EXACT)


def test_the_loss_of_a_run_on_coupled_triplets_is_t_spins_objective(tmp_path):
    weights = coupled_triplets(DATA, OPPONENT, INITIAL)
    run = prepare_run(
        tmp_path,
        SPACE,
        PolicyTable(tuple(OPPONENT.log_probs), ()),
        DATA,
        weights,
        model="m",
        algorithm="tspin",
        beta=2.0,
        history_weight=0.1,
    )
    expected = tspin_objective(POLICY, OPPONENT, INITIAL, DATA, beta=2.0, history_weight=0.1)
    assert loss_of(run, POLICY) == pytest.approx(float(expected), abs=EXACT)


def test_coupled_triplets_are_few_and_have_the_probabilities_of_their_pairs():
    weights = coupled_triplets(DATA, OPPONENT, INITIAL)
    torch.testing.assert_close(weights.sum(3), enumerated_pairs(DATA, OPPONENT))
    torch.testing.assert_close(weights.sum(1), enumerated_pairs(OPPONENT, INITIAL))
    assert int((weights > 0).sum()) <= 2 * 4 * (2 * 4 - 1)
    same = coupled_triplets(DATA, OPPONENT, DATA)
    assert int((same > 0).sum()) == 2 * 4 * 4  # each real response goes with itself


def test_pairs_of_weight_zero_are_not_written(tmp_path):
    weights = enumerated_pairs(DATA, OPPONENT)
    weights[0, 0, :] = 0.0
    weights = weights / weights.sum((1, 2), keepdim=True)
    run = prepare_run(
        tmp_path, SPACE, PolicyTable(tuple(OPPONENT.log_probs), ()), DATA, weights, model="m"
    )
    records = read_records(run.directory.train_rows)
    assert len(records) == 2 * 16 - 4
    assert all(record.weight > 0 for record in records)
    assert sum(record.weight for record in records) == pytest.approx(len(records))


def test_the_run_has_come_to_its_training(tmp_path):
    weights = enumerated_pairs(DATA, OPPONENT)
    run = prepare_run(
        tmp_path, SPACE, PolicyTable(tuple(OPPONENT.log_probs), ()), DATA, weights, model="m"
    )
    done = [stage.name for stage in run.stages if run.manifest().is_complete(stage.name)]
    assert done == ["data/prepare", "iter0/generate", "iter0/score"]


def test_sampled_pairs_are_counts_that_come_near_the_probabilities():
    generator = torch.Generator().manual_seed(0)
    weights = sampled_pairs(DATA, OPPONENT, pairs=100_000, generator=generator)
    counts = weights * 100_000
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2).double())
    assert (weights - enumerated_pairs(DATA, OPPONENT)).abs().max() < 0.01  # six deviations

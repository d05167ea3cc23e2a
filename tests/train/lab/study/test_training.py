"""A step here is the trainer's, and a game trains on what its opponent said."""

import copy
import functools
import math

import pytest
import torch
from transformers import TrainingArguments

from spin_train.lab.study import training
from spin_train.lab.study.arms import ARMS, CONTROL
from spin_train.lab.study.training import Course, play, score, sft_examples, train
from spin_train.lab.study.world import World, network
from spin_train.model.logps import Group
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.transformers_engine import sample
from spin_train.seeds import sample_seed
from spin_train.training.batching import MicroBatches
from spin_train.training.examples import Example
from spin_train.training.objective import Objective
from spin_train.training.sums import MetricSums
from spin_train.training.trainer import SpinTrainer, collate

WORLD = World(0, 4, 4)
ROWS = WORLD.rows(prompts=24, responses=1, noise=0.0)
COURSE = Course(steps=6, learning_rate=1e-3, batch_size=8)
SINGLE = 1e-6
"""Of weights near 0.02 after six steps of at most 1e-3: the same operations, in float32."""


class OneRank:
    size = 1

    def sum(self, values):
        return values


def small():
    return network(width=16, layers=1, heads=2, seed=1)


@functools.cache
def _one():
    model = small()
    return model, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def again():
    """One network for all games, with its first weights: what it was tried for still holds."""
    model, first = _one()
    model.load_state_dict(first)
    return model


def named(name):
    return next(arm for arm in ARMS if arm.name == name)


def examples_for(objective, model):
    """Examples whose other responses are those of other rows, scored by the model."""
    groups = [
        Group(row.prompt, [ROWS[(n + k) % len(ROWS)].response for k in range(len(objective.roles))])
        for n, row in enumerate(ROWS)
    ]
    logps = score(model, groups).view(len(groups), -1).tolist()
    return [Example(group, row) for group, row in zip(groups, logps, strict=True)]


@pytest.mark.parametrize(
    "objective",
    [
        Objective("sft"),
        Objective("spin", beta=0.5, sft_weight=0.1),
        Objective("tspin", history_weight=0.3),
        Objective("space"),
    ],
    ids=lambda objective: objective.algorithm,
)
def test_training_here_ends_at_the_weights_of_the_trainer(tmp_path, objective):
    """Losses, gradients, order, optimiser and schedule are in it: AdamW steps, warm-up, decay."""
    ours, theirs = small(), small()
    examples = examples_for(objective, ours)
    train(ours, examples, objective, COURSE, seed=5)
    batches = MicroBatches(
        examples,
        batch_size=COURSE.batch_size,
        micro_batch_tokens=10_000,
        ranks=1,
        epochs=2.0,
        seed=5,
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=COURSE.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    begun = copy.deepcopy(theirs.state_dict())
    SpinTrainer(
        model=theirs,
        args=arguments,
        train_dataset=batches,
        data_collator=collate,
        objective=objective,
        dtype="float32",
        ranks=OneRank(),
        sums=MetricSums(),
    ).train()
    for (name, got), wanted in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=SINGLE)
        assert float((wanted - begun[name]).detach().abs().max()) > 100 * SINGLE, name


def trained_on(arm, monkeypatch, *, iterations=2, course=COURSE):
    """Play an arm, and give the weights before each training and what it was trained on."""
    seen, ended = [], []

    def note(model, examples, objective, course, *, seed):
        begun = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        assert not ended or begun.equal(ended[-1])  # each goes on from where the last one ended
        seen.append((copy.deepcopy(model), list(examples), objective))
        train(model, examples, objective, course, seed=seed)
        ended.append(torch.cat([weights.detach().flatten() for weights in model.parameters()]))

    monkeypatch.setattr(training, "train", note)
    play(again(), ROWS, arm, course, iterations=iterations, seed=3)
    return seen


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_each_iteration_trains_on_the_scores_of_the_model_it_begins_with(arm, monkeypatch):
    for model, examples, objective in trained_on(arm, monkeypatch):
        assert {len(example.group.responses) for example in examples} == {len(objective.roles)}
        real = {(tuple(row.prompt), tuple(row.response)) for row in ROWS}
        groups = [example.group for example in examples]
        assert all((tuple(g.prompt_ids), tuple(g.responses[0])) in real for g in groups)
        if arm.name != CONTROL:
            stored = torch.tensor([example.opponent_logps for example in examples])
            torch.testing.assert_close(score(model, groups).view_as(stored), stored)


def test_samples_are_the_opponents_own(monkeypatch):
    """A model that was trained says other things than before, with the same seeds or others."""
    first, second = (
        [example.group.responses[1] for example in examples]
        for _, examples, _ in trained_on(named("SPIN, beta 1"), monkeypatch)
    )
    assert first != second
    again, *_ = trained_on(named("SPACE, mu 1"), monkeypatch, iterations=1)
    assert [example.group.responses[1] for example in again[1]] == first  # the same p_0 and seeds


def test_a_proto_response_is_one_of_p_0(monkeypatch):
    """Its first iteration samples from p_0, so there generated and proto are the same."""
    (_, first, begun), (_, second, later) = trained_on(named("T-SPIN, beta 1"), monkeypatch)
    assert (begun.history_weight, later.history_weight) == (0.0, 0.1)
    proto = {tuple(example.group.prompt_ids): example.group.responses[2] for example in first}
    assert all(e.group.responses[1] == e.group.responses[2] for e in first)
    assert all(e.group.responses[2] == proto[tuple(e.group.prompt_ids)] for e in second)
    assert any(e.group.responses[1] != e.group.responses[2] for e in second)


def test_mixing_adds_the_samples_of_the_iterate_before(monkeypatch):
    first, second = (
        examples for _, examples, _ in trained_on(named("mixing, beta 1"), monkeypatch)
    )
    before = {tuple(e.group.prompt_ids): e.group.responses[1] for e in first}
    assert len(first) == len(ROWS)
    assert len(second) == 2 * len(ROWS)
    assert [before[tuple(e.group.prompt_ids)] for e in second[1::2]] == [
        e.group.responses[1] for e in second[1::2]
    ]


SHORT = Course(steps=2, learning_rate=3e-2, batch_size=8)
"""16 examples of 24 rows: later iterations meet rows that nobody has answered yet."""


@pytest.mark.parametrize(("name", "column"), [("mixing, beta 1", 1), ("T-SPIN, beta 1", 2)])
def test_an_earlier_opponent_answers_rows_that_it_has_not_met(monkeypatch, name, column):
    p_0 = small()
    (_, first, _), (model, second, _) = trained_on(named(name), monkeypatch, course=SHORT)
    assert len(first) == len(second) == SHORT.examples
    groups = [example.group for example in second]
    own = groups[1::2] if column == 1 else groups  # mixing: the sample before stands second
    met = {tuple(example.group.prompt_ids) for example in first}
    assert {tuple(group.prompt_ids) for group in own} - met
    numbers = {tuple(row.prompt): number for number, row in enumerate(ROWS)}
    wanted = sample(
        p_0,
        [group.prompt_ids for group in own],
        [sample_seed(3, 0, numbers[tuple(group.prompt_ids)], 0) for group in own],
        SamplingSettings((0,), 8, 1.0, batch_size=len(own)),
    )
    assert [group.responses[column] for group in own] == [sampled.ids for sampled in wanted]
    stored = torch.tensor([example.opponent_logps for example in second])
    torch.testing.assert_close(score(model, groups).view_as(stored), stored)


def test_all_arms_take_as_many_steps(monkeypatch):
    taken, course = [], Course(steps=3, learning_rate=1e-3, batch_size=8)
    steps = training.step_loss
    monkeypatch.setattr(
        training, "step_loss", lambda *given: taken.append(len(given[1].examples)) or steps(*given)
    )
    for arm in ARMS:
        taken.clear()
        play(again(), ROWS, arm, course, iterations=2, seed=0)
        assert taken == [8] * 3 * 2, arm.name


def test_sft_needs_no_scores():
    assert all(math.isnan(example.opponent_logps[0]) for example in sft_examples(ROWS))

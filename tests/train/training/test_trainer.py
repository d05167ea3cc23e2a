import copy

import pytest
import torch
from transformers import TrainingArguments

from spin_train.errors import DivergedError, UserError
from spin_train.model.logps import Group, response_logps
from spin_train.training.batching import MicroBatches
from spin_train.training.examples import Example
from spin_train.training.objective import Objective
from spin_train.training.sums import MetricSums
from spin_train.training.trainer import STEP_ZERO_TOLERANCE, SpinTrainer, collate
from tests.train.models import tiny_model

LEARNING_RATE = 0.01
GROUPS = {
    "spin": [Group([3, 4], [[5, 6, 2], [7]]), Group([8], [[9, 2], [10, 11, 12, 13]])],
    "tspin": [Group([3, 4], [[5, 6, 2], [7], [8, 2]]), Group([8], [[9, 2], [10, 11], [3]])],
    "tspin_ref": [Group([3, 4], [[5, 6, 2], [7], [8, 2]]), Group([8], [[9, 2], [10, 11], [3]])],
    "sft": [Group([3, 4], [[5, 6, 2]]), Group([8], [[9, 2]])],
}
GROUPS |= {"space": GROUPS["spin"], "gsil": GROUPS["spin"]}
# Five: the last batch of four is one example next to a filler or nothing.
COUNT = 5
WEIGHTS = [0.25, 3.0, 1.0, 0.5, 2.0]


class OneRank:
    size = 1

    def sum(self, values):
        return values


def scored_examples(model, algorithm, *, off_by=0.0, weighted=False):
    groups = (GROUPS[algorithm] * COUNT)[:COUNT]
    examples = []
    for group in groups:
        with torch.no_grad():
            logps = response_logps(model, [group]).tolist()
        # Another model's than the opponent, so that one taken for the other shows.
        reference = [value + 0.5 * n for n, value in enumerate(logps, 1)]
        examples.append(
            Example(
                group,
                [logps[0] + off_by, *logps[1:]],
                reference if algorithm == "tspin_ref" else None,
                weight=WEIGHTS[len(examples)] if weighted else 1.0,
            )
        )
    return examples


def make_trainer(
    folder,
    model,
    objective,
    *,
    micro_batch_size=2,
    off_by=0.0,
    dtype="float32",
    weighted=False,
    routers=None,
):
    batches = MicroBatches(
        scored_examples(model, objective.algorithm, off_by=off_by, weighted=weighted),
        batch_size=4,
        micro_batch_tokens=1000,
        micro_batch_size=micro_batch_size,
        ranks=1,
        epochs=1.0,
        seed=0,
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=batches.accumulation,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    return SpinTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=collate,
        objective=objective,
        dtype=dtype,
        ranks=OneRank(),
        sums=MetricSums(),
        routers=routers,
    )


def dense_training(model, objective, batches):
    """The same training as plain gradient steps on the mean over each global batch."""
    steps = []
    everything = [batches[index] for index in range(len(batches))]
    slots = len(batches) // batches.steps
    for start in range(0, len(everything), slots):
        micro_batches = [batch for batch in everything[start : start + slots] if batch.weight > 0]
        examples = [example for batch in micro_batches for example in batch.examples]
        policy = torch.stack([response_logps(model, [example.group]) for example in examples])
        opponent = torch.tensor([e.opponent_logps for e in examples], dtype=policy.dtype)
        stored = [e.reference_logps or e.opponent_logps for e in examples]
        weights = torch.tensor([example.weight for example in examples], dtype=policy.dtype)
        loss = (weights * objective(policy, torch.tensor(stored, dtype=policy.dtype))).mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= LEARNING_RATE * parameter.grad
        steps.append((loss.item(), policy.detach(), opponent))
    return steps


OBJECTIVES = [
    Objective("spin", beta=0.5),
    Objective("spin", loss_type="hinge", beta=0.1),
    Objective("tspin", beta=0.2, history_weight=0.3),
    Objective("tspin_ref", beta=0.2, history_weight=0.3),
    Objective("sft", scale=0.05),
    Objective("spin", loss_type="exponential", beta=0.1, sft_weight=0.02),
    Objective("space", space_mu=3.0),
    Objective("gsil", loss_type="brier", beta=0.2, gsil_shift=0.3),
]


@pytest.mark.parametrize("micro_batch_size", [1, 3])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.algorithm}-{o.loss_type}")
def test_weights_and_losses_are_those_of_dense_gradient_steps(
    tmp_path, objective, micro_batch_size
):
    """The weights of rows are in both: each multiplies the loss of its example."""
    model = tiny_model("gpt2")
    dense = copy.deepcopy(model)
    trainer = make_trainer(
        tmp_path, model, objective, micro_batch_size=micro_batch_size, weighted=True
    )
    trainer.train()
    expected = dense_training(dense, objective, trainer.train_dataset)
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    # The Trainer keeps the running loss in float32.
    assert logged == pytest.approx([loss for loss, _, _ in expected], rel=1e-5)
    for got, wanted in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=1e-10)


def test_metrics_are_means_over_the_examples_of_a_step(tmp_path):
    model, objective = tiny_model("gpt2"), Objective("spin", beta=0.5)
    dense = copy.deepcopy(model)
    trainer = make_trainer(tmp_path, model, objective, micro_batch_size=1)
    trainer.train()
    expected = dense_training(dense, objective, trainer.train_dataset)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    for line, (_, policy, opponent) in zip(lines, expected, strict=True):
        rewards = 0.5 * (policy - opponent)
        margins = rewards[:, 0] - rewards[:, 1]
        wanted = {
            "logps/real": policy[:, 0].mean(),
            "logps/generated": policy[:, 1].mean(),
            "rewards/real": rewards[:, 0].mean(),
            "rewards/generated": rewards[:, 1].mean(),
            "rewards/margin": margins.mean(),
        }
        for name, value in wanted.items():
            assert line[name] == pytest.approx(value.item(), abs=1e-9)
    # At the first step every margin is 0; after it, that of the one example left is positive.
    assert lines[1]["rewards/accuracy"] == 1.0


def test_the_sft_term_is_logged_with_the_weights_of_its_rows(tmp_path):
    model = tiny_model("gpt2")
    logged = []
    for weight in (0.0, 0.3):
        objective = Objective("spin", beta=0.5, sft_weight=weight)
        trainer = make_trainer(tmp_path, copy.deepcopy(model), objective, weighted=True)
        trainer.train()
        logged.append(next(line for line in trainer.state.log_history if "loss" in line))
    plain, added = logged
    assert "loss/sft" not in plain
    assert added["loss"] - plain["loss"] == pytest.approx(added["loss/sft"], rel=1e-6)


@pytest.mark.parametrize("algorithm", ["spin", "tspin"])
@pytest.mark.parametrize("off_by", [0.01, -0.01])
def test_scores_of_another_model_are_refused_before_the_first_update(tmp_path, algorithm, off_by):
    model = tiny_model("gpt2")
    before = copy.deepcopy(model.state_dict())
    trainer = make_trainer(tmp_path, model, Objective(algorithm), off_by=off_by)
    with pytest.raises(UserError, match=r"log-ratios .* up to 0\.01 nats, .* not 0"):
        trainer.train()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, tiny_model("gpt2"), Objective("spin"), off_by=float("nan"))
    with pytest.raises(UserError, match="step-0 check"):
        trainer.train()


@pytest.mark.parametrize("dtype", STEP_ZERO_TOLERANCE)
def test_the_tolerance_of_the_check_is_that_of_the_dtype(tmp_path, dtype):
    # Real responses have two or three tokens: the tolerance for one passes, twice that for three
    # does not.
    tolerance = STEP_ZERO_TOLERANCE[dtype]
    within, beyond = tolerance.allowed(1), 2 * tolerance.allowed(3)
    objective, model = Objective("spin", beta=1e-6), tiny_model("gpt2")
    make_trainer(tmp_path, copy.deepcopy(model), objective, off_by=within, dtype=dtype).train()
    with pytest.raises(UserError, match="step-0 check"):
        make_trainer(tmp_path, model, objective, off_by=beyond, dtype=dtype).train()


def test_sft_needs_no_scores(tmp_path):
    make_trainer(tmp_path, tiny_model("gpt2"), Objective("sft"), off_by=float("nan")).train()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    # At beta 1e6 the first step throws the policy so far off that exp(-margin) overflows.
    objective = Objective("spin", loss_type="exponential", beta=1e6)
    trainer = make_trainer(tmp_path, tiny_model("gpt2"), objective)
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step 2: lower"):
        trainer.train()


def test_a_micro_batch_passes_through_the_loader_as_it_is():
    assert collate(["micro-batch"]) == {"batch": "micro-batch"}


def test_the_loss_prints_nothing(tmp_path, capfd):
    """Defect 1: eight tensors per step on standard output."""
    model = tiny_model("llama", torch.float32)
    trainer = make_trainer(tmp_path, model, Objective("spin", beta=0.5))
    capfd.readouterr()
    trainer.compute_loss(model, {"batch": trainer.train_dataset[0]}).backward()
    assert capfd.readouterr() == ("", "")


def test_one_model_goes_forward_once_a_micro_batch(tmp_path):
    """Defect 2: the opponent is never forwarded, its log-probs are read."""
    model = tiny_model("llama", torch.float32)
    trainer = make_trainer(tmp_path, model, Objective("spin", beta=0.5))
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    for number in range(len(trainer.train_dataset)):
        trainer.compute_loss(model, {"batch": trainer.train_dataset[number]})
    assert len(calls) == len(trainer.train_dataset)


@pytest.mark.parametrize("algorithm", ["spin", "sft"])
def test_noise_that_only_training_has_is_refused_whatever_it_is_called(tmp_path, algorithm):
    model = tiny_model("gpt2", torch.float32)

    def jitter(module, inputs, output):
        return output + 0.1 * torch.randn_like(output) if module.training else output

    model.transformer.ln_f.register_forward_hook(jitter)
    with pytest.raises(UserError, match="in training mode the model's log-probs differ"):
        make_trainer(tmp_path, model, Objective(algorithm)).train()

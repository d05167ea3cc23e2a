import math

import pytest
import torch

from spin_theory import losses
from spin_train.config.files import parse_config
from spin_train.training.objective import (
    Objective,
    control_objective,
    selfplay_objective,
    sft_objective,
)

LOSS_TYPES = sorted(losses.PENALTIES)
# Columns: real, generated, proto. No two differences agree, so that swapped columns show.
POLICY = torch.tensor([[-3.0, -2.5, -4.25], [-1.0, -6.0, -2.0]], dtype=torch.float64)
OPPONENT = torch.tensor([[-3.5, -2.25, -4.0], [-1.75, -5.0, -3.0]], dtype=torch.float64)


def config(**changes):
    smallest = {"model": "m", "data": {"path": "rows.jsonl"}, "output_dir": "out"}
    return parse_config(smallest | changes)


def value_and_gradient(function):
    policy = POLICY.clone().requires_grad_()
    value = function(policy)
    (gradient,) = torch.autograd.grad((value * torch.tensor([1.0, 2.0])).sum(), policy)
    return value.detach(), gradient


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_spin_is_spin_loss_on_the_columns_real_and_generated(loss_type):
    objective = Objective("spin", loss_type=loss_type, beta=0.5)

    def by_hand(policy):
        return losses.spin_loss(
            policy_real_logps=policy[:, 0],
            policy_generated_logps=policy[:, 1],
            opponent_real_logps=OPPONENT[:, 0],
            opponent_generated_logps=OPPONENT[:, 1],
            beta=0.5,
            loss_type=loss_type,
        )

    got = value_and_gradient(lambda policy: objective(policy[:, :2], OPPONENT[:, :2]))
    torch.testing.assert_close(got, value_and_gradient(by_hand), atol=0, rtol=0)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_tspin_ref_is_both_advantages_on_log_ratios_written_out(loss_type):
    objective = Objective("tspin_ref", loss_type=loss_type, beta=0.5, history_weight=0.3)
    penalty = losses.PENALTIES[loss_type]

    def by_hand(policy):
        real, generated, proto = (policy - OPPONENT).unbind(1)
        return penalty(0.5 * (real - generated)) + 0.3 * penalty(0.5 * (generated - proto))

    got = value_and_gradient(lambda policy: objective(policy, OPPONENT))
    torch.testing.assert_close(got, value_and_gradient(by_hand), atol=1e-14, rtol=1e-14)


def test_tspin_ref_starts_at_one_and_the_history_weight_times_l_of_0():
    """At theta_0 = theta_t both advantages are 0."""
    objective = Objective("tspin_ref", beta=2.0, history_weight=0.1)
    expected = torch.full((2,), 1.1 * math.log(2), dtype=torch.float64)
    torch.testing.assert_close(objective(POLICY, POLICY), expected)


@pytest.mark.parametrize(
    ("algorithm", "roles"),
    [
        ("sft", ("real",)),
        ("spin", ("real", "generated")),
        ("tspin", ("real", "generated", "proto")),
        ("tspin_ref", ("real", "generated", "proto")),
    ],
)
def test_columns_are_real_then_generated_then_proto(algorithm, roles):
    # Those that fill the columns go by these names; the loss above goes by the places.
    assert Objective(algorithm).roles == roles


def test_spin_value_by_hand():
    # Margins: (-3 + 3.5) - (-2.5 + 2.25) = 0.75 and (-1 + 1.75) - (-6 + 5) = 1.75;
    # the correlation penalty is 1 - 2 * margin at beta 2.
    objective = Objective("spin", loss_type="correlation", beta=2.0)
    assert objective(POLICY[:, :2], OPPONENT[:, :2]).tolist() == [-0.5, -2.5]


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_tspin_is_tspin_loss_on_the_columns_real_generated_and_proto(loss_type):
    objective = Objective("tspin", loss_type=loss_type, beta=0.5, history_weight=0.25)

    def by_hand(policy):
        return losses.tspin_loss(
            policy_real_logps=policy[:, 0],
            policy_generated_logps=policy[:, 1],
            policy_proto_logps=policy[:, 2],
            beta=0.5,
            history_weight=0.25,
            loss_type=loss_type,
        )

    got = value_and_gradient(lambda policy: objective(policy, OPPONENT))
    torch.testing.assert_close(got, value_and_gradient(by_hand), atol=0, rtol=0)


def test_tspin_value_by_hand():
    # Advantages: real over generated -3 + 2.5 = -0.5 and -1 + 6 = 5; generated over proto
    # -2.5 + 4.25 = 1.75 and -6 + 2 = -4. Correlation at beta 1, weight 0.5:
    # 1.5 + 0.5 * (-0.75) = 1.125 and -4 + 0.5 * 5 = -1.5.
    objective = Objective("tspin", loss_type="correlation", beta=1.0, history_weight=0.5)
    assert objective(POLICY, OPPONENT).tolist() == [1.125, -1.5]


def test_sft_is_the_negative_log_prob_and_needs_no_opponent():
    nothing = torch.full((2, 1), math.nan, dtype=torch.float64)
    assert sft_objective()(POLICY[:, :1], nothing).tolist() == [3.0, 1.0]


@pytest.mark.parametrize("algorithm", ["spin", "tspin"])
def test_the_loss_is_the_one_of_spin_theory(monkeypatch, algorithm):
    objective = Objective(algorithm, history_weight=0.5)
    columns = len(objective.roles)
    before = objective(POLICY[:, :columns], OPPONENT[:, :columns])
    monkeypatch.setitem(losses.PENALTIES, "logistic", lambda margin: margin * 0 + 7.0)
    after = objective(POLICY[:, :columns], OPPONENT[:, :columns])
    # The penalty once for SPIN, 1 + 0.5 times for T-SPIN.
    assert after.tolist() == [7.0 if algorithm == "spin" else 10.5] * 2
    assert not torch.equal(before, after)


def test_an_iteration_has_the_values_of_its_schedules():
    schedules = config(
        algorithm="tspin",
        loss_type="hinge",
        iterations=2,
        beta=[0.5, 2.0],
        history_weight=[0.0, 0.25],
    )
    assert selfplay_objective(schedules, 0) == Objective("tspin", "hinge", 0.5, 0.0)
    assert selfplay_objective(schedules, 1) == Objective("tspin", "hinge", 2.0, 0.25)


@pytest.mark.parametrize(
    ("loss_type", "slope"),
    # |l'(0)|: logistic 1 / (1 + e^0) = 1/2, hinge 1, exponential e^0 = 1, correlation 1.
    [("logistic", 0.5), ("hinge", 1.0), ("exponential", 1.0), ("correlation", 1.0)],
)
def test_the_control_is_sft_times_beta_times_the_slope_at_zero(loss_type, slope):
    of_run = config(loss_type=loss_type, iterations=2, beta=[0.1, 3.0])
    assert control_objective(of_run, 1) == Objective("sft", scale=3.0 * slope)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_at_the_opponent_the_control_has_the_expected_gradient_of_spin(loss_type):
    # One prompt, five responses; every pair (y, y') with its exact probability.
    beta = 0.7
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, generator=generator, dtype=torch.float64)
    data = torch.rand(5, generator=generator, dtype=torch.float64)
    data = data / data.sum()
    opponent = logits.log_softmax(0)

    def gradient(loss):
        theta = logits.clone().requires_grad_()
        return torch.autograd.grad(loss(theta.log_softmax(0)), theta)[0]

    real, generated = torch.cartesian_prod(torch.arange(5), torch.arange(5)).unbind(1)
    pair_probs = data[real] * opponent[generated].exp()
    spin = Objective("spin", loss_type=loss_type, beta=beta)
    control = control_objective(config(loss_type=loss_type, beta=beta), 0)

    def spin_value(policy):
        pairs = torch.stack([policy[real], policy[generated]], 1)
        opponents = torch.stack([opponent[real], opponent[generated]], 1)
        return (pair_probs * spin(pairs, opponents)).sum()

    def control_value(policy):
        return (data * control(policy[:, None], opponent[:, None])).sum()

    torch.testing.assert_close(gradient(control_value), gradient(spin_value), atol=1e-14, rtol=0)

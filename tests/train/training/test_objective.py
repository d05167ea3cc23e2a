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
        ("space", ("real", "generated")),
        ("gsil", ("real", "generated")),
    ],
)
def test_columns_are_real_then_generated_then_proto(algorithm, roles):
    # Those that fill the columns go by these names; the loss above goes by the places.
    assert Objective(algorithm).roles == roles


@pytest.mark.parametrize(
    ("algorithm", "whose"),
    [
        *[(name, "opponent") for name in ("spin", "space", "gsil")],
        ("tspin_ref", "reference"),
        *[(name, None) for name in ("sft", "tspin")],
    ],
)
def test_log_probs_are_subtracted_of_the_opponent_or_of_p_0(algorithm, whose):
    assert Objective(algorithm).reference == whose


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


PAIRED = [
    *({"loss_type": loss_type, "beta": 0.7} for loss_type in LOSS_TYPES),
    {"loss_type": "logistic", "beta": 0.7, "sft_weight": 0.3},
    *({"algorithm": "space", "space_mu": mu} for mu in (0.5, 1.0, 3.0)),
    {"algorithm": "space", "space_mu": 3.0, "sft_weight": 0.3},
    *(
        {"algorithm": "gsil", "loss_type": loss_type, "beta": 0.7, "gsil_shift": shift}
        for loss_type in losses.GSIL_LOSSES
        for shift in (-0.5, 0.0, 0.8)
    ),
]
FIVE = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
DATA = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05], dtype=torch.float64)


def gradient_of(loss):
    theta = FIVE.clone().requires_grad_()
    return torch.autograd.grad(loss(theta.log_softmax(0)), theta)[0]


def expected_gradient(changes, roles, probs, opponent):
    """Of the loss over all pairs or triplets with their exact probabilities, at the opponent."""
    objective = selfplay_objective(config(**changes), 0)
    columns = torch.cartesian_prod(*[torch.arange(5)] * roles)
    weights = torch.stack([each[columns[:, k]] for k, each in enumerate(probs)]).prod(0)

    def value(policy):
        rows = objective(policy[columns], opponent[columns])
        return (weights * rows).sum()

    return gradient_of(value)


@pytest.mark.parametrize(
    "changes", PAIRED, ids=lambda changes: "-".join(map(str, changes.values()))
)
def test_at_the_opponent_the_control_has_the_expected_gradient_of_self_play(changes):
    opponent = FIVE.log_softmax(0)
    expected = expected_gradient(changes, 2, (DATA, opponent.exp()), opponent)
    control = control_objective(config(**changes), 0)
    assert control.algorithm == "sft"
    got = gradient_of(lambda policy: (DATA * control(policy[:, None], policy[:, None])).sum())
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)
    assert got.norm() > 0.01


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


@pytest.mark.parametrize(
    ("loss_type", "factor"),
    # a |phi'(b)| at a = 0.5, b = 0.25
    [
        ("bernoulli", 0.5 * sigmoid(-0.25)),
        ("brier", 0.5 * 2 * sigmoid(0.25) * sigmoid(-0.25) ** 2),
        ("hinge", 0.5),
        ("kliep", 0.5),
        ("lsif", 0.5 * math.exp(0.25)),
    ],
)
def test_the_factors_of_gsil_by_hand(loss_type, factor):
    run = config(algorithm="gsil", loss_type=loss_type, beta=0.5, gsil_shift=0.25, sft_weight=0.1)
    assert control_objective(run, 0).scale == pytest.approx(factor + 0.1, rel=1e-14)


def test_the_factors_of_space_and_of_an_sft_term_by_hand():
    assert control_objective(config(algorithm="space", space_mu=3.0), 0).scale == 0.75
    assert control_objective(config(beta=0.1, sft_weight=[0.0, 0.5, 0.5]), 1).scale == 0.55


def test_the_factor_of_tspin_is_the_mean_slope_of_its_margins():
    """beta |l'(beta u)| of each row, u = log p_t(y) - log p_t(y'); its history has no real part."""
    objective = Objective("tspin", beta=0.5, history_weight=0.3, sft_weight=0.2)
    found = objective.sft_factor(POLICY, POLICY)
    # u = -3 + 2.5 = -0.5 and -1 + 6 = 5
    expected = 0.5 * (sigmoid(0.25) + sigmoid(-2.5)) / 2 + 0.2
    assert found == pytest.approx(expected, rel=1e-14)
    weighted = objective.sft_factor(POLICY, POLICY, torch.tensor([3.0, 0.5]))
    expected = 0.5 * (3 * sigmoid(0.25) + 0.5 * sigmoid(-2.5)) / 3.5 + 0.2
    assert weighted == pytest.approx(expected, rel=1e-14)


def test_tspin_ref_in_its_first_iteration_is_sft_times_the_slope_at_zero():
    opponent = FIVE.log_softmax(0)
    changes = {"algorithm": "tspin_ref", "beta": 0.7, "history_weight": 0.4}
    probs = (DATA, opponent.exp(), opponent.exp())
    expected = expected_gradient(changes, 3, probs, opponent)
    columns = torch.cartesian_prod(*[torch.arange(5)] * 3)
    control = control_objective(config(**changes), 0, (opponent[columns], opponent[columns]))
    assert control.scale == pytest.approx(0.35, rel=1e-14)
    got = gradient_of(lambda policy: (DATA * control(policy[:, None], policy[:, None])).sum())
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)


def test_tspin_with_the_straight_penalty_is_sft_plus_what_its_history_pushes_down():
    """The slope is -1 at every margin: the gradient is beta (SFT's + w that of E_{p_0} log p)."""
    opponent, proto = FIVE.log_softmax(0), DATA.flip(0)
    changes = {"algorithm": "tspin", "loss_type": "correlation", "beta": 0.7, "history_weight": 0.4}
    expected = expected_gradient(changes, 3, (DATA, opponent.exp(), proto), opponent)
    columns = torch.cartesian_prod(*[torch.arange(5)] * 3)
    control = control_objective(config(**changes), 0, (opponent[columns], opponent[columns]))
    assert control.scale == pytest.approx(0.7, rel=1e-14)
    of_sft = gradient_of(lambda policy: (DATA * control(policy[:, None], policy[:, None])).sum())
    of_proto = gradient_of(lambda policy: 0.7 * 0.4 * (proto * policy).sum())
    torch.testing.assert_close(expected, of_sft + of_proto, atol=1e-14, rtol=0)


def test_a_control_of_tspin_without_scores_is_refused():
    with pytest.raises(ValueError, match="needs the scores"):
        control_objective(config(algorithm="tspin"), 0)


def test_space_and_gsil_are_their_losses_on_the_columns_real_and_generated():
    logps = {
        "policy_real_logps": POLICY[:, 0],
        "policy_generated_logps": POLICY[:, 1],
        "opponent_real_logps": OPPONENT[:, 0],
        "opponent_generated_logps": OPPONENT[:, 1],
    }
    space = Objective("space", space_mu=3.0, sft_weight=0.1)(POLICY[:, :2], OPPONENT[:, :2])
    assert torch.equal(space, losses.space_loss(**logps, mu=3.0, sft_weight=0.1))
    for name in losses.GSIL_LOSSES:
        objective = Objective("gsil", loss_type=name, beta=0.5, gsil_shift=0.2, sft_weight=0.1)
        expected = losses.gsil_loss(**logps, beta=0.5, loss_type=name, shift=0.2, sft_weight=0.1)
        assert torch.equal(objective(POLICY[:, :2], OPPONENT[:, :2]), expected)


@pytest.mark.parametrize("algorithm", ["spin", "tspin", "tspin_ref", "space"])
def test_an_sft_term_adds_minus_the_log_prob_itself_and_no_log_ratio(algorithm):
    plain = Objective(algorithm, beta=0.5, history_weight=0.3)
    added = Objective(algorithm, beta=0.5, history_weight=0.3, sft_weight=0.25)
    columns = len(plain.roles)
    rows = POLICY[:, :columns], OPPONENT[:, :columns]
    difference = added(*rows) - plain(*rows)
    torch.testing.assert_close(difference, -0.25 * POLICY[:, 0], atol=1e-15, rtol=0)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"algorithm": "space", "space_mu": 3.0}, math.log(4) + 3 * math.log(4 / 3)),
        ({"algorithm": "gsil", "loss_type": "bernoulli"}, 2 * math.log(2)),
        ({"algorithm": "gsil", "loss_type": "brier"}, 0.5),
        ({"algorithm": "gsil", "loss_type": "hinge"}, 2.0),
        ({"algorithm": "gsil", "loss_type": "kliep"}, 1.0),
        ({"algorithm": "gsil", "loss_type": "lsif"}, -0.5),
    ],
)
def test_the_loss_at_step_0_by_hand(changes, start):
    objective = selfplay_objective(config(**changes), 0)
    expected = torch.full((2,), start, dtype=torch.float64)
    torch.testing.assert_close(objective(POLICY[:, :2], POLICY[:, :2]), expected)
    with_term = selfplay_objective(config(**changes, sft_weight=0.1), 0)
    found = with_term(POLICY[:, :2], POLICY[:, :2])
    torch.testing.assert_close(found, expected - 0.1 * POLICY[:, 0])

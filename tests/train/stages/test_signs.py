"""Warnings about an iteration: what raises each, and what does not."""

import json
import random

import pytest

from spin_train.data.records import Record, Response
from spin_train.run.tables import results_table, wide_table
from spin_train.stages.signs import (
    EARLY_STEPS,
    SEPARABLE,
    early_accuracy,
    separability,
    warning_signs,
)


def means(**values):
    """A summary with means and standard errors."""
    return {
        key: number
        for name, pair in values.items()
        for key, number in zip((name, f"{name}_standard_error"), pair, strict=True)
    }


def test_human_responses_that_become_less_likely_are_named_with_a_remedy():
    (sign,) = warning_signs(means(real_log_ratio=(-1.0, 0.4)))
    assert sign.startswith("human responses lost 1 nats of log-prob against the opponent")
    assert "sft_weight" in sign
    for quiet in ((-0.7, 0.4), (1.0, 0.1), (-1.0, None), (-1.0, float("nan"))):
        assert warning_signs(means(real_log_ratio=quiet)) == []


def test_a_held_out_loss_above_the_opponents_is_over_fitting():
    (sign,) = warning_signs(means(loss_above_opponent=(0.05, 0.02)))
    assert "held-out loss is 0.05 above the opponent's own" in sign
    assert warning_signs(means(loss_above_opponent=(0.03, 0.02))) == []
    assert warning_signs(means(loss_above_opponent=(-0.5, 0.02))) == []


def test_trivial_features_that_tell_the_sides_apart_are_named_with_the_likely_cause():
    (sign,) = warning_signs({"generated_stopped": 0.2}, separable=SEPARABLE)
    assert "AUC 0.90" in sign
    assert "80% of the samples are cut: raise generation.max_new_tokens" in sign
    (sign,) = warning_signs({"generated_stopped": 1.0}, separable=0.97)
    assert "spin-train samples" in sign
    assert warning_signs({}, separable=SEPARABLE - 0.01) == []


def row(number, real, generated, *, ended=True):
    reason = "stop" if ended else "length"
    return Record(
        number, [1], [Response("real", real, "stop"), Response("generated", generated, reason, 0)]
    )


def rows(kind, count=60, seed=0):
    """Rows whose sides differ in one way, or in none."""
    generator = random.Random(seed)

    def ids(least, most, words=50):
        return [generator.randrange(words) for _ in range(generator.randint(least, most))]

    def one(number):
        real = ids(10, 20)
        if kind == "longer":
            return row(number, real, ids(25, 40))
        if kind == "cut":
            return row(number, real, ids(10, 20), ended=False)
        if kind == "repeats":
            return row(number, real, [7] * generator.randint(10, 20))
        if kind == "few words":
            return row(number, real, ids(10, 20, words=2))
        return row(number, real, ids(10, 20))

    return [one(number) for number in range(count)]


@pytest.mark.parametrize("kind", ["longer", "cut", "repeats", "few words"])
def test_each_feature_is_seen(kind):
    assert separability(rows(kind), rows(kind, 20, seed=1)) > 0.97


def test_sides_that_are_drawn_alike_are_not_separable():
    found = separability(rows("alike", 400), rows("alike", 400, seed=1))
    assert 0.4 < found < 0.6


def test_equal_responses_are_a_coin():
    same = [row(n, [1, 2, 3 + n], [1, 2, 3 + n]) for n in range(20)]
    assert separability(same, same) == 0.5


def test_the_area_is_that_of_held_out_rows():
    """A fit on lengths that mean the opposite on the held-out rows orders nearly all wrongly."""
    swapped = [
        Record(r.prompt_id, r.prompt_ids, [
            Response("real", r.responses[1].ids, "stop"),
            Response("generated", r.responses[0].ids, "stop", 0),
        ])
        for r in rows("longer", 40, seed=1)
    ]  # fmt: skip
    assert separability(rows("longer"), swapped) < 0.03


def test_too_few_rows_say_nothing():
    assert separability(rows("longer", 9), rows("longer")) is None
    assert separability(rows("longer"), rows("longer", 9)) is None
    assert separability([], []) is None


def metrics(folder, lines):
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_an_accuracy_near_one_within_the_first_steps_is_named(tmp_path):
    lines = [{"step": 5, "rewards/accuracy": 0.9}, {"step": 15, "rewards/accuracy": 0.995}]
    found = early_accuracy(metrics(tmp_path, lines))
    assert found == (15, 0.995)
    (sign,) = warning_signs({}, early=found)
    assert "99.5% of the training pairs were distinguished by step 15" in sign
    late = {"step": EARLY_STEPS + 1, "rewards/accuracy": 1.0}
    assert early_accuracy(metrics(tmp_path, [lines[0], late])) is None
    assert early_accuracy(metrics(tmp_path, [{"step": 1, "loss": 0.1}])) is None  # SFT
    assert early_accuracy(tmp_path / "absent.jsonl") is None


def test_experts_that_nothing_balances_are_named_with_the_key():
    (sign,) = warning_signs({}, unbalanced=True)
    assert "training.router_loss" in sign


def test_the_tables_name_each_warning_once_with_its_policies():
    numbers = {"real_nll_per_token": 1.0, "warnings": ["too long"]}
    evaluations = {"p_1": numbers, "control 1": numbers, "p_2": {"real_nll_per_token": 1.0}}
    for table in (
        results_table("t", evaluations, metric="margin"),
        wide_table("t", evaluations),
    ):
        assert str(table.caption).splitlines()[-1] == "Warning, p_1, control 1: too long"

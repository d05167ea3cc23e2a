"""What DeepSpeed does not know is told before a run, not left aside."""

import copy

import pytest

from spin_train.config.engine import engine_settings
from spin_train.config.files import parse_config
from spin_train.driver.deepspeed_keys import Noting, refuse_unknown_settings, settings_problem
from spin_train.errors import UserError

SMALLEST = {"model": "m", "data": {"path": "rows.jsonl"}, "output_dir": "out"}


def test_names_that_nobody_asks_for_are_noted_in_copies_too():
    noting = Noting({"a": 1, "b": {"c": 2, "d": 3}, "whole": {"x": 1}, "left": {"y": 1}})
    other = copy.copy(noting)
    assert other["a"] == 1
    assert other.get("b").get("c") == 2
    assert "missing" not in other
    assert dict(**other["whole"]) == {"x": 1}
    assert noting.unread() == ["b.d", "left"]
    assert Noting({"a": 1}).unread() == []


def problem(**further):
    settings = engine_settings(2, further=further)
    settings |= {"train_batch_size": 1, "bf16": {"enabled": False}}
    return settings_problem({k: v for k, v in settings.items() if v != "auto"})


def test_real_settings_are_taken():
    assert problem() is None
    known = {
        "wall_clock_breakdown": True,
        "comms_logger": {"enabled": True, "verbose": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"overlap_comm": True, "zero_hpz_partition_size": 2},
        "prescale_gradients": True,
    }
    assert problem(**known) is None


@pytest.mark.parametrize(
    ("further", "named"),
    [
        ({"prescale_gradient": True}, "has no prescale_gradient"),
        ({"zero_optimisation": {"overlap_comm": True}}, "has no zero_optimisation"),
        ({"data_types": {"grad_accum_type": "fp32"}}, "has no data_types.grad_accum_type"),
        ({"zero_optimization": {"overlap": True}}, "overlap"),
        ({"comms_logger": {"enable": True}}, "enable"),
        ({"wall_clock_breakdown": "perhaps"}, "refuses it"),
    ],
)
def test_what_deepspeed_does_not_know_is_named(further, named):
    assert named in problem(**further)


def test_a_run_without_further_settings_asks_nobody(monkeypatch):
    monkeypatch.setattr("subprocess.run", None)
    refuse_unknown_settings(parse_config(SMALLEST))


@pytest.mark.process
def test_a_misspelt_key_is_refused_in_one_line():
    config = parse_config(SMALLEST | {"deepspeed": {"steps_per_prints": 10}})
    with pytest.raises(UserError, match=r"^deepspeed: DeepSpeed \S+ has no steps_per_prints: "):
        refuse_unknown_settings(config)
    refuse_unknown_settings(parse_config(SMALLEST | {"deepspeed": {"steps_per_print": 10}}))

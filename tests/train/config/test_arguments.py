"""TrainingArguments: each has an effect here, or is refused with a reason."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments

from spin_train.config.arguments import (
    MANAGED_ARGUMENTS,
    PASSED_ON,
    WITHOUT_EFFECT,
    argument_problem,
)
from spin_train.config.changes import first_read, refused_on_resuming
from spin_train.config.files import parse_config
from spin_train.config.keys import FirstRead
from spin_train.config.sections import TrainingConfig
from spin_train.driver.preflight import refuse_early
from spin_train.errors import UserError

SMALLEST = {"model": "m", "data": {"path": "d.jsonl"}, "output_dir": "o"}


def test_every_argument_of_the_installed_transformers_stands_in_one_table():
    known = {field.name for field in fields(TrainingArguments)}
    classified = [*MANAGED_ARGUMENTS, *WITHOUT_EFFECT, *PASSED_ON, *TrainingConfig.model_fields]
    assert known - set(classified) == set()
    twice = {name for name in classified if classified.count(name) > 1}
    assert twice == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_smoothing_factor", 0.3),
        ("torch_compile_backend", "inductor"),
        ("eval_on_start", True),
        ("use_liger_kernel", True),
        ("load_best_model_at_end", True),
        ("push_to_hub", True),
        ("ddp_backend", "gloo"),
        ("logging_nan_inf_filter", True),
        ("neftune_noise_alpha", 5),
        ("adam_betta1", 0.5),
    ],
)
def test_what_would_do_nothing_is_refused_by_its_name(name, value):
    config = parse_config({**SMALLEST, "training": {name: value}})
    with pytest.raises(UserError, match=f"training.{name}"):
        refuse_early(config)


def test_what_has_an_effect_passes():
    assert argument_problem(["adam_beta1", "gradient_checkpointing", "max_grad_norm"]) == ""


def test_an_older_run_with_an_idle_setting_still_resumes_without_it():
    old = parse_config({**SMALLEST, "training": {"label_smoothing_factor": 0.3}})
    new = parse_config(SMALLEST)
    assert refused_on_resuming(old, new, has_trained=True) == []
    assert first_read("training.adam_beta1") is FirstRead.TRAINING

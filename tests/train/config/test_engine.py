"""What goes to DeepSpeed: the run's own settings, and a user's under them."""

import pytest

from spin_train.config.changes import first_read, refused_on_resuming
from spin_train.config.engine import engine_settings
from spin_train.config.files import load_config, parse_config
from spin_train.config.keys import FirstRead
from spin_train.errors import UserError

SMALLEST = {"model": "m", "data": {"path": "rows.jsonl"}, "output_dir": "out"}


def refusal(**content):
    with pytest.raises(UserError) as caught:
        parse_config(SMALLEST | content)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_settings_of_a_run_by_hand(stage):
    zero = {"stage": stage}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    assert engine_settings(stage) == {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }


@pytest.mark.parametrize(("stage", "wide"), [(0, False), (1, False), (2, True), (3, True)])
def test_gradients_of_bfloat16_are_summed_in_float32_where_they_can_be(stage, wide):
    settings = engine_settings(stage, dtype="bfloat16")
    assert settings.get("data_types") == ({"grad_accum_dtype": "fp32"} if wide else None)
    chosen = {"data_types": {"grad_accum_dtype": "bf16"}}
    assert (
        engine_settings(stage, dtype="bfloat16", further=chosen)["data_types"]
        == chosen["data_types"]
    )


def test_offload_in_deepspeeds_words():
    zero = engine_settings(3, offload={"optimizer": "cpu", "parameters": None})["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu"}
    assert "offload_param" not in zero
    zero = engine_settings(3, offload={"optimizer": None, "parameters": "cpu"})["zero_optimization"]
    assert zero["offload_param"] == {"device": "cpu"}
    assert "offload_optimizer" not in zero


def test_further_settings_lie_under_those_of_the_run_and_stay_as_they_were_given():
    further = {
        "zero_optimization": {"overlap_comm": True, "offload_optimizer": {"pin_memory": True}},
        "bf16": {"immediate_grad_update": True},
        "comms_logger": {"enabled": True},
    }
    settings = engine_settings(2, offload={"optimizer": "cpu"}, further=further)
    assert settings["zero_optimization"] == {
        "overlap_comm": True,
        "offload_optimizer": {"pin_memory": True, "device": "cpu"},
        "stage": 2,
    }
    assert settings["bf16"] == {"immediate_grad_update": True, "enabled": "auto"}
    assert settings["comms_logger"] == {"enabled": True}
    assert further["zero_optimization"]["offload_optimizer"] == {"pin_memory": True}


@pytest.mark.parametrize(
    ("further", "says"),
    [
        ({"gradient_clipping": 1.0}, "gradient_clipping is decided by training.max_grad_norm"),
        ({"train_batch_size": 8}, "train_batch_size is decided by training.batch_size"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is decided by training.dtype"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is decided by training.dtype"),
        ({"optimizer": {"type": "Adam"}}, "optimizer.type is decided by training.optim"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is decided by zero_stage"),
        (
            {"zero_optimization": {"offload_param": {"device": "cpu"}}},
            "offload_param.device is decided by offload.parameters",
        ),
        ({"zero_force_ds_cpu_optimizer": True}, "cannot be changed"),
        ({"checkpoint": {"load_universal": True}}, "cannot be changed"),
        ({"zero_optimization": 3}, "zero_optimization must be a mapping, got 3"),
        ({"bf16": True}, "bf16 must be a mapping, got True"),
    ],
)
def test_two_sources_of_one_setting_are_refused_by_the_key_that_decides(further, says):
    assert f"deepspeed.{says}" in refusal(deepspeed=further) or says in refusal(deepspeed=further)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"offload": {"optimizer": "cpu"}, "zero_stage": 0}, "set zero_stage to 1, 2 or 3"),
        ({"offload": {"parameters": "cpu"}}, "set zero_stage: 3"),
        ({"offload": {"optimizer": "disk"}}, "offload.optimizer"),
        ({"offload": {"weights": "cpu"}}, "offload.weights"),
    ],
)
def test_offload_that_cannot_be_is_refused(content, says):
    assert says in refusal(**content)


def test_keys_below_deepspeed_are_taken_on_the_command_line_and_count_as_training(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: m\ndata: {path: d}\noutput_dir: o\n")
    config = load_config(path, ["deepspeed.zero_optimization.overlap_comm=true"])
    assert config.deepspeed == {"zero_optimization": {"overlap_comm": True}}
    plain = load_config(path, [])
    assert first_read("deepspeed.zero_optimization.overlap_comm") is FirstRead.TRAINING
    (line,) = refused_on_resuming(plain, config, has_trained=True)
    assert "deepspeed" in line
    assert refused_on_resuming(plain, config, has_trained=False) == []


def test_offload_may_change_at_any_time():
    before = parse_config(SMALLEST)
    after = parse_config(SMALLEST | {"offload": {"optimizer": "cpu"}})
    assert refused_on_resuming(before, after, has_trained=True) == []

"""A checkpoint of anybody cannot run code."""

import os

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from spin_train.errors import UserError
from spin_train.training.plain_checkpoints import as_data


class Code:
    """What runs when it is read."""

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path):
    code, made = Code(), tmp_path / "made"
    code.folder = str(made)
    torch.save({"optimizer": code}, tmp_path / "states.pt")
    with (
        pytest.raises(UserError, match=r"holds more than tensors and numbers.*delete it"),
        as_data(tmp_path),
    ):
        torch.load(tmp_path / "states.pt", weights_only=False)  # as DeepSpeed does
    assert not made.exists()
    torch.load(tmp_path / "states.pt", weights_only=False)  # the file does what it was made for
    assert made.exists()


def test_what_deepspeed_writes_is_read(tmp_path):
    content = {
        "stage": ZeroStageEnum.weights,
        "scaler": LossScaler(scale=1.0),
        "state": {"step": 3, "exp_avg": torch.arange(4.0)},
    }
    torch.save(content, tmp_path / "states.pt")
    with as_data(tmp_path):
        found = torch.load(tmp_path / "states.pt", weights_only=False)
    assert found["stage"] == content["stage"]
    assert found["scaler"].cur_scale == 1.0
    assert torch.equal(found["state"]["exp_avg"], content["state"]["exp_avg"])


@pytest.mark.parametrize("before", [None, "0"])
def test_the_setting_ends_with_the_block(monkeypatch, before):
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with as_data(None):
        assert os.environ[name] == "1"
    assert os.environ.get(name) == before

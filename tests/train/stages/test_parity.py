"""One log-prob noted when training ends must come back from the policy on disk."""

import pytest
import torch

from spin_train.errors import UserError
from spin_train.model.loading import load_model
from spin_train.model.logps import Group
from spin_train.stages.parity import compare_with_note, note_path, noted_logps, write_note
from tests.train.config.test_config import SMALLEST, parse_config
from tests.train.models import tiny_model

GROUP = Group([1, 2, 3], [[4, 5, 6, 7, 2], [8, 2]])


@pytest.fixture
def saved(tmp_path):
    model = tiny_model("llama", torch.float32)
    model.save_pretrained(tmp_path / "policy")
    write_note(tmp_path / "policy", noted_logps(model, GROUP))
    return tmp_path / "policy"


def compare(folder):
    model = load_model(folder, dtype="float32").eval()
    compare_with_note(model, folder, parse_config(SMALLEST))


def test_the_policy_that_was_saved_is_accepted(saved):
    compare(saved)


def test_another_policy_in_its_place_is_refused(saved):
    tiny_model("llama", torch.float32, seed=1).save_pretrained(saved)
    with pytest.raises(UserError, match="is not the policy that was trained"):
        compare(saved)


def test_a_policy_without_a_note_is_accepted(saved):
    note_path(saved).unlink()
    compare(saved)


def test_a_long_response_is_noted_in_part():
    note = noted_logps(tiny_model("llama", torch.float32), Group([1], [[3] * 62, [2]]))
    assert len(note["response_ids"]) == 62
    model = tiny_model("bloom", torch.float32)
    assert len(noted_logps(model, Group([1], [[3] * 100]))["response_ids"]) == 64

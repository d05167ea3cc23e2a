import pytest

from spin_train.model.loading import load_model
from tests.train.models import tiny_model


@pytest.mark.parametrize(("architecture", "attention"), [("gemma2", "eager"), ("llama", "sdpa")])
def test_a_model_whose_attention_is_capped_is_loaded_with_one_that_has_the_cap(
    architecture, attention, tmp_path
):
    tiny_model(architecture).save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="float32")
    assert model.config._attn_implementation == attention

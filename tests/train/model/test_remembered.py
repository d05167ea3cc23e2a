"""Ways are tried in full on the first model of a kind, and confirmed on the next."""

import logging

import pytest
import torch

from spin_train.errors import UserError
from spin_train.model.logps import Group, expect_rows_up_to, response_logps
from spin_train.model.remembered import exact_way, forget_ways
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.transformers_engine import sample
from tests.train.models import tiny_model

WAYS = {"fast": object(), "slow": object()}
LONG = 400


class Searches:
    """Finds the first way that is not broken, and notes what it was asked."""

    def __init__(self):
        self.asked = []
        self.broken = set()

    def __call__(self, ways, length):
        self.asked.append((list(ways), length))
        for name, way in ways.items():
            if name not in self.broken:
                return way
        raise UserError("nothing is exact")


def llama():
    model = tiny_model("llama", torch.float32)
    model.config.max_position_embeddings = 4 * LONG
    return model


def test_the_next_model_of_a_kind_confirms_on_short_rows():
    search = Searches()
    search.broken = {"fast"}
    assert exact_way("scoring", llama(), WAYS, LONG, search) is WAYS["slow"]
    assert exact_way("scoring", llama(), WAYS, LONG, search) is WAYS["slow"]
    assert search.asked == [(["fast", "slow"], LONG), (["slow"], 90)]


@pytest.mark.parametrize("other", ["purpose", "length", "type", "architecture", "ways"])
def test_what_differs_is_tried_in_full(other):
    search = Searches()
    exact_way("scoring", llama(), WAYS, LONG, search)
    model = llama()
    if other == "type":
        model = model.double()
    if other == "architecture":
        model = tiny_model("gpt2", torch.float32)
    ways = {"slow": WAYS["slow"]} if other == "ways" else WAYS
    purpose, length = "sampling" if other == "purpose" else "scoring", LONG + (other == "length")
    exact_way(purpose, model, ways, length, search)
    assert search.asked[1] == (list(ways), length)


def test_an_adapter_makes_another_kind():
    peft = pytest.importorskip("peft")
    search = Searches()
    exact_way("scoring", llama(), WAYS, LONG, search)
    adapted = llama()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), adapted)
    exact_way("scoring", adapted, WAYS, LONG, search)
    assert search.asked[1] == (list(WAYS), LONG)


def test_a_way_that_is_no_longer_exact_gives_place_to_the_next(caplog):
    search = Searches()
    exact_way("scoring", llama(), WAYS, LONG, search)
    search.broken = {"fast"}
    with caplog.at_level(logging.WARNING):
        assert exact_way("scoring", llama(), WAYS, LONG, search) is WAYS["slow"]
    assert "every way is tried again: nothing is exact" in caplog.text
    assert search.asked[1:] == [(["fast"], 90), (["fast", "slow"], LONG)]


def test_a_saved_policy_is_of_the_kind_of_its_opponent(tmp_path):
    search, model = Searches(), llama()
    exact_way("scoring", model, WAYS, LONG, search)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    exact_way("scoring", again, WAYS, LONG, search)
    assert search.asked[1] == (["fast"], 90)


def test_a_second_policy_computes_far_fewer_tokens():
    def tokens_of(model):
        counts = []
        model.register_forward_pre_hook(
            lambda _, __, inputs: counts.append(inputs["input_ids"].numel()), with_kwargs=True
        )
        expect_rows_up_to(model.eval(), LONG)
        response_logps(model, [Group([1, 2], [[3]])])
        scored = sum(counts)
        sample(model, [[1] * (LONG - 5)], [0], SamplingSettings((2,), 1, 1.0, 1))
        return scored, sum(counts) - scored

    first, second = tokens_of(llama()), tokens_of(llama())
    forget_ways()
    assert tokens_of(llama()) == first
    assert second[0] < first[0] / 3
    assert second[1] < first[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_broken_are_found_on_short_rows(value):
    groups = [Group([1, 2], [[3]])]
    response_logps(llama().eval(), groups)
    broken = llama().eval()
    broken.lm_head.weight.data.fill_(value)
    with pytest.raises(UserError, match="not finite"):
        response_logps(broken, groups)

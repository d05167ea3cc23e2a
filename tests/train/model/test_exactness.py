import logging

import pytest
import torch
from torch import nn

from spin_train.errors import StoppedError, UserError
from spin_train.model.exactness import exact_tolerance, first_exact

MODEL = nn.Linear(1, 1)


def test_the_first_way_without_a_flaw_is_taken_and_those_before_it_are_named(caplog):
    flaws = {"fast": "off by 3", "slow": "", "slower": ""}
    with caplog.at_level(logging.WARNING, "spin_train.model.exactness"):
        assert first_exact(MODEL, {name: name for name in flaws}, flaws.get, "none") == "slow"
    assert caplog.messages == ["Linear: fast not used: off by 3"]


@pytest.mark.parametrize(
    "error", [AttributeError, IndexError, LookupError, NotImplementedError, RuntimeError, TypeError]
)
def test_a_way_that_raises_does_not_fit(error, caplog):
    def flaw(way):
        if way == 1:
            raise error("no such\n   cache")
        return ""

    assert first_exact(MODEL, {"one": 1, "two": 2}, flaw, "none") == 2
    assert caplog.messages == [f"Linear: one not used: {error.__name__}: no such cache"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, StoppedError, UserError, torch.OutOfMemoryError]
)
def test_errors_that_say_nothing_about_a_way_are_not_swallowed(error):
    def flaw(way):
        raise error

    with pytest.raises(error):
        first_exact(MODEL, {"one": 1}, flaw, "none")


def test_without_an_exact_way_the_model_is_refused():
    with pytest.raises(UserError, match=r"^model: Linear: nothing agrees \(the last one: off\)$"):
        first_exact(MODEL, {"one": 1}, lambda way: "off", "nothing agrees")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4), (torch.bfloat16, 0.25)]
)
def test_the_tolerance_is_that_of_the_weights(dtype, tolerance):
    assert exact_tolerance(nn.Linear(1, 1, dtype=dtype)) == tolerance

"""Devices by name."""

import pytest

from spin_train.errors import UserError
from spin_train.plan.devices import DEVICES, GIB, device_named


@pytest.mark.parametrize("name", ["H100-80GB", "h100", "H100 80GB", "h100-80gb"])
def test_a_known_gpu_is_found_however_it_is_written(name):
    assert device_named(name) is DEVICES["H100-80GB"]


def test_two_that_begin_alike_are_not_guessed():
    with pytest.raises(UserError, match="--device A100: give cpu"):
        device_named("A100")


def test_memory_is_a_device_too():
    assert device_named("24GiB").memory == 24 * GIB
    assert device_named("24GB").memory == 24 * 10**9
    assert device_named("24GiB").kind == "cuda"


def test_a_cpu_has_the_machines_memory():
    assert device_named("cpu").memory > GIB / 2

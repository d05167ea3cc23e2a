"""Tokens and peak memory of a stage, for the process itself and for a device that is made up."""

import pytest
import torch

from spin_train.system.speed import Speed

MIB = 2**20


class TwoRanks:
    """Stands for `Ranks`: the other one has done what this one has."""

    def gather(self, value):
        return [value, value]


@pytest.fixture
def device(monkeypatch):
    """A device of 80 GB with what torch would say of it."""
    held = {"peak": 7}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: held.update(peak=0))
    whole = type("Properties", (), {"total_memory": 80 * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: whole)
    return held


def test_the_peak_on_a_cpu_is_the_most_that_was_resident_since_the_stage_began():
    speed = Speed()
    speed.begin()
    before = speed.peak_memory
    block = torch.ones(64 * MIB // 4)
    assert speed.peak_memory >= before + 32 * MIB
    del block
    high = speed.peak_memory
    speed.begin()
    assert speed.peak_memory <= high - 32 * MIB


def test_a_device_gives_its_own_peak_and_what_it_has(device):
    speed = Speed()
    speed.begin()
    device["peak"] = 50
    speed.count(30)
    assert speed.over(2.0, TwoRanks()) == {
        "tokens": 60,
        "tokens_per_second": 30.0,
        "peak_memory": [50, 50],
        "device_memory": [80 * 10**9] * 2,
    }


def test_a_stage_begins_with_nothing_of_the_one_before(device):
    speed = Speed()
    speed.count_process(5, 1000)
    assert (speed.tokens, speed.peak_memory) == (5, 1000)
    speed.begin()
    assert (speed.tokens, speed.peak_memory) == (0, 0)


def test_a_stage_without_tokens_has_no_speed(device):
    assert "tokens_per_second" not in Speed().over(1.0, TwoRanks())

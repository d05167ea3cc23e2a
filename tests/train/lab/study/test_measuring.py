"""Exact numbers of a policy, against sums written out."""

import math

import pytest
import torch

from spin_train.lab.study.measuring import greedy, measure, real_logps
from spin_train.lab.study.world import LANGUAGE, STOP, World, network
from spin_train.model.logps import Group, response_logps

WORLD = World(0, 3, 5)
SINGLE = 1e-5
"""Nats of a response, in float32: tables and packed rows sum in another order."""


def small():
    return network(width=16, layers=1, heads=2, seed=1)


def test_kl_and_valid_mass_are_sums_over_the_valid_responses():
    model = small()
    validation, test = measure(model, WORLD)
    kls, masses = [], []
    for prompt in WORLD.held_out:
        responses, data = LANGUAGE.enumerate(prompt)
        ids = [WORLD.language.encode(response) for response in responses]
        with torch.no_grad():
            logps = response_logps(model, [Group(WORLD.prompt_ids(prompt), ids)]).double()
        kls.append(float((data.exp() * (data - logps)).sum()))
        masses.append(float(logps.exp().sum()))
    assert validation.kl == pytest.approx(sum(kls[:3]) / 3, abs=SINGLE)
    assert test.kl == pytest.approx(sum(kls[3:]) / 5, abs=SINGLE)
    assert test.valid == pytest.approx(sum(masses[3:]) / 5, abs=SINGLE)
    assert test.kl >= -math.log(test.valid)  # what is outside counts


def test_greedy_decoding_takes_the_likeliest_token_each_time():
    model = small()
    prompts = [WORLD.prompt_ids(prompt) for prompt in WORLD.held_out]
    for prompt, answer in zip(prompts, greedy(model, prompts), strict=True):
        row = list(prompt)
        with torch.no_grad():
            while len(row) < len(prompt) + 8 and (row == prompt or row[-1] != STOP):
                row.append(int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
        assert answer == row[len(prompt) :]


def test_greedy_accuracy_counts_the_likeliest_response_alone(monkeypatch):
    best = [responses[int(data.argmax())] for responses, data in WORLD.spaces]
    worst = [responses[int(data.argmin())] for responses, data in WORLD.spaces]
    answers = [*best[:2], *worst[2:7], best[7]]
    monkeypatch.setattr("spin_train.lab.study.measuring.greedy", lambda *_: answers)
    validation, test = measure(small(), WORLD)
    assert (validation.greedy, test.greedy) == (2 / 3, 1 / 5)


def test_the_mean_of_real_responses_is_of_each_alone():
    model, rows = small(), WORLD.rows(prompts=5, responses=1, noise=0.0)
    with torch.no_grad():
        alone = [float(response_logps(model, [Group(r.prompt, [r.response])])) for r in rows]
    assert real_logps(model, rows) == pytest.approx(sum(alone) / 5, abs=SINGLE)

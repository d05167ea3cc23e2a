"""Bytes allocated by Python, numpy and Arrow; `benchmarks.data_memory` measures whole processes."""

import gc
import json
import tracemalloc

import pyarrow as pa
import pytest

from benchmarks import data_memory
from spin_train.config.sections import DataConfig
from spin_train.data.records import Record, Response, read_records, write_records
from spin_train.data.rendering import Renderer
from spin_train.stages.prepare import Limits, prepare_rows
from spin_train.training.batching import MicroBatches
from spin_train.training.examples import examples_of
from spin_train.training.objective import Objective
from tests.train.tokenizers import byte_level


def allocated():
    return tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()


def trace():
    gc.collect()
    tracemalloc.start()


@pytest.fixture
def traced():
    yield
    tracemalloc.stop()


LETTERS = "abcd " * 24  # 120 characters, at most as many tokens


def test_preparing_keeps_digests_of_rows_not_rows(tmp_path, traced):
    """A row of some 150 tokens is 600 bytes at 4 bytes per token, and 5 kB as Python lists."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(2000):
            row = {"prompt": f"{LETTERS} {number}", "response": LETTERS}
            file.write(json.dumps(row) + "\n")
    sizes = {}
    trace()
    prepare_rows(
        DataConfig(path=str(path)),
        Renderer(byte_level(), "{prompt}\n"),
        Limits(context=4096, max_new_tokens=4, vocabulary=300),
        train=tmp_path / "train.parquet",
        held_out=tmp_path / "held_out.parquet",
        seed=0,
        watch=lambda count: sizes.update({count: allocated()}),
    )
    assert list(sizes) == [1000, 2000]
    assert len(read_records(tmp_path / "train.parquet")[0].prompt_ids) > 75
    assert (sizes[2000] - sizes[1000]) / 1000 < 450  # of the prompt, of its words, of the whole


def test_a_training_stage_holds_little_more_than_four_bytes_a_token(tmp_path, traced):
    shards = [tmp_path / f"{index}.parquet" for index in range(30)]
    for shard in shards:
        ids = list(range(1000, 1250))  # none of them an integer that Python keeps anyway
        roles = [Response(role, ids, "stop", opponent_logps=-1.0) for role in ("real", "generated")]
        write_records(shard, [Record(number, ids, roles) for number in range(64)])
    trace()
    before = allocated()
    batches = MicroBatches(
        examples_of(read_records(*shards), Objective("spin")),
        batch_size=64,
        micro_batch_tokens=4096,
        ranks=2,
        epochs=2,
        seed=0,
    )
    tokens = 30 * 64 * 750
    assert (allocated() - before) / tokens < 5
    assert len(batches[0].examples[0].group.responses[1]) == 250


def test_the_benchmark_takes_every_row_through_every_stage(tmp_path):
    data_memory.made_up_rows(tmp_path / "rows.jsonl", 200)
    rows = [stage(tmp_path) for stage in data_memory.STAGES.values()]
    assert rows == [200, 196, 196]  # 2 % of 200 prompts are held out

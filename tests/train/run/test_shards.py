"""Shards: always the same rows, each done by one rank."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spin_train.config.sections import GenerationConfig
from spin_train.data.records import Record, write_records
from spin_train.run.directory import RunDirectory
from spin_train.run.shards import (
    Shard,
    claimed,
    rows_per_shard,
    sampled_together,
    shards_of,
)

HOLDER = """
import sys, time
from pathlib import Path
from spin_train.run.shards import Shard, claimed
for number, shard in claimed([Shard("train", n, Path()) for n in range(3)], Path(sys.argv[1])):
    print(shard.name, flush=True)
    time.sleep(60)
"""


@given(rows=st.integers(1, 10**6), batch=st.integers(1, 10**4), samples=st.integers(1, 64))
def test_shards_are_neither_too_few_nor_too_small(rows, batch, samples):
    generation = GenerationConfig(batch_size=batch, samples_per_prompt=samples)
    size = rows_per_shard(rows, generation)
    assert size >= 8
    assert rows < 64 or -(-rows // size) >= 8  # eight ranks have something to do
    assert size <= max(8, 32 * -(-batch // samples))  # and what a kill loses is bounded


def test_shards_hold_every_row_once_in_order(tmp_path):
    run = RunDirectory(tmp_path)
    write_records(run.train_rows, [Record(n, [1], []) for n in range(100)])
    write_records(run.held_out_rows, [Record(n, [1], []) for n in range(100, 111)])
    shards = shards_of(run, GenerationConfig(batch_size=4))
    assert [record.prompt_id for shard in shards for record in shard.records] == list(range(111))
    assert len({shard.name for shard in shards}) == len(shards)
    assert [shard.name for shard in shards] == sorted(
        [shard.name for shard in shards if shard.split == "train"]
    ) + sorted([shard.name for shard in shards if shard.split == "held_out"])


@given(
    rows=st.lists(st.integers(1, 5000), min_size=1, max_size=2),
    batch=st.integers(1, 300),
    samples=st.integers(1, 8),
    ranks=st.integers(1, 16),
)
def test_shards_that_are_sampled_together_fill_batches_and_ranks(rows, batch, samples, ranks):
    generation = GenerationConfig(batch_size=batch, samples_per_prompt=samples)
    shards = [
        Shard("train", number, Path(), start, min(count, start + size))
        for count in rows
        for size in [rows_per_shard(count, generation)]
        for number, start in enumerate(range(0, count, size))
    ]
    groups = sampled_together(shards, generation, ranks=ranks)
    assert [shard for group in groups for shard in group] == shards  # each once, in order
    sizes = [samples * sum(shard.stop - shard.start for shard in group) for group in groups]
    largest_shard = samples * max(shard.stop - shard.start for shard in shards)
    assert max(sizes) <= max(12 * batch, samples * sum(rows) // 32) + largest_shard
    # As many for each rank as for any other, give or take what shards allow.
    assert max(sizes) - min(sizes) <= 2 * largest_shard
    assert len(groups) >= min(ranks, len(shards) // 2)


@pytest.fixture
def shards(tmp_path):
    run = RunDirectory(tmp_path / "run")
    write_records(run.train_rows, [Record(n, [1], []) for n in range(24)])
    write_records(run.held_out_rows, [])
    found = shards_of(run, GenerationConfig(batch_size=4))
    assert len(found) == 3
    return found


def test_two_that_go_through_at_once_share_the_shards_out(tmp_path, shards):
    one, other = claimed(shards, tmp_path), claimed(shards, tmp_path)
    taken = [next(one)[1].name, next(other)[1].name]
    (tmp_path / taken[0]).touch()
    taken.append(next(one)[1].name)
    assert sorted(taken) == [shard.name for shard in shards]
    (tmp_path / taken[2]).touch()
    (tmp_path / taken[1]).touch()
    assert next(one, None) is None
    assert next(other, None) is None


def test_a_shard_that_is_there_is_not_done_again(tmp_path, shards):
    (tmp_path / shards[1].name).touch()
    assert [number for number, _ in claimed(shards, tmp_path)] == [0, 2]


def test_a_shard_left_by_an_exception_is_free_again(tmp_path, shards):
    def fail():
        for _ in claimed(shards, tmp_path):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert next(claimed(shards, tmp_path))[1] == shards[0]


@pytest.mark.process
def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path, shards):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline().strip() == shards[0].name
        assert next(claimed(shards, tmp_path))[1] == shards[1]
    finally:
        holder.kill()
        holder.communicate()
    deadline = time.monotonic() + 10
    while next(claimed(shards, tmp_path))[1] != shards[0]:
        assert time.monotonic() < deadline

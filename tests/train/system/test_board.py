"""Claims and announcements over a real store, on this machine."""

import json
import threading
import time
from pathlib import Path

import pytest

from spin_train.errors import UserError
from spin_train.run.shards import Shard, claimed, claimed_groups
from spin_train.system.board import JOB_VARIABLE, Board, open_store, ranks_of_job, stop_request_of


@pytest.fixture
def boards():
    """Boards of two ranks on two nodes."""
    first = open_store("127.0.0.1", 0, serve=True, timeout_s=20)
    second = open_store("127.0.0.1", first.port, serve=False, timeout_s=20)
    stores = zip((first, second), ("node0 (rank 0)", "node1 (rank 1)"), strict=True)
    return [Board(store, node=node, timeout_s=0.5) for store, node in stores]


def test_a_claim_is_the_first_ones_alone(boards):
    assert [board.claim("shard") for board in (*boards, *boards)] == [True, False, False, False]


def test_a_name_is_announced_with_its_size_and_seen_by_all(boards, tmp_path):
    path = tmp_path / "rows.parquet"
    assert not any(board.is_announced(path) for board in boards)
    path.write_text("twelve bytes")
    boards[0].announce(path)
    assert all(board.is_announced(path) for board in boards)
    assert boards[1].wait_for_announced([path]) == [path]


def test_a_reader_waits_until_a_file_has_its_size(boards, tmp_path):
    path = tmp_path / "late"
    path.write_text("half")

    def write():
        time.sleep(0.2)
        path.write_text("whole")

    writer = threading.Thread(target=write)
    writer.start()
    assert boards[1].wait_for({path: 5}) == [path]
    writer.join()


@pytest.mark.parametrize(("text", "state"), [(None, "does not see"), ("abc", "sees 3 bytes of")])
def test_a_file_that_does_not_come_is_named_with_the_node(boards, tmp_path, text, state):
    path = tmp_path / "never"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"node1 \(rank 1\) {state} .*never.* node_timeout"):
        boards[1].wait_for({path: 5})


def test_files_are_listed_by_what_was_waited_for_and_not_by_the_folder(boards, tmp_path):
    for name in ("train-1", "train-0", "held_out-0"):
        (tmp_path / name).touch()
    boards[0].wait_for({tmp_path / "train-1": 0, tmp_path / "held_out-0": 0})
    assert boards[0].files_in(tmp_path, "train-*") == [tmp_path / "train-1"]
    boards[0].wait_for({tmp_path / "train-0": 0})
    assert boards[0].files_in(tmp_path, "train-*") == [tmp_path / "train-0", tmp_path / "train-1"]


def test_two_ranks_share_shards_and_leave_out_those_of_an_earlier_start(boards, tmp_path):
    shards = [Shard("train", n, Path()) for n in range(6)]
    (tmp_path / shards[2].name).write_text("of an earlier start")
    one, other = (claimed(shards, tmp_path, board) for board in boards)
    taken = []
    for rank in (one, other, other, one, other):
        number, shard = next(rank)
        (tmp_path / shard.name).write_text("x")
        taken.append(number)
    assert taken == [0, 1, 3, 4, 5]
    assert list(one) == list(other) == []
    found = boards[0].wait_for_announced(tmp_path / shard.name for shard in shards)
    assert [path.name for path in found] == [shard.name for shard in shards]


def test_a_group_of_which_a_shard_is_missing_is_done_again(boards, tmp_path):
    shards = [Shard("train", n, Path()) for n in range(4)]
    for n in (0, 1, 2):
        (tmp_path / shards[n].name).write_text("x")
    groups = claimed_groups([shards[:2], shards[2:]], tmp_path, boards[0])
    assert next(groups)[0] == 1


def test_no_name_is_looked_up_before_it_is_announced(boards, tmp_path, monkeypatch):
    """Some file systems remember for a minute that a name was not there."""
    shards = [Shard("train", n, Path()) for n in range(3)]
    looked_up = []
    for method in ("exists", "stat", "is_file"):
        usual = getattr(Path, method)

        def watched(path, *arguments, _usual=usual, **options):
            looked_up.append(path.name)
            return _usual(path, *arguments, **options)

        monkeypatch.setattr(Path, method, watched)
    for _, shard in claimed(shards, tmp_path, boards[0]):
        assert shard.name not in looked_up
        (tmp_path / shard.name).write_text("x")
    assert {shard.name for shard in shards} <= set(looked_up)  # for their sizes, afterwards


def test_a_worker_finds_its_job_in_one_variable(boards, tmp_path):
    job = {"address": "127.0.0.1", "port": boards[0]._store.port, "timeout_s": 3, "node": "n"}
    job |= {"stop": "/x/stop", "ranks": 4, "local_ranks": 2}
    environment = {JOB_VARIABLE: json.dumps(job)}
    assert Board.of(environment) is not None
    assert stop_request_of(environment, tmp_path) == Path("/x/stop")
    assert ranks_of_job(environment, "ranks") == 4
    assert ranks_of_job(environment, "local_ranks") == 2
    assert Board.of({}) is None
    assert stop_request_of({}, tmp_path) == tmp_path
    assert ranks_of_job({}, "ranks") is None

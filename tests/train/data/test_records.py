import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spin_train.data import records as module
from spin_train.data.records import (
    Record,
    Response,
    count_records,
    read_records,
    share_out,
    write_records,
)

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5)
RESPONSES = st.builds(
    Response,
    role=st.sampled_from(["real", "generated", "proto", "given"]),
    ids=IDS,
    finish_reason=st.sampled_from(["stop", "length"]),
    iteration=st.none() | st.integers(0, 100),
    opponent_logps=st.none() | st.floats(allow_nan=False),
)
RECORDS = st.lists(
    st.builds(
        Record,
        st.integers(0, 2**40),
        IDS,
        st.lists(RESPONSES, max_size=4),
        weight=st.floats(0, 100),
    ),
    max_size=4,
)


@given(records=RECORDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_are_read_as_they_were_written(tmp_path, records):
    path = tmp_path / "records.parquet"
    write_records(path, records)
    assert list(read_records(path)) == records


def test_files_of_earlier_versions_have_weight_1_next_to_those_of_today(tmp_path):
    paths = [tmp_path / "today", tmp_path / "earlier"]
    for path in paths:
        write_records(path, [Record(0, [1], [Response("real", [2], "stop")], weight=0.5)])
    pq.write_table(pq.read_table(paths[1]).drop_columns("weight"), paths[1])
    assert [record.weight for record in read_records(*paths)] == [0.5, 1.0]
    assert [record.weight for record in read_records(*paths[::-1])] == [1.0, 0.5]


def numbered(count):
    return [
        Record(
            number,
            [number] * (number % 5),
            [Response("real", [number, index], "stop") for index in range(number % 3)],
        )
        for number in range(count)
    ]


@given(sizes=st.lists(st.integers(0, 40), max_size=6), group=st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_several_files_are_one_sequence_whatever_their_row_groups(tmp_path, sizes, group):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_GROUP_ROWS", group)
        patch.setattr(module, "_BLOCK_ROWS", 3 * group)
        expected, paths = [], []
        for index, size in enumerate(sizes):
            paths.append(tmp_path / f"{index}.parquet")
            write_records(paths[-1], numbered(size))
            assert count_records(paths[-1]) == size
            expected += numbered(size)
        records = read_records(*paths)
    assert len(records) == len(expected)
    assert list(records) == expected
    assert [records[index] for index in range(-len(expected), 0)] == expected
    assert records[1::2] == expected[1::2]
    with pytest.raises(IndexError):
        records[len(expected)]


@given(start=st.integers(0, 50), size=st.integers(1, 50), group=st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_of_a_file_is_that_part(tmp_path, start, size, group):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_GROUP_ROWS", group)
        write_records(tmp_path / "records.parquet", numbered(40))
    part = read_records(tmp_path / "records.parquet", start=start, stop=start + size)
    assert list(part) == numbered(40)[start : start + size]


@given(records=RECORDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lengths_are_those_of_the_records(tmp_path, records):
    path = tmp_path / "records.parquet"
    write_records(path, records)
    read = read_records(path)
    assert read.prompt_tokens().tolist() == [len(record.prompt_ids) for record in records]
    for role in ("real", "generated", "proto"):
        counts, tokens = read.response_tokens(role)
        assert counts.tolist() == [len(record.of_role(role)) for record in records]
        lengths = [len(response.ids) for record in records for response in record.of_role(role)]
        assert tokens.tolist() == lengths


@given(sides=st.lists(st.sampled_from("abc"), min_size=1, max_size=30), group=st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_shared_out_keep_their_order_and_the_rest_is_left(tmp_path, sides, group):
    source, first, second = (tmp_path / f"{name}.parquet" for name in ("source", "a", "b"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_GROUP_ROWS", group)
        write_records(source, numbered(len(sides)))
    masks = {path: np.array([side == path.stem for side in sides]) for path in (first, second)}
    share_out(source, masks)
    for path in (first, second):
        expected = [r for r, side in zip(numbered(30), sides, strict=False) if side == path.stem]
        assert list(read_records(path)) == expected


def test_of_a_part_only_the_row_groups_that_hold_it_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GROUP_ROWS", 10)
    write_records(tmp_path / "records.parquet", numbered(40))
    groups = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda file, i: groups.append(i) or read(file, i)
    )
    assert len(read_records(tmp_path / "records.parquet", start=15, stop=25)) == 10
    assert groups == [1, 2]


def test_log_probs_keep_every_bit(tmp_path):
    path = tmp_path / "records.parquet"
    value = -1.0 / 3.0
    write_records(path, [Record(0, [1], [Response("real", [2], "stop", opponent_logps=value)])])
    assert read_records(path)[0].responses[0].opponent_logps == value


def test_scoring_fills_in_one_log_prob_a_response_and_nothing_else():
    bare = Record(7, [1], [Response("real", [2], "stop"), Response("generated", [3], "length", 4)])
    assert bare.with_logps([-1.0, -2.0]) == Record(
        7,
        [1],
        [
            Response("real", [2], "stop", None, -1.0),
            Response("generated", [3], "length", 4, -2.0),
        ],
    )


@pytest.mark.parametrize("logps", [[], [-1.0, -2.0]])
def test_another_number_of_log_probs_than_of_responses_is_refused(logps):
    record = Record(0, [1], [Response("real", [2], "stop")])
    with pytest.raises(ValueError, match="zip"):
        record.with_logps(logps)


def test_responses_of_a_role_keep_their_order():
    samples = [Response("generated", [index], "stop", index) for index in (2, 1, 0)]
    record = Record(0, [1], [samples[0], Response("real", [9], "stop"), *samples[1:]])
    assert record.of_role("generated") == samples
    assert record.of_role("proto") == []


def test_a_write_that_fails_half_way_leaves_no_file(tmp_path):
    def records():
        yield Record(0, [1], [])
        raise RuntimeError("exhausted")

    with pytest.raises(RuntimeError, match="exhausted"):
        write_records(tmp_path / "records.parquet", records())
    assert list(tmp_path.iterdir()) == []

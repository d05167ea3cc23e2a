import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spin_train.records import Record, Response, read_records, write_records

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5)
RESPONSES = st.builds(
    Response,
    role=st.sampled_from(["real", "generated", "proto"]),
    ids=IDS,
    finish_reason=st.sampled_from(["stop", "length"]),
    iteration=st.none() | st.integers(0, 100),
    opponent_logps=st.none() | st.floats(allow_nan=False),
)
RECORDS = st.lists(
    st.builds(Record, st.integers(0, 2**40), IDS, st.lists(RESPONSES, max_size=4)), max_size=4
)


@given(records=RECORDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_are_read_as_they_were_written(tmp_path, records):
    path = tmp_path / "records.parquet"
    write_records(path, records)
    assert read_records(path) == records


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
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_records(tmp_path / "records.parquet", records())
    assert list(tmp_path.iterdir()) == []

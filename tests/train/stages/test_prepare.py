import hashlib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spin_train.config.sections import DataConfig
from spin_train.data.records import read_records
from spin_train.data.rendering import Renderer
from spin_train.data.splitting import split_prompts
from spin_train.errors import UserError
from spin_train.run.directory import remove_partial
from spin_train.stages import prepare as data_module
from spin_train.stages.prepare import Limits, prepare_rows
from tests.train.tokenizers import CHATML, byte_level

PAIR = {"prompt": "a b", "response": "ba"}
CONTEXT, VOCABULARY = 64, 300


def turn(role, content):
    return {"role": role, "content": content}


def write(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(path), held_out=1)


def prepared(
    data,
    *,
    renderer=None,
    context=CONTEXT,
    max_new_tokens=4,
    vocabulary=VOCABULARY,
    seed=0,
    **changes,
):
    """Records of both sides, and the summary."""
    folder = Path(data.path).parent / "data"
    files = [folder / f"{name}.parquet" for name in ("train", "held_out")]
    summary = prepare_rows(
        data.model_copy(update=changes),
        renderer or Renderer(byte_level(), "{prompt}\n"),
        Limits(context, max_new_tokens, vocabulary),
        train=files[0],
        held_out=files[1],
        seed=seed,
    )
    assert sorted(folder.iterdir()) == sorted(files)  # nothing half-written is left
    return *(list(read_records(file)) for file in files), summary


ROWS = [{"prompt": "ab" * number, "response": "ba"} for number in range(1, 7)]


def numbers(records):
    return [record.prompt_id for record in records]


# The split


def digests(texts):
    return [hashlib.sha256(str(text).encode()).digest() for text in texts]


def split(texts, held_out=1.0, rows=None, seed=0):
    """Texts of the prompts of either side."""
    names = dict(zip(digests(texts), texts, strict=True))
    sides = split_prompts(digests(texts), held_out=held_out, rows=rows, seed=seed)
    return [{names[digest] for digest in side} for side in sides]


PROMPTS = list(range(20))


@given(
    prompts=st.lists(st.integers(0, 7), min_size=2, max_size=30),
    held_out=st.sampled_from([0.02, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_no_prompt_is_on_both_sides(prompts, held_out, seed):
    prompts = [8, 9, *prompts]
    train, out = split(prompts, held_out, seed=seed)
    assert train
    assert out
    assert not train & out
    assert train | out == set(prompts)


@pytest.mark.parametrize(
    ("held_out", "count"),
    # Of 10 distinct prompts: a fraction is rounded, and at least one; a number is that number.
    [(0.3, 3), (0.02, 1), (0.25, 2), (1, 1), (4, 4)],
)
def test_held_out_counts_distinct_prompts(held_out, count):
    assert len(split([*range(10), *range(5)], held_out)[1]) == count


def test_the_split_follows_from_the_seed_not_from_the_order_of_rows():
    assert split(PROMPTS, 0.5, 7, seed=1) == split(PROMPTS[::-1], 0.5, 7, seed=1)
    assert split(PROMPTS, 0.5, 7, seed=1) != split(PROMPTS, 0.5, 7, seed=2)


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 16), min_size=2, max_size=4))
def test_random_subsets_are_nested_and_leave_the_same_prompts_held_out(seed, sizes):
    """Defect 12: a subset for a size study is drawn at random, and the test set stays."""
    sides = [split(PROMPTS, 4, size, seed=seed) for size in [*sorted(sizes), None]]
    for (smaller, out), (larger, out_too) in itertools.pairwise(sides):
        assert smaller <= larger
        assert out == out_too
    assert [len(train) for train, _ in sides] == [*sorted(sizes), 16]


def test_a_subset_is_not_the_first_rows():
    """Defect 12: over seeds, each prompt but the held-out one is taken equally often."""
    taken = [split(PROMPTS, 1, 5, seed=seed)[0] for seed in range(400)]
    shares = [sum(prompt in train for train in taken) / 400 for prompt in PROMPTS]
    # A share of 5 in 20; four standard errors of 400 draws are 0.087.
    assert all(abs(share - 0.25) < 0.087 for share in shares)


@pytest.mark.parametrize("held_out", [10, 11, 0.99])
def test_holding_everything_out_is_refused(held_out):
    with pytest.raises(UserError, match="10 distinct prompts; leave some for training"):
        split(range(10), held_out)


@pytest.mark.parametrize(("rows", "told"), [(5, False), (6, True)])
def test_where_fewer_prompts_are_left_than_rows_all_are_taken_and_a_note_says_so(
    tmp_path, rows, told
):
    """Six prompts, one of them in two rows, and one held out: five are left."""
    data = write(tmp_path, [*ROWS, ROWS[-1]])
    train, _, summary = prepared(data, rows=rows)
    assert len({tuple(record.prompt_ids) for record in train}) == 5
    asked = [note for note in summary["notes"] if note.startswith("data.rows asks")]
    wanted = ["data.rows asks for 6 training prompts, but there are only 5"]
    assert asked == (wanted if told else [])


# Records and their number


def test_every_row_becomes_one_record_with_its_real_response(tmp_path):
    train, held_out, summary = prepared(write(tmp_path, ROWS))
    assert sorted(numbers(train + held_out)) == list(range(6))
    assert numbers(train) == sorted(numbers(train))
    for record in train + held_out:
        (real,) = record.responses
        assert (real.role, real.finish_reason, real.opponent_logps) == ("real", "stop", None)
    assert (summary["rows"], summary["train"], summary["held_out"]) == (6, 5, 1)


def test_a_given_response_is_rendered_as_the_real_one_is(tmp_path):
    pair = {"prompt": "ab", "chosen": "a b", "rejected": "a b"}
    train, held_out, summary = prepared(write(tmp_path, [pair, *ROWS]))
    (record,) = [record for record in train + held_out if record.prompt_id == 0]
    real, given_ = record.responses
    assert (real.role, given_.role, given_.iteration) == ("real", "given", None)
    assert (given_.ids, given_.finish_reason) == (real.ids, "stop")
    assert summary["given"] == 1
    assert summary["given_tokens"]["max"] == len(given_.ids)


def test_a_repeated_prompt_stays_on_one_side(tmp_path):
    rows = [PAIR, PAIR | {"response": "b"}, {"prompt": "b", "response": "a"}]
    train, held_out, summary = prepared(write(tmp_path, rows))
    assert {len(train), len(held_out)} == {1, 2}
    assert summary["distinct_prompts"] == 2


def test_a_subset_takes_prompts_with_all_their_rows(tmp_path):
    rows = [row | {"response": text} for row in ROWS for text in ("ba", "b", "a")]
    train, held_out, summary = prepared(write(tmp_path, rows), rows=2)
    assert (len(train), len(held_out)) == (6, 3)
    assert (summary["train"], summary["left_out"]) == (6, 9)


# What is dropped, kept, cut


TOO_LONG = [
    # One word of a letter is a token; the long rows are far over their limit.
    ({"prompt": "a " * 30, "response": "b"}, {"max_prompt_tokens": 20}, {}, "max_prompt_tokens"),
    ({"prompt": "a", "response": "b " * 30}, {"max_response_tokens": 20}, {}, "max_response_token"),
    ({"prompt": "a", "response": "b " * 30}, {}, {"context": 20}, "context of 20"),
    ({"prompt": "a " * 12, "response": "b"}, {}, {"context": 20, "max_new_tokens": 8}, "context"),
    (
        {"prompt": "a", "chosen": "b", "rejected": "b " * 30},
        {"max_response_tokens": 20},
        {},
        "max_response_tokens",
    ),
]


@pytest.mark.parametrize(("row", "limits", "of_run", "says"), TOO_LONG)
def test_a_row_beyond_a_limit_is_refused_by_line(tmp_path, row, limits, of_run, says):
    with pytest.raises(UserError, match=rf"line 4: .*{says}.*too_long=drop"):
        prepared(write(tmp_path, [*ROWS[:3], row]), **limits, **of_run)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(("row", "limits", "of_run", "says"), TOO_LONG)
def test_a_row_beyond_a_limit_can_be_dropped_and_is_counted(tmp_path, row, limits, of_run, says):
    data = write(tmp_path, [row, *ROWS[:3]])
    train, held_out, summary = prepared(data, too_long="drop", **limits, **of_run)
    assert sorted(numbers(train + held_out)) == [1, 2, 3]
    assert (summary["rows"], summary["dropped_too_long"]) == (4, 1)


@pytest.mark.parametrize(("row", "limits", "of_run", "says"), TOO_LONG)
def test_a_row_beyond_a_limit_can_be_truncated_and_is_counted(tmp_path, row, limits, of_run, says):
    """Defect 5: a response that was cut gets no end of text, and says so.

    A prompt keeps its end, a response its beginning.
    """
    rows = [row, *ROWS[:3]]
    whole_train, whole_held_out, _ = prepared(write(tmp_path, rows), context=1000)
    (whole,) = [record for record in whole_train + whole_held_out if record.prompt_id == 0]
    train, held_out, summary = prepared(
        write(tmp_path, rows), too_long="truncate", **limits, **of_run
    )
    (record,) = [record for record in train + held_out if record.prompt_id == 0]
    context, new = of_run.get("context", CONTEXT), of_run.get("max_new_tokens", 4)
    room = min(limits.get("max_prompt_tokens", 1024), context - new)
    assert record.prompt_ids == whole.prompt_ids[-room:]
    most = min(limits.get("max_response_tokens", 1024), context - len(record.prompt_ids))
    for cut, full in zip(record.responses, whole.responses, strict=True):
        assert cut.ids == full.ids[:most]
        assert cut.finish_reason == ("stop" if len(full.ids) <= most else "length")
        assert (byte_level().eos_token_id in cut.ids) == (cut.finish_reason == "stop")
    cut_prompts = len(whole.prompt_ids) > room
    assert summary["truncated_prompts"] == cut_prompts
    assert summary["truncated_responses"] == 1 - cut_prompts
    assert summary["dropped_too_long"] == 0


def test_truncation_leaves_room_for_a_sample_or_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"max_new_tokens=20 leaves no room for a prompt .* context of 20"
    ):
        prepared(write(tmp_path, ROWS), too_long="truncate", context=20, max_new_tokens=20)


ALIKE = [PAIR, PAIR | {"response": "b"}, PAIR, *ROWS[1:3], ROWS[2]]


@pytest.mark.parametrize(
    ("deduplicate", "kept"),
    [("none", [0, 1, 2, 3, 4, 5]), ("row", [0, 1, 3, 4]), ("prompt", [0, 3, 4])],
)
def test_repeated_rows_are_counted_and_dropped_if_asked(tmp_path, deduplicate, kept):
    train, held_out, summary = prepared(write(tmp_path, ALIKE), deduplicate=deduplicate)
    assert sorted(numbers(train + held_out)) == kept
    assert summary["repeated_rows"] == 2
    assert summary["dropped_repeated"] == 6 - len(kept)


def test_a_row_that_was_dropped_hides_no_other(tmp_path):
    long = PAIR | {"response": "b " * 30}
    data = write(tmp_path, [long, PAIR, *ROWS[1:3]])
    train, held_out, _ = prepared(
        data, deduplicate="prompt", too_long="drop", max_response_tokens=20
    )
    assert sorted(numbers(train + held_out)) == [1, 2, 3]


def test_turns_of_tools_and_after_the_response_are_counted_and_named(tmp_path):
    rows = [
        {"messages": [turn("user", text), turn("tool", "7"), turn("assistant", "b"), *rest]}
        for text, rest in (("a", []), ("b", [turn("user", "a")]), ("ab", []))
    ]
    _, _, summary = prepared(write(tmp_path, rows))
    assert (summary["ignored_tool_turns"], summary["dropped_turns_after_response"]) == (3, 1)
    assert summary["notes"][:2] == [
        "3 turns of tools were left out: the template cannot render them",
        "1 turns that follow the response were left out",
    ]


def test_malformed_rows_are_counted(tmp_path):
    data = write(tmp_path, [{"messages": [turn("assistant", "a")]}, *ROWS])
    train, held_out, summary = prepared(data, malformed="drop")
    assert (summary["rows"], summary["dropped_malformed"]) == (7, 1)
    assert sorted(numbers(train + held_out)) == [1, 2, 3, 4, 5, 6]


def test_rows_that_the_chat_template_refuses_can_be_dropped_too(tmp_path, caplog):
    strict = CHATML + "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    chats = [
        {"messages": [turn("user", text), turn("assistant", "b")]} for text in ("a", "b", "ab")
    ]
    refused = {"messages": [turn("system", "say"), *chats[0]["messages"]]}
    data = write(tmp_path, [refused, *chats, refused])
    renderer = Renderer(byte_level(chat_template=strict), None)
    with pytest.raises(UserError, match=r"line 1: .* refuses this row: no; .*malformed=drop"):
        prepared(data, renderer=renderer)
    train, held_out, summary = prepared(data, renderer=renderer, malformed="drop")
    assert sorted(numbers(train + held_out)) == [1, 2, 3]
    assert (summary["rows"], summary["dropped_malformed"]) == (5, 2)
    (line,) = caplog.messages
    assert "the first:" in line
    assert "line 1" in line


def test_a_plain_template_refuses_chats_even_if_malformed_rows_are_dropped(tmp_path):
    """No row is at fault: most of the data would be gone."""
    chat = {"messages": [turn("system", "say"), turn("user", "a"), turn("assistant", "b")]}
    with pytest.raises(UserError, match=r"line 1: a plain template .*; .*zephyr"):
        prepared(write(tmp_path, [chat, *ROWS]), malformed="drop")


@pytest.mark.parametrize("rows", [[], [PAIR], [PAIR, PAIR]])
def test_fewer_than_two_prompts_are_refused(tmp_path, rows):
    with pytest.raises(UserError, match="it needs 2 distinct prompts"):
        prepared(write(tmp_path, rows))


def test_a_missing_file_is_refused_without_asking_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("asked the hub"))
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="no data file at"):
        prepared(DataConfig(path=str(tmp_path / "rows.jsonl")))


def test_ids_that_the_model_does_not_know_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"token id \d+, but the model has only 4 ids"):
        prepared(write(tmp_path, ROWS), vocabulary=4)


def test_what_a_killed_pass_leaves_is_removed_when_the_run_goes_on(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(data_module, "share_out", lambda source, masks: left.append(source))
    with pytest.raises(AssertionError):  # neither side's file is there
        prepared(write(tmp_path, ROWS))
    left[0].write_bytes(b"half")
    remove_partial(tmp_path)
    assert not left[0].exists()


# The summary


def test_the_summary_tells_the_source_and_the_lengths_of_what_is_used(tmp_path):
    # Prompts of 1 to 10 letters and a line's end, a response of one letter and its end.
    rows = [{"prompt": "c" * length, "response": "d"} for length in range(1, 11)]
    train, held_out, summary = prepared(write(tmp_path, rows), rows=8)
    lengths = sorted(len(record.prompt_ids) for record in train + held_out)
    assert len(lengths) == 9
    assert summary["prompt_tokens"]["mean"] == pytest.approx(sum(lengths) / 9, abs=0.005)
    assert summary["prompt_tokens"]["median"] == lengths[4]
    assert summary["prompt_tokens"]["max"] == lengths[-1]
    # Of 9 values the 95th percentile is at place 0.95 * 8 = 7.6, between the two longest.
    assert summary["prompt_tokens"]["95 %"] == pytest.approx(0.4 * lengths[7] + 0.6 * lengths[8])
    assert summary["response_tokens"] == {"mean": 2.0, "median": 2.0, "95 %": 2.0, "max": 2.0}
    content = (tmp_path / "rows.jsonl").read_bytes()
    assert summary["source"]["sha256"] == hashlib.sha256(content).hexdigest()
    json.dumps(summary)


def test_rows_of_several_batches_come_out_as_they_went_in(tmp_path):
    """More rows than a row group on disk holds."""
    rows = [{"prompt": f"a {number}", "response": f"b {number}"} for number in range(1300)]
    train, held_out, _ = prepared(write(tmp_path, rows), held_out=0.1)
    tokenizer = byte_level()
    assert len(held_out) == 130
    for record in train + held_out:
        assert tokenizer.decode(record.prompt_ids) == f"a {record.prompt_id}\n"
        assert tokenizer.decode(record.responses[0].ids[:-1]) == f"b {record.prompt_id}"

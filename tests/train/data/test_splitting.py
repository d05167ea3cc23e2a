import json

import pytest

from spin_train.config.sections import DataConfig
from spin_train.data.records import read_records
from spin_train.data.rendering import Renderer
from spin_train.data.splitting import split_prompts
from spin_train.errors import UserError
from spin_train.stages.prepare import Limits, prepare_rows
from tests.train.tokenizers import CHATML, byte_level

TOKENIZER = byte_level(chat_template=CHATML)


def conversation(number, turns=4):
    """A chat, once for each of its answers, as files of a turn per row have it."""
    said = []
    for turn in range(turns):
        said += [
            {"role": "user", "content": f"question {number} {turn}"},
            {"role": "assistant", "content": f"answer {number} {turn}"},
        ]
        yield {"messages": list(said)}


def prepared(folder, rows, *, seed=0, **changes):
    """Texts of both sides, prompts then responses, and the summary."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [folder / "data" / name for name in ("train", "held_out")]
    summary = prepare_rows(
        DataConfig(path=str(path), **changes),
        Renderer(TOKENIZER, None),
        Limits(4096, 4, 300),
        train=files[0],
        held_out=files[1],
        seed=seed,
    )
    sides = [
        [(TOKENIZER.decode(r.prompt_ids), TOKENIZER.decode(r.responses[0].ids)) for r in records]
        for records in map(read_records, files)
    ]
    return *sides, summary


@pytest.mark.parametrize("seed", range(3))
def test_a_conversation_of_a_row_per_turn_is_split_whole(tmp_path, seed):
    """Split by prompts, answers that are held out stood in the prompts of training rows."""
    rows = [row for number in range(6) for row in conversation(number)]
    train, held_out, summary = prepared(tmp_path, rows[::-1], held_out=8, seed=seed)
    assert len(held_out) == 8
    numbers = [{response.split()[1] for _, response in side} for side in (train, held_out)]
    assert not numbers[0] & numbers[1]
    assert len(numbers[1]) == 2
    assert summary["held_out_responses_in_training"] == 0


def test_turns_that_are_missing_between_two_rows_part_no_conversation(tmp_path):
    rows = [row for number in range(4) for row in [*conversation(number)][::2]]
    train, held_out, _ = prepared(tmp_path, rows, held_out=2)
    numbers = [{response.split()[1] for _, response in side} for side in (train, held_out)]
    assert not numbers[0] & numbers[1]


def test_examples_that_stand_before_every_prompt_make_no_conversation(tmp_path):
    shots = [{"role": "user", "content": "shot"}, {"role": "assistant", "content": "done"}]
    rows = [
        {"messages": [*shots, *row["messages"]]} for n in range(6) for row in conversation(n, 1)
    ]
    _, held_out, _ = prepared(tmp_path, rows, held_out=2)
    assert len(held_out) == 2


def test_one_conversation_alone_cannot_be_split(tmp_path):
    with pytest.raises(UserError, match="all 4 prompts belong to one conversation"):
        prepared(tmp_path, conversation(0), held_out=1)


def test_conversations_that_do_not_fit_are_passed_over():
    prompts = [bytes([number]) for number in range(12)]

    def conversation_of(prompt):
        return bytes([min(prompt[0], 9)])  # the last three are one

    for seed in range(8):
        train, out = split_prompts(
            prompts, held_out=2, rows=None, seed=seed, conversation_of=conversation_of
        )
        assert len(out) == 2
        assert train | out == set(prompts)
        assert len({prompt in out for prompt in prompts[9:]}) == 1


def shared_rows():
    """Every answer twice: the earlier turn differs, so the prompts do."""
    return [
        {"messages": [{"role": "system", "content": s}, *row["messages"]]}
        for n in range(8)
        for row in conversation(n, 1)
        for s in ("one", "two")
    ]


def test_held_out_responses_that_stand_in_training_are_counted_and_named(tmp_path):
    train, held_out, summary = prepared(tmp_path, shared_rows(), held_out=4)
    learnt = {response for _, response in train}
    expected = sum(response in learnt for _, response in held_out)
    assert summary["held_out_responses_in_training"] == expected > 0
    (note,) = summary["notes"]
    assert note.startswith(f"{expected} of 4 held-out responses stand word for word in training")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Answer", "answer"), ("an  swer", "an swer"), ("an\nswer", "an swer"), ("é", "e\u0301")],
)
def test_copies_that_differ_in_case_or_spaces_are_counted_and_prompts_split_together(
    tmp_path, one, other
):
    rows = [
        {"prompt": f"question {n} {text}", "response": f"{text} {n}"}
        for n in range(8)
        for text in (one, other)
    ]
    train, held_out, summary = prepared(tmp_path, rows, held_out=4)
    numbers = [{prompt.split()[2] for prompt, _ in side} for side in (train, held_out)]
    assert not numbers[0] & numbers[1]
    apart = [{**row, "prompt": f"{number} of its own"} for number, row in enumerate(rows)]
    _, held_out, summary = prepared(tmp_path, apart, held_out=4)
    assert summary["held_out_responses_in_training"] > 0


def test_training_rows_with_a_held_out_response_can_be_left_out(tmp_path):
    before, held_out, _ = prepared(tmp_path, shared_rows(), held_out=4)
    train, kept, summary = prepared(tmp_path, shared_rows(), held_out=4, shared_responses="drop")
    assert kept == held_out
    assert not {response for _, response in train} & {response for _, response in held_out}
    assert summary["dropped_shared_responses"] == len(before) - len(train) > 0
    assert summary["left_out"] == 0
    same = [{"prompt": f"p{n}", "response": "yes"} for n in range(4)]
    with pytest.raises(UserError, match="leaves nothing to train on"):
        prepared(tmp_path, same, held_out=1, shared_responses="drop")


def test_a_conversation_whose_turns_are_copied_with_other_spaces_is_split_whole(tmp_path):
    def copied(turns):
        return [turn | {"content": f" {turn['content'].upper()}\n"} for turn in turns]

    rows = []
    for first, second in (conversation(number, 2) for number in range(6)):
        *before, answer = second["messages"]
        rows += [first, {"messages": [*copied(before), answer]}]
    for seed in range(3):
        train, held_out, _ = prepared(tmp_path, rows, held_out=2, seed=seed)
        numbers = [{response.split()[1] for _, response in side} for side in (train, held_out)]
        assert not numbers[0] & numbers[1]

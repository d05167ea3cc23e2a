"""Labels and weights of rows: what is not learnt, and how much the rest counts."""

import json

import pytest

from spin_train.errors import UserError
from tests.train.data.accounts import answer, chat, prepared, user

NOT_LEARNT = [
    chat(user(), answer(weight=0)),
    chat(user(), answer(train=False)),
    chat(user(), answer(loss=False)),
    chat(user(), answer(loss_weight=0.0)),
    chat(user(), answer(), weight=0),
    chat(user(), answer(), weight="0"),
    chat(user(), answer(), train=False),
    chat(user(), answer(), trainable="false"),
    {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a", "weight": 0},
        ]
    },
]


@pytest.mark.parametrize("row", NOT_LEARNT, ids=json.dumps)
def test_a_response_that_is_not_to_be_learnt_is_left_out_and_counted(tmp_path, row):
    rows, summary = prepared(tmp_path, [row, chat(user("b"), answer())])
    assert [text[0].count("b") for text in rows] == [1]
    assert (summary["dropped_weight_zero"], summary["unused_fields"]) == (1, {})
    assert any(note.startswith("1 rows were left out: their weight") for note in summary["notes"])


@pytest.mark.parametrize("label", [False, 0, "False", "0", -1, "0.0", " -1.0"])
@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_an_unwanted_response_is_not_learnt_as_human(tmp_path, key, label):
    wanted = {"prompt": "q", "completion": "ANSWER", key: True}
    rows, summary = prepared(tmp_path, [wanted, wanted | {key: label, "completion": "UNWANTED"}])
    assert [text[1] for text in rows] == ["ANSWER<|im_end|>"]
    assert (summary["dropped_unwanted"], summary["unused_fields"]) == (1, {})


@pytest.mark.parametrize("weight", [0.25, 2, "0.25"])
def test_the_weight_of_a_row_or_of_its_answer_is_its_records(tmp_path, weight):
    rows, summary = prepared(
        tmp_path,
        [
            chat(user("a"), answer(), weight=weight),
            chat(user("b"), answer(weight=weight)),
            chat(user("c"), answer(weight=weight), weight=2),
            chat(user("d"), answer("e", weight=0), {**user("f"), "weight": 0}, answer()),
        ],
    )
    found = {text[0].split("\n")[1][0]: text[-1] for text in rows}
    assert found == {"a": float(weight), "b": float(weight), "c": 2 * float(weight), "d": 1.0}
    assert summary["weights"]["max"] == max(2 * float(weight), 1)


def test_both_labels_of_a_prompt_make_pairs(tmp_path):
    rows = [
        {"prompt": prompt, "completion": text, "label": label, "weight": weight}
        for prompt, text, label, weight in [
            ("a", "no", False, 1.0),
            ("b", "alone", True, 1.0),
            ("a", "yes", True, 0.5),
            ("a", "nope", False, 0.5),
        ]
    ]
    pair = {"prompt": "c", "chosen": "yes", "rejected": "no"}
    other = {"prompt": "another", "chosen": "b", "rejected": "c"}
    path = tmp_path / "pairs"
    path.mkdir()
    found, summary = prepared(path, [*rows, pair, other], pairs=True)
    assert sorted(text[1:] for text in found) == [
        ("yes<|im_end|>", "no<|im_end|>", 0.5),
        ("yes<|im_end|>", "no<|im_end|>", 1.0),
        ("yes<|im_end|>", "nope<|im_end|>", 0.25),
    ]
    assert (summary["dropped_unpaired"], summary["dropped_unwanted"]) == (1, 0)


def test_pairs_of_twice_the_same_response_are_counted(tmp_path):
    rows = [
        {"prompt": prompt, "chosen": "yes", "rejected": other}
        for prompt, other in (("a", "no"), ("b", "yes"), ("c", "yes"))
    ]
    _, summary = prepared(tmp_path, rows, pairs=True)
    assert summary["equal_pairs"] == 2
    assert any(note.startswith("2 rows give the same response as") for note in summary["notes"])
    _, summary = prepared(tmp_path, rows)  # the other responses are not trained on
    assert summary["equal_pairs"] == 0


def test_where_no_row_is_left_the_refusal_says_why(tmp_path):
    rows = [chat(user("a"), answer(weight=0)), chat(user("b"), answer(), label=False)]
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, rows)
    message = str(caught.value)
    assert "has 2 usable rows; it needs 2 distinct prompts. 1 rows were left out: the" in message
    assert "; 1 rows were left out: their label says that the response is unwanted" in message

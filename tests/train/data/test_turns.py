import pytest

from spin_train.data.formats import RowError, row_of


def chat(*turns):
    roles = ["user", "assistant"] * len(turns)
    return [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]


def test_the_first_turn_is_the_first_answer_and_the_rest_is_counted():
    row = row_of({"messages": chat("a", "b", "c", "d")}, "row 1", turn="first")
    assert (row.messages, row.response) == (chat("a"), "b")
    assert row.dropped_turns == 2


def test_by_default_the_last_answer_is_the_response():
    row = row_of({"messages": chat("a", "b", "c", "d")}, "row 1")
    assert (row.messages, row.response, row.dropped_turns) == (chat("a", "b", "c"), "d", 0)


def test_a_system_turn_stays_before_the_first():
    system = [{"role": "system", "content": "s"}]
    row = row_of({"messages": [*system, *chat("a", "b", "c", "d")]}, "row 1", turn="first")
    assert (row.messages, row.response) == ([*system, *chat("a")], "b")


def test_given_responses_of_later_turns_are_refused():
    raw = {"real": chat("a", "b", "c", "d"), "generated": chat("a", "b", "c", "e")}
    with pytest.raises(RowError, match="last turn"):
        row_of(raw, "row 1", turn="first")
    row = row_of({"real": chat("a", "b"), "generated": chat("a", "e")}, "row 1", turn="first")
    assert (row.response, row.given) == ("b", "e")

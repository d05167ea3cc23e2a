import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_train.model.packing import Group, PackedRow

CPU = torch.device("cpu")
# Tokens 10.. of the first prompt, 20.. and 30.. of its responses, then a second group.
GROUPS = [Group([10, 11, 12], [[20, 21, 22], [30, 31, 32], [40]]), Group([50], [[60, 61]])]

LENGTHS = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    min_size=1,
    max_size=3,
)


def row_of(lengths):
    return PackedRow(
        [Group([1] * p, [[2] * n for n in responses]) for p, responses in lengths], CPU
    )


def slow_mask(row, window=None):
    """Who sees whom, token by token: (group, response or None for the prompt, position)."""
    tokens = []
    for number, group in enumerate(row.groups):
        prompt = len(group.prompt_ids)
        tokens += [(number, None, position) for position in range(prompt)]
        for response, ids in enumerate(group.responses):
            tokens += [(number, response, prompt + step) for step in range(len(ids) - 1)]
    mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for i, (group, response, position) in enumerate(tokens):
        for j, (of_group, of_response, of_position) in enumerate(tokens):
            mask[i, j] = (
                group == of_group
                and of_response in (None, response)
                and of_position <= position
                and (window is None or position - of_position < window)
            )
    return mask


def fast_mask(row, window=None):
    places = torch.arange(row.input_ids.shape[1])
    return row.sees(window)(0, 0, places[:, None], places)


def test_a_row_by_hand():
    # The last token of a response predicts nothing; one of a single token leaves nothing to stand.
    row = PackedRow(GROUPS, CPU)
    assert row.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 31, 50, 60]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 0, 1]]
    # First tokens are predicted at the end of the prompt, places 2 and 7, others by the one before.
    assert row.predictors.tolist() == [2, 3, 4, 2, 5, 6, 2, 7, 8]
    assert row.targets.tolist() == [20, 21, 22, 30, 31, 32, 40, 60, 61]
    assert row.owners.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3]


def test_the_mask_is_the_picture_of_the_documentation():
    # [x x x y y z z x y]; # sees, . does not.
    row = PackedRow([Group([1, 1, 1], [[2] * 3, [3] * 3]), Group([4], [[5, 5]])], CPU)
    picture = """
        # . . . . . . . .
        # # . . . . . . .
        # # # . . . . . .
        # # # # . . . . .
        # # # # # . . . .
        # # # . . # . . .
        # # # . . # # . .
        . . . . . . . # .
        . . . . . . . # #
    """
    expected = [[mark == "#" for mark in line.split()] for line in picture.strip().splitlines()]
    assert fast_mask(row).tolist() == expected


@given(lengths=LENGTHS, window=st.none() | st.integers(1, 6))
def test_the_mask_is_the_one_written_out_token_by_token(lengths, window):
    row = row_of(lengths)
    assert torch.equal(fast_mask(row, window), slow_mask(row, window))


@given(lengths=LENGTHS)
def test_a_group_takes_as_many_tokens_as_it_says(lengths):
    row = row_of(lengths)
    assert row.input_ids.shape == row.position_ids.shape
    assert row.input_ids.shape[1] == sum(group.tokens for group in row.groups)

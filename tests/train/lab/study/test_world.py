"""Rows of the study: none of a held-out prompt, noise in its share."""

import pytest

from spin_train.lab.study.bases import BASES
from spin_train.lab.study.world import LANGUAGE, World, network

WORLD = World(2, 80, 160)


def texts(rows):
    return [
        (WORLD.language.decode(row.prompt[:-1]), WORLD.language.decode(row.response[:-1]))
        for row in rows
    ]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_no_row_is_of_a_held_out_prompt(base):
    rows = texts(base.rows(WORLD))
    assert len(rows) == base.prompts * base.responses
    assert not {prompt for prompt, _ in rows} & set(WORLD.held_out)
    assert len({prompt for prompt, _ in rows}) == base.prompts
    assert len(set(WORLD.held_out)) == 240


def test_the_share_of_noise_is_invalid_and_the_rest_is_not():
    valid = [
        LANGUAGE.is_valid(*row) for row in texts(WORLD.rows(prompts=1000, responses=2, noise=0.3))
    ]
    # Of random symbols about one in a hundred is a permutation of the prompt.
    assert 1 - sum(valid) / 2000 == pytest.approx(0.3 * 0.99, abs=0.03)
    assert all(
        LANGUAGE.is_valid(*row) for row in texts(WORLD.rows(prompts=50, responses=1, noise=0))
    )


def test_more_prompts_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"prompts must be <= 1056"):
        WORLD.rows(prompts=1057, responses=1, noise=0.0)


def test_seeds_make_other_prompts_rows_and_networks():
    assert World(1, 80, 160).held_out != WORLD.held_out
    one, other = (network(width=16, layers=1, heads=2, seed=seed) for seed in (1, 2))
    assert not one.lm_head.weight.equal(other.lm_head.weight)

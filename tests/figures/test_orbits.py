import pytest

from paper_figures import orbits
from spin_theory import TabularPolicy, fixed_point, tv, without_reference


@pytest.fixture(scope="module")
def games():
    return list(orbits.compute(iterations=8).games.values())


def test_spin_follows_its_closed_form(games):
    start, data = (TabularPolicy.from_probs([row]) for row in (orbits.START, orbits.DATA))
    for game in games[:2]:
        # p_t is in proportion to p_data (p_0 / p_data)^(m^t), m = 1 - 1/beta
        power = (1 - 1 / game.betas[0]) ** 8
        deviation = start.log_probs - data.log_probs
        last = TabularPolicy.from_logits(data.log_probs + power * deviation)
        assert float(tv(game.policies[-1], last)) < 1e-9


def test_who_settles_at_the_data_and_who_does_not(games):
    spin, small_beta, with_sft, tspin, without_history = (float(game.tv[-1]) for game in games)
    assert spin < 1e-2
    assert small_beta > 0.3
    assert with_sft < 1e-2
    assert 0.01 < tspin < 0.2
    assert without_history == pytest.approx(float(games[-1].tv[0]))  # an even number of steps


def test_tspin_approaches_a_fixed_point_of_its_own(games):
    game = games[3]
    rest = fixed_point(
        game.policies[0], game.data, beta=1.0, opponent=without_reference, history_weight=0.1
    )
    assert float(tv(game.policies[-1], rest)) < float(tv(game.policies[0], rest)) / 4
    assert float(tv(rest, game.data)) > 0.01


def test_every_game_is_drawn_and_named(games):
    numbers = orbits.compute(iterations=2)
    axes = orbits.draw(numbers).axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [*numbers.games, "start", "data"]

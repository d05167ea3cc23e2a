import pytest

from spin_theory import GradientSteps, TabularPolicy, minimiser, multiplier, play
from spin_theory.games.inexact import fisher_eigenvalues, inexact_multiplier
from spin_theory.games.sft import sft_multiplier

pytest.importorskip("matplotlib")

from spin_theory.plots import Setting, draw_settings

TWO = tuple(TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.5, 0.8))
THREE = tuple(TabularPolicy.from_probs([p]) for p in ([0.15, 0.15, 0.7], [0.5, 0.3, 0.2]))
LEAST_DIGITS = 1e-9  # a fixed point is solved to rounding, and one division follows


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.7, 2.0])
def test_the_multiplier_of_a_solved_setting_is_that_of_theorem_5_4(beta):
    found = Setting(beta).multiplier(THREE[1])
    assert found == pytest.approx(multiplier(beta=beta), abs=LEAST_DIGITS)


def test_the_multiplier_with_an_sft_term_is_that_of_the_law():
    found = Setting(0.1, sft_weight=0.1).multiplier(THREE[1])
    assert found == pytest.approx(sft_multiplier(beta=0.1, sft_weight=0.1), abs=LEAST_DIGITS)


def test_the_multiplier_of_a_few_steps_is_the_one_of_the_law_that_is_largest():
    found = Setting(0.1, inner_steps=100, learning_rate=0.5).multiplier(THREE[1])
    mu = fisher_eigenvalues(THREE[1])
    law = inexact_multiplier(mu, beta=0.1, steps=100, learning_rate=0.5).flatten()
    assert found == pytest.approx(float(law[law.abs().argmax()]), abs=LEAST_DIGITS)


@pytest.mark.parametrize(
    ("setting", "how"),
    [
        (Setting(0.7), {}),
        (Setting(0.1, sft_weight=0.1), {"sft_weight": 0.1, "solver": minimiser}),
        (
            Setting(0.1, inner_steps=20, learning_rate=0.5, sft_weight=0.1),
            {"sft_weight": 0.1, "solver": GradientSteps(steps=20, learning_rate=0.5)},
        ),
    ],
)
def test_a_setting_plays_the_game_that_it_describes(setting, how):
    game = setting.play(*THREE, iterations=3)
    expected = play(*THREE, beta=setting.beta, iterations=3, **how)
    assert [p.log_probs.tolist() for p in game.policies] == [
        p.log_probs.tolist() for p in expected.policies
    ]


def test_each_setting_has_a_column_with_its_own_game():
    settings = [Setting(2.0), Setting(0.1, sft_weight=0.1)]
    axes = draw_settings(*settings, two=TWO, three=THREE).axes
    assert len(axes) == 4
    for setting, (over_two, over_three) in zip(settings, (axes[::2], axes[1::2]), strict=True):
        stairs = next(line for line in over_two.lines if line.get_label() == "the game")
        game = setting.play(*TWO)
        assert stairs.get_xdata()[1::2].tolist() == [
            float(p.probs[0, 0]) for p in game.policies[:-1]
        ]
        assert f"m = {setting.multiplier(TWO[1]):.3g}" in over_two.get_title()
        assert f"m = {setting.multiplier(THREE[1]):.3g}" == over_three.get_title()


def test_without_a_setting_nothing_is_drawn():
    with pytest.raises(ValueError, match="at least one"):
        draw_settings(two=TWO, three=THREE)

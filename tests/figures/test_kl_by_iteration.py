import pytest

from paper_figures import kl_by_iteration


@pytest.fixture(scope="module")
def numbers():
    return kl_by_iteration.compute(prompts=4, responses=6)


def test_the_converging_games_converge_and_the_others_do_not(numbers):
    for curve in numbers.converging:
        assert curve.kl[-1] < curve.kl[0] / 10
    for curve in numbers.not_converging:
        assert curve.kl[-1] > curve.kl[0] / 2


def test_beta_one_arrives_in_one_step_and_one_half_comes_back(numbers):
    one = next(curve for curve in numbers.converging if curve.beta == 1.0)
    half = next(curve for curve in numbers.not_converging if curve.beta == 0.5)
    assert one.kl[1] < kl_by_iteration.FLOOR
    assert half.kl[2] == pytest.approx(half.kl[0])
    assert half.kl[1] != pytest.approx(half.kl[0])


def test_the_published_schedule_starts_like_its_first_beta(numbers):
    tenth = next(curve for curve in numbers.not_converging if curve.beta == 0.1)
    # averages over prompts of tables of two heights, which may be added in another order
    assert numbers.published[:4] == pytest.approx(tenth.kl[:4], rel=1e-12)
    assert len(numbers.published) == 5


def test_every_number_is_drawn(numbers):
    left, right = kl_by_iteration.draw(numbers).axes
    assert len(left.lines) == len(numbers.converging)
    assert len(right.lines) == len(numbers.not_converging) + 1
    assert tuple(right.lines[-1].get_ydata()) == numbers.published

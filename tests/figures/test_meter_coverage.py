import pytest
import torch

from paper_figures import meter_coverage
from spin_theory import js, power, tv


@pytest.fixture(scope="module")
def numbers():
    return meter_coverage.compute(points={40: (0.0, 0.8)}, repeats=20, curve_points=4)


def test_intervals_hold_the_computed_power_and_the_promised_coverage(numbers):
    for experiment in numbers.experiments:
        expected = power(tv=experiment.tv, samples=experiment.samples)
        assert experiment.proved.low <= expected + 1e-3
        assert experiment.proved.high >= expected - 1e-3
        assert experiment.covered.high >= meter_coverage.CONFIDENCE


def test_intervals_are_clopper_and_pearsons():
    # none of n: the upper end solves (1 - p)^n = 0.025
    share = meter_coverage._share(0, 60)
    assert (share.value, share.low) == (0.0, 0.0)
    assert (1 - share.high) ** 60 == pytest.approx(0.025)


def test_the_tables_are_at_that_distance_and_hardest():
    data, opponent = meter_coverage._hardest(0.3)
    assert float(tv(data, opponent)) == pytest.approx(0.3)
    pairs = data.probs[0][:, None] * opponent.probs[0]
    one, two = (
        type(data).from_probs(table.reshape(1, -1)) for table in (pairs, pairs.T.contiguous())
    )
    assert meter_coverage.hardest_js(0.3) == pytest.approx(float(js(one, two)))


def test_another_seed_draws_other_samples():
    generator = torch.Generator().manual_seed(1)
    one, two = (meter_coverage._experiment(0.5, 40, 20, generator) for _ in range(2))
    assert one.samples == two.samples == 40
    assert one.proved != two.proved


def test_every_number_is_drawn(numbers):
    left, _ = meter_coverage.draw(numbers).axes
    assert tuple(left.lines[0].get_ydata()) == numbers.curves[40]
    assert list(left.lines[1].get_ydata()) == [e.proved.value for e in numbers.experiments]

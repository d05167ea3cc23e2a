"""The fixed point and the cycle of T-SPIN's game are proved to exist, by Krawczyk's test.

Interval arithmetic encloses every number, so a box that Krawczyk's operator maps into its own
interior holds exactly one zero of the equations: no rounding is left to argue about. Nothing of
spin_theory is used but the constants.
"""

import pytest
from mpmath import iv, mp

from spin_theory import TabularPolicy, without_reference
from spin_theory.claims.basins import (
    BETA,
    CYCLE,
    DATA,
    HISTORY_WEIGHT,
    POINT,
    START,
    check_two_basins,
)
from spin_theory.games.iterates import cycle_length
from spin_theory.games.play import play
from spin_theory.minima.minimise import minimiser

REACH = mp.mpf(10) ** -9  # of the boxes, in the scores


@pytest.fixture(autouse=True)
def digits():
    before = mp.dps, iv.dps
    mp.dps = iv.dps = 40
    yield
    mp.dps, iv.dps = before


class Dual:
    """An interval with its derivatives."""

    def __init__(self, value, slopes):
        self.value, self.slopes = value, slopes

    def __add__(self, other):
        other = lift(other, len(self.slopes))
        return Dual(
            self.value + other.value,
            [a + b for a, b in zip(self.slopes, other.slopes, strict=True)],
        )

    def __mul__(self, other):
        other = lift(other, len(self.slopes))
        return Dual(
            self.value * other.value,
            [
                a * other.value + self.value * b
                for a, b in zip(self.slopes, other.slopes, strict=True)
            ],
        )

    __radd__, __rmul__ = __add__, __mul__

    def __sub__(self, other):
        return self + lift(other, len(self.slopes)) * -1

    def inverse(self):
        return Dual(1 / self.value, [-a / self.value**2 for a in self.slopes])

    def exp(self):
        value = iv.exp(self.value)
        return Dual(value, [value * a for a in self.slopes])


def lift(number, size):
    return number if isinstance(number, Dual) else Dual(iv.mpf(number), [iv.mpf(0)] * size)


def gradient(scores, sampler):
    """Gradient of T-SPIN's inner problem in the first scores; the last score is 0."""
    data, initial = ([iv.mpf(str(p)) for p in table] for table in (DATA, START))
    weight = iv.mpf(str(HISTORY_WEIGHT))
    rows = []
    for i in range(len(scores) - 1):
        total = lift(0, len(scores[0].slopes))
        for j in range(len(scores)):
            if i != j:
                win = sampler[j] * data[i] + sampler[i] * (weight * initial[j])
                loss = sampler[i] * data[j] + sampler[j] * (weight * initial[i])
                rate = ((scores[i] - scores[j]).exp() + 1).inverse()  # sigma(-(f_i - f_j))
                total = total + loss * (lift(1, len(rate.slopes)) - rate) - win * rate
        rows.append(total)
    return rows


def softmax(scores):
    powers = [(score * (1 / iv.mpf(str(BETA)))).exp() for score in scores]
    whole = sum(powers[1:], powers[0]).inverse()
    return [power * whole for power in powers]


def equations(box):
    """Each policy is the minimiser against the one before, around the cycle."""
    size = len(box)
    unknowns = [
        Dual(value, [iv.mpf(int(i == k)) for k in range(size)]) for i, value in enumerate(box)
    ]
    states = [[*unknowns[k : k + 2], lift(0, size)] for k in range(0, size, 2)]
    samplers = [softmax(state) for state in states]
    return [
        row
        for state, sampler in zip(states, samplers[-1:] + samplers[:-1], strict=True)
        for row in gradient(state, sampler)
    ]


def krawczyk(middle, reach):
    """Whether a box around the middle holds exactly one zero of the equations."""
    size = len(middle)
    box = [iv.mpf([m - reach, m + reach]) for m in middle]
    at_middle = equations([iv.mpf(m) for m in middle])
    jacobian = mp.matrix(
        [[(mp.mpf(slope.a) + mp.mpf(slope.b)) / 2 for slope in row.slopes] for row in at_middle]
    )
    inverse = [[iv.mpf(entry) for entry in row] for row in (jacobian**-1).tolist()]
    slopes = [row.slopes for row in equations(box)]
    inside = True
    for i in range(size):
        image = iv.mpf(middle[i]) - sum(inverse[i][k] * at_middle[k].value for k in range(size))
        for j in range(size):
            left = int(i == j) - sum(inverse[i][k] * slopes[k][j] for k in range(size))
            image = image + left * (box[j] - iv.mpf(middle[j]))
        inside = inside and bool(image.a > box[i].a and image.b < box[i].b)
    return inside


def scores_of(*tables):
    beta = mp.mpf(str(BETA))
    return [beta * mp.log(mp.mpf(p) / mp.mpf(table[-1])) for table in tables for p in table[:-1]]


def test_the_fixed_point_exists():
    assert krawczyk(scores_of(POINT), REACH)


def test_the_cycle_of_two_exists_and_is_no_fixed_point():
    assert krawczyk(scores_of(*CYCLE), REACH)
    apart = [abs(a - b) for a, b in zip(scores_of(*CYCLE[:1]), scores_of(CYCLE[1]), strict=True)]
    assert max(apart) > 1  # the boxes reach 1e-9


def test_the_proof_rejects_what_is_neither():
    assert not krawczyk(scores_of(START), REACH)
    moved = scores_of(*CYCLE)
    moved[0] += mp.mpf(10) ** -6
    assert not krawczyk(moved, REACH)


def test_the_game_ends_in_the_cycle_although_the_fixed_point_attracts():
    start, data, point, one = (
        TabularPolicy.from_probs([list(table)]) for table in (START, DATA, POINT, CYCLE[0])
    )
    rules = {
        "beta": BETA,
        "history_weight": HISTORY_WEIGHT,
        "opponent": without_reference,
        "solver": minimiser,
    }
    game = play(start, data, iterations=60, **rules)
    assert cycle_length(game.policies) == 2
    assert min(float((p.probs - one.probs).abs().max()) for p in game.policies[-2:]) < 1e-12
    evidence = check_two_basins()
    assert evidence.holds
    assert evidence.numbers["radius"] < 1
    assert float((game.policies[-1].probs - point.probs).abs().sum() / 2) > 0.2
    assert check_two_basins(response=1).holds


def test_a_wrong_solver_is_rejected():
    def lazy(problem, *, start, generator):
        logits = (start.log_probs + minimiser(problem).log_probs) / 2
        return TabularPolicy.from_logits(logits)

    assert not check_two_basins(solver=lazy).holds

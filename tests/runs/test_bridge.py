"""The bridge at a size for tests: what the real trainer has trained is on the closed form."""

import pytest

from spin_theory.divergences import tv
from spin_train.lab import network, world
from spin_train.lab.bridge import solved
from spin_train.lab.gradients import spin_gradient
from spin_train.lab.laboratory import SOLVED, open_laboratory
from spin_train.lab.network import at_the_data, few_steps, first_step
from spin_train.lab.problems import Problem, distance
from spin_train.lab.world import Space
from spin_train.run.run import Run

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "FITTING_STEPS", 150)  # what they come to is p_data and p_0
        return open_laboratory(tmp_path_factory.mktemp("bridge"), space=Space(2, 4))


@pytest.fixture(scope="module")
def trained(small):
    problem = Problem("SPIN, beta 1.5", beta=1.5, training={**SOLVED, "epochs": 200})
    end, curve = solved(small, problem)
    return problem, end, curve, small.player(small.out / "SPIN-beta_1.5" / "iter0" / "policy")


def test_a_trained_network_is_on_the_closed_form_and_on_no_wrong_one(small, trained):
    problem, end, _, learnt = trained
    assert end.holds, end
    assert distance(learnt.policy, problem.solution(small.base.policy, small.data.policy)) == end.tv
    for name, form in problem.wrong_forms().items():
        wrong = form(small.base.policy, small.data.policy)
        assert float(tv(learnt.policy, wrong).max()) > 10 * end.tv, name


def test_its_loss_comes_down_to_the_certified_bound(trained):
    _, end, curve, _ = trained
    assert -1e-9 < end.gap < 1e-5
    first, *_, last = curve.y
    assert first > 1e-2
    assert abs(last) < 1e-5  # of float32


def test_the_run_is_a_run(small, trained):
    run = Run.open(small.out / "SPIN-beta_1.5")
    assert all(run.manifest().is_complete(stage.name) for stage in run.stages)
    assert list(run.evaluations) == ["p_0", "p_1"]


def test_its_gradients_are_what_theory_says(small):
    assert at_the_data(small).holds
    assert all(row.holds for row in first_step(small))


def test_a_first_gradient_of_the_space_alone_is_rejected(small, monkeypatch):
    def of_the_space(model, space, data, *, beta):
        return spin_gradient(model, space, small.base.policy, data, beta=beta)

    monkeypatch.setattr(network, "first_spin_gradient", of_the_space)
    cosine, length = first_step(small)
    outside = float(small.base.table.outside.max())
    assert 1e-3 < outside < 0.03
    assert not cosine.holds
    assert 1 - cosine.measured < outside**2  # it is off by an angle of that size
    assert not length.holds


def test_few_steps_move_each_mode_by_the_multiplier_of_its_fisher_eigenvalue(small):
    (finding,), (measured, predicted) = few_steps(small, everything=False)
    assert finding.holds, finding
    assert len(measured.x) >= 3
    assert max(measured.x) > 5 * min(measured.x)  # modes whose multipliers differ
    assert predicted.y != measured.y

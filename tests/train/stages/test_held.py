"""A policy in play, whole on this rank or shared out over all."""

import pytest
import torch

from spin_train.errors import StoppedError
from spin_train.model.logps import Group, response_logps
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.transformers_engine import sample
from spin_train.stages import held as module
from spin_train.stages.held import Shared, Whole
from spin_train.system.ranks import Ranks
from tests.train.models import tiny_model

GROUPS = [Group([1, 2], [[3, 4], [5]])]


class Others:
    """Stand-in for `Ranks`, where the others have rows for so many more passes of ours."""

    def __init__(self, passes):
        self.passes, self.calls = passes, []

    def anyone(self, has_work):
        self.calls.append(has_work)
        self.passes -= 1
        return has_work or self.passes >= 0


class Engine(torch.nn.Module):
    """Stand-in for DeepSpeed's engine."""

    def __init__(self, model):
        super().__init__()
        self.module = model

    def forward(self, **inputs):
        return self.module(**inputs)


@pytest.fixture
def freed(monkeypatch):
    engines = []
    monkeypatch.setattr(module, "destroy_engine", engines.append)
    return engines


@pytest.fixture
def scored(monkeypatch):
    """Groups of every pass."""
    seen = []

    def noted(model, groups):
        seen.append(list(groups))
        return response_logps(model, groups)

    monkeypatch.setattr(module, "response_logps", noted)
    return seen


def test_both_ways_give_the_same_log_probs_without_a_graph(freed):
    model = tiny_model("llama")
    whole = Whole(lambda: model, print).logps(GROUPS)
    shared = Shared(lambda: Engine(model), print, Others(0)).logps(GROUPS)
    assert torch.equal(whole, shared)
    assert not whole.requires_grad
    assert not shared.requires_grad


def test_a_whole_policy_is_loaded_once_and_when_it_is_asked_for():
    loads = []
    held = Whole(lambda: loads.append(1) or tiny_model("llama"), print)
    assert loads == []
    held.logps(GROUPS)
    held.logps(GROUPS)
    assert loads == [1]


def forwards(model):
    """List that grows with each forward pass of a model."""
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_a_rank_without_rows_makes_as_many_passes_as_the_others(freed, scored):
    model = tiny_model("llama")
    response_logps(model, GROUPS)  # which tries ways, with passes of its own
    passes, ranks = forwards(model), Others(3)
    Shared(lambda: Engine(model), print, ranks).finish()
    assert ranks.calls == [False] * 4
    assert len(passes) == 3
    assert [[len(r) for r in group[0].responses] for group in scored] == [[1]] * 3
    assert len(freed) == 1


def test_a_rank_with_rows_says_so_before_each_pass_and_then_waits_for_the_others(freed, scored):
    model = tiny_model("llama")
    response_logps(model, GROUPS)
    passes, ranks = forwards(model), Others(3)
    shared = Shared(lambda: Engine(model), print, ranks)
    shared.logps(GROUPS)
    shared.logps(GROUPS)
    shared.finish()
    assert ranks.calls == [True, True, False, False]
    assert len(passes) == 3
    assert [groups == GROUPS for groups in scored] == [True, True, False]


def test_passes_that_try_a_way_are_agreed_on_as_well(freed):
    model = tiny_model("llama")
    passes, ranks = forwards(model), Others(0)
    Shared(lambda: Engine(model), print, ranks).logps(GROUPS)
    assert ranks.calls == [True] * len(passes)
    assert len(passes) > 1


SETTINGS = SamplingSettings(stop_ids=(0,), max_new_tokens=5, temperature=1.0, batch_size=2)


def test_sampling_agrees_on_each_pass_and_gives_the_same_samples(freed):
    prompts, seeds = [[1, 2], [3], [4, 5, 6]], [1, 2, 3]
    model = tiny_model("llama")
    whole = sample(model, prompts, seeds, SETTINGS)
    passes, ranks = forwards(model), Others(0)
    shared = Shared(lambda: Engine(model), print, ranks)
    assert sample(shared.model, prompts, seeds, SETTINGS) == whole
    assert ranks.calls == [True] * len(passes)
    shared.finish()
    assert ranks.calls == [True] * len(passes) + [False]
    assert len(freed) == 1


def test_a_pass_that_the_driver_wants_stopped_stops_the_sampling(freed):
    class Stopping(Others):
        def anyone(self, has_work):
            if len(self.calls) == 3:
                raise StoppedError
            return super().anyone(has_work)

    shared = Shared(lambda: Engine(tiny_model("llama")), print, Stopping(0))
    with pytest.raises(StoppedError):
        sample(shared.model, [[1, 2]], [1], SETTINGS)


def test_a_policy_that_no_rank_needs_is_not_loaded(freed):
    Shared(lambda: pytest.fail("loaded"), print, Others(0)).finish()
    assert freed == []


@pytest.mark.parametrize("asked", [False, True])
def test_a_request_to_stop_stops_all_ranks_at_the_same_pass(tmp_path, monkeypatch, asked):
    # What the ranks say to each other: this one has no work, and maybe the request; another works.
    monkeypatch.setattr(Ranks, "sum", lambda _, own: own + torch.tensor([1.0, 0.0]))
    ranks = Ranks.__new__(Ranks)
    ranks._stop_request = tmp_path / "stop"
    if asked:
        ranks._stop_request.touch()
        with pytest.raises(StoppedError):
            ranks.anyone(False)
    else:
        assert ranks.anyone(False)

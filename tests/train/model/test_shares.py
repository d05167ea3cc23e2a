"""A policy that every rank writes a share of, without DeepSpeed: all parameters are whole here."""

import errno
import json
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from spin_train.errors import DivergedError, UserError
from spin_train.model import shares
from spin_train.model.shares import (
    gather_share,
    owners,
    save_shares,
    saves_tensor_by_tensor,
    write_index,
    write_share,
)
from tests.train.models import tiny_model


def shared(model, ranks):
    return [
        gather_share(model, rank=rank, ranks=ranks, gathered=nullcontext) for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_all_ranks_write_is_the_model(family, ranks, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path, state_dict={})
    files, total = {}, 0
    for rank, mine in enumerate(shared(model, ranks)):
        files |= write_share(tmp_path, mine, rank=rank, ranks=ranks)
        total += sum(value.numel() * value.element_size() for value in mine.values())
    write_index(tmp_path, files, total=total)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert len(list(tmp_path.glob("*.safetensors"))) == len(set(files.values()))
    assert json.loads((tmp_path / shares.INDEX).read_text())["metadata"]["total_size"] == total


def test_each_tensor_falls_to_one_rank_and_shares_are_even():
    sizes = [7, 1, 1, 1, 5, 5, 20, 2, 2, 3, 3, 3, 3, 40, 1, 1]
    for ranks in (1, 2, 3, 4):
        found = owners(sizes, ranks)
        assert found == sorted(found)
        assert set(found) <= set(range(ranks))
        held = [sum(s for s, o in zip(sizes, found, strict=True) if o == r) for r in range(ranks)]
        assert max(held) <= sum(sizes) / ranks + max(sizes)
    names = [set(mine) for mine in shared(tiny_model("llama"), 2)]
    assert names[0].isdisjoint(names[1])


def test_a_share_is_a_copy():
    model = tiny_model("llama")
    mine = shared(model, 1)[0]
    before = {name: value.clone() for name, value in mine.items()}
    for parameter in model.parameters():
        parameter.data.zero_()
    assert all(torch.equal(mine[name], before[name]) for name in mine)


def test_tensors_that_files_hold_apart_are_not_saved_one_by_one(monkeypatch):
    model = tiny_model("llama")
    assert saves_tensor_by_tensor(model)
    monkeypatch.setattr(
        shares, "revert_weight_conversion", lambda _, tensors: {**tensors, "another": torch.ones(1)}
    )
    assert not saves_tensor_by_tensor(model)


def test_a_disk_that_holds_something_else_is_told(tmp_path, monkeypatch):
    def other(tensors, file, metadata):
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, file)

    monkeypatch.setattr(shares, "save_file", other)
    with pytest.raises(UserError, match="is not what was trained"):
        write_share(tmp_path, {"a": torch.zeros(2)}, rank=0, ranks=2)


class First:
    """Stand-in for `Ranks` of the first of two ranks; the other one tells what is given."""

    rank, size, is_first = 0, 2, True

    def __init__(self, broken=(), written=({}, 0, None)):
        self._told = [list(broken), written]

    def gather(self, own):
        return [own, self._told.pop(0)]

    def from_first(self, value):
        return value


class Tokenizer:
    """Stand-in that writes nothing."""

    def save_pretrained(self, folder):
        pass


def test_a_policy_is_there_whole_or_not_at_all(tmp_path):
    model, policy = tiny_model("llama"), tmp_path / "policy"
    lines = ({}, 0, "the disk is full: cannot write it")
    with pytest.raises(UserError, match="the disk is full"):
        save_shares(model, Tokenizer(), policy, First(written=lines))
    assert not list(tmp_path.iterdir())
    save_shares(model, Tokenizer(), policy, First())
    assert {path.name for path in policy.iterdir()} >= {
        "config.json",
        "model-00001-of-00002.safetensors",
        shares.INDEX,
    }


def test_a_weight_that_is_not_finite_ends_all_ranks(tmp_path):
    model = tiny_model("llama")
    with pytest.raises(DivergedError, match=r"not finite \(theirs\)"):
        save_shares(model, Tokenizer(), tmp_path / "policy", First(broken=["theirs"]))
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"not finite \(model\.embed_tokens\.weight\)"):
        save_shares(model, Tokenizer(), tmp_path / "policy", First())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_in_its_own_words(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shares, "save_file", full)
    with pytest.raises(UserError, match="free some space, then run the same command again"):
        save_shares(tiny_model("llama"), Tokenizer(), tmp_path / "policy", First())
    assert not list(tmp_path.iterdir())

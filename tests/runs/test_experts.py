"""Runs of mixtures of experts: their router's loss, under ZeRO-3 as without it."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.mixtral import MixtralConfig
from transformers.models.qwen2_moe import Qwen2MoeConfig

from tests.train.runs import make_config, make_model, succeed

pytestmark = pytest.mark.process

COEFFICIENT = 0.05
EXPERTS = {"num_experts_per_tok": 2, "router_aux_loss_coef": COEFFICIENT}


def make_mixture(folder, kind):
    """A tiny mixture with the tokenizer of the other runs."""
    make_model(folder)
    own = json.loads((folder / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "eos_token_id")
    sizes = {name: own[name] for name in names} | {"num_attention_heads": 2, **EXPERTS}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None}
    if kind == "mixtral":
        config = MixtralConfig(**sizes, num_local_experts=4, bos_token_id=None)
    else:
        experts = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
        config = Qwen2MoeConfig(**sizes, num_experts=4, bos_token_id=None, **experts)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def played(folder, kind, **changes):
    """Lines of metrics.jsonl of a short run, and its evaluation."""
    make_mixture(folder / "model", kind)
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "response": p[::-1]}) + "\n" for p in PROMPTS)
    )
    succeed("run", make_config(folder, sft=None, iterations=1, **changes))
    iteration = folder / "run" / "iter0"
    lines = [json.loads(line) for line in (iteration / "metrics.jsonl").read_text().splitlines()]
    return lines, json.loads((iteration / "evaluation.json").read_text())


PROMPTS = [f"{a}{b}{c}" for a in "abcd" for b in "abcd" for c in "ab"]


def test_a_mixture_trains_under_zero_3_as_without_it(tmp_path):
    sides = [played(tmp_path / f"{z}", "mixtral", zero_stage=z, ranks=2) for z in (0, 3)]
    for (plain, _), (sharded, evaluation) in [sides]:
        assert len(plain) == len(sharded) > 1
        for one, other in zip(plain, sharded, strict=True):
            for name in ("loss", "loss/router", "logps/real"):
                assert other[name] == pytest.approx(one[name], rel=1e-4)
            # At least the coefficient times the experts chosen, where all are equally busy.
            assert one["loss/router"] > 0.99 * 2 * COEFFICIENT
        assert not any("experts" in sign for sign in evaluation["warnings"])


def test_a_mixture_without_the_loss_is_told_so(tmp_path):
    lines, evaluation = played(tmp_path, "qwen2_moe", training={"router_loss": 0})
    assert "loss/router" not in lines[0]
    assert any("training.router_loss" in sign for sign in evaluation["warnings"])

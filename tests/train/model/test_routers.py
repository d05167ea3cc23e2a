"""The auxiliary loss of a mixture of experts, against the model's own and a sum written out."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.mixtral import MixtralConfig
from transformers.models.qwen2_moe import Qwen2MoeConfig
from transformers.models.qwen3_moe import Qwen3MoeConfig

from spin_train.model import logps as scoring
from spin_train.model.logps import Group, response_loss
from spin_train.model.routers import has_experts, router_loss
from spin_train.training.objective import Objective
from tests.train.models import VOCABULARY, tiny_model
from tests.train.training.test_trainer import LEARNING_RATE, make_trainer

SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"max_position_embeddings": 64, "initializer_range": 0.5, "num_experts_per_tok": 2},
}
KINDS = {
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4, router_aux_loss_coef=0.02),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **SIZES,
        num_experts=4,
        moe_intermediate_size=12,
        shared_expert_intermediate_size=12,
        router_aux_loss_coef=0.02,
    ),
    # The first layer has no experts.
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SIZES,
        num_experts=4,
        moe_intermediate_size=12,
        mlp_only_layers=[0],
        head_dim=4,
        router_aux_loss_coef=0.02,
    ),
}
GROUPS = [Group([3, 4, 5], [[6, 7], [8, 9, 10]]), Group([11], [[12, 2]])]
WAYS = list(scoring._WAYS.values())


def mixture(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            KINDS[kind](), dtype=torch.float64, experts_implementation="eager"
        ).eval()


def written_out(module, rows):
    """Experts times the sum over them of the share of choices and the mean probability."""
    config = module.config
    logits = [[] for _ in range(config.num_hidden_layers)]
    for row in rows:
        out = module.base_model(torch.tensor([row]), output_router_logits=True)
        kept = [each for each in out.router_logits if each is not None]
        for layer, each in zip(logits, kept, strict=False):
            layer.append(each.flatten(0, -2))
    probs = torch.cat([torch.cat(layer) for layer in logits if layer]).softmax(-1)
    choices = probs.topk(2, dim=-1).indices
    experts = probs.shape[-1]
    shares = torch.stack([(choices == e).sum() for e in range(experts)]) / len(probs)
    return experts * (shares * probs.mean(0)).sum()


@pytest.mark.parametrize("way", [way for way in WAYS if not way.packed], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_tokens_that_go_through_the_model(kind, way, monkeypatch):
    module = mixture(kind)
    monkeypatch.setattr(scoring, "_way", lambda *_: way)
    routers = router_loss(module)
    loss, _ = response_loss(module, GROUPS, lambda logps, _: logps.sum(), routers=routers)
    balance = routers.taken()
    # Padded, a prompt goes through once per response. Last tokens predict nothing.
    rows = [g.prompt_ids + r[:-1] for g in GROUPS for r in g.responses]
    expected = 0.02 * written_out(module, rows)
    assert balance.item() == pytest.approx(expected.item(), rel=1e-6)
    gradient = torch.autograd.grad(loss * 0 + balance, list(module.parameters()), allow_unused=True)
    other = torch.autograd.grad(expected, list(module.parameters()), allow_unused=True)
    for ours, theirs in zip(gradient, other, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_padded_rows_of_one_response_agree(kind, monkeypatch):
    module = mixture(kind)
    groups = [Group([3, 4, 5], [[6, 7]]), Group([11], [[12, 2, 9]])]
    found = []
    for way in WAYS:
        monkeypatch.setattr(scoring, "_way", lambda *_, way=way: way)
        routers = router_loss(module, 0.5)
        total, _ = response_loss(module, groups, lambda logps, _: logps.sum(), routers=routers)
        total = total + routers.taken()
        gradient = torch.autograd.grad(total, [p for p in module.parameters() if p.requires_grad])
        found.append((total.item(), torch.cat([g.flatten() for g in gradient])))
    for total, gradient in found[1:]:
        assert total == pytest.approx(found[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-5, atol=1e-8)


def test_activations_that_are_computed_again_change_nothing():
    module = mixture("mixtral")
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
            module.train()
        routers = router_loss(module, 1.0)
        total, _ = response_loss(module, GROUPS, lambda logps, _: logps.sum(), routers=routers)
        gradient = torch.autograd.grad(total + routers.taken(), list(module.parameters()))
        gradients.append(torch.cat([g.flatten() for g in gradient]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_training_adds_the_loss_of_each_micro_batch_once_per_example(tmp_path, micro_batch_size):
    module, objective = mixture("mixtral"), Objective("spin", beta=0.5)
    start = copy.deepcopy(module)
    trainer = make_trainer(
        tmp_path, module, objective,
        micro_batch_size=micro_batch_size, routers=router_loss(module, 0.5),
    )  # fmt: skip
    parts = [trainer.train_dataset[i] for i in range(4 // micro_batch_size)]  # the first step
    trainer.args.max_steps = 1
    trainer.train()
    total, balances = 0.0, []
    for part in parts:
        routers = router_loss(start, 0.5)
        groups = [example.group for example in part.examples]
        opponent = torch.tensor([e.opponent_logps for e in part.examples], dtype=torch.float64)

        def loss(logps, _, opponent=opponent):
            return objective(logps.view(-1, 2), opponent).sum()

        told, _ = response_loss(start, groups, loss, routers=routers)
        balances += [routers.taken()] * len(groups)
        total = total + told
    total = (total + sum(balances)) / 4
    total.backward()
    (line,) = (line for line in trainer.state.log_history if "loss/router" in line)
    assert line["loss/router"] == pytest.approx(sum(balances).item() / 4, rel=1e-9)
    assert line["loss"] == pytest.approx(total.item(), rel=1e-9)
    for ours, before in zip(module.parameters(), start.parameters(), strict=True):
        expected = before - LEARNING_RATE * before.grad
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-9, atol=1e-12)


def test_the_weight_is_the_models_own_unless_it_is_given():
    module = mixture("mixtral")
    assert router_loss(module).weight == 0.02
    assert router_loss(module, 0.3).weight == 0.3
    assert router_loss(module, 0.0) is None
    module.config.router_aux_loss_coef = 0.0
    assert router_loss(module) is None
    assert has_experts(module.config)


def test_a_dense_model_has_no_such_loss():
    module = tiny_model("llama")
    assert router_loss(module, 1.0) is None
    assert not has_experts(module.config)

"""One SPIN training step, made in several ways: ours, plainly, and by TRL's `DPOTrainer`.

A step is the loss of a batch of pairs and its gradient in every parameter; no optimiser.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from spin_train.languages import build_tokenizer
from spin_train.model.logps import response_loss
from spin_train.model.packing import Group
from spin_train.training.batching import MicroBatch, MicroBatches
from spin_train.training.examples import Example
from spin_train.training.objective import Objective

BETA = 0.1
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Size:
    """A model to step."""

    width: int = 256
    intermediate: int = 688
    layers: int = 6
    heads: int = 4
    vocabulary: int = 32_000
    context: int = 4096

    def build(self, dtype: torch.dtype, device: str = "cpu") -> Any:
        """Make a Llama with random weights.

        Parameters
        ----------
        dtype : torch.dtype
            Of its weights.
        device : str
            Where it goes.

        Returns
        -------
        LlamaForCausalLM
            In training mode, without dropout; the same weights at each call.
        """
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
        )
        torch.manual_seed(0)
        with torch.device(device):
            model: Any = LlamaForCausalLM(config)
            return model.to(dtype).train()

    def useful_flops(self, groups: Sequence[Group]) -> float:
        """Count what a step cannot do without: forward and backward, nothing computed again.

        Parameters
        ----------
        groups : sequence of Group
            The batch.

        Returns
        -------
        float
            Floating-point operations of matrix products.
        """
        layer = 4 * self.width**2 + 3 * self.width * self.intermediate
        tokens = sum(group.tokens for group in groups)
        scored = sum(len(response) for group in groups for response in group.responses)
        pairs = 0.0  # of a query and a key that it sees
        for group in groups:
            prompt = len(group.prompt_ids)
            pairs += prompt * (prompt + 1) / 2
            for length in (len(response) - 1 for response in group.responses):
                pairs += length * prompt + length * (length + 1) / 2
        per_layer = tokens * layer + pairs * 2 * self.width
        return 6 * (self.layers * per_layer + scored * self.width * self.vocabulary)


def draw_groups(lengths: Sequence[tuple[int, Sequence[int]]], vocabulary: int) -> list[Group]:
    """Random tokens of given lengths.

    Parameters
    ----------
    lengths : sequence of (int, sequence of int)
        Of each prompt and its responses.
    vocabulary : int
        Tokens.

    Returns
    -------
    list of Group
        The same at each call.
    """
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    return [Group(ids(p), [ids(r) for r in responses]) for p, responses in lengths]


def mixed_lengths(prompts: int, *, seed: int, longest: int = 1024) -> list[tuple[int, list[int]]]:
    """Lengths like Ultrachat's: log-normal, prompt median 150, response median 250 tokens.

    Parameters
    ----------
    prompts : int
        How many.
    seed : int
        Of the draw.
    longest : int
        Longest prompt and response.

    Returns
    -------
    list of (int, list of int)
        Of each prompt and its two responses.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(median: float, spread: float) -> int:
        length = median * (spread * torch.randn((), generator=generator)).exp().item()
        return int(min(longest, max(8, length)))

    return [(draw(150, 0.8), [draw(250, 0.6), draw(250, 0.6)]) for _ in range(prompts)]


def our_step(
    model: Any, groups: Sequence[Group], *, tokens: int, objective: Objective | None = None
) -> Step:
    """Make the step of `SpinTrainer`: its micro-batches, its log-probs, its loss.

    Parameters
    ----------
    model : PreTrainedModel
        The policy.
    groups : sequence of Group
        The batch.
    tokens : int
        Budget of a micro-batch.
    objective : Objective, optional
        SPIN's logistic loss if not given.

    Returns
    -------
    callable
        Does it, and returns the loss.
    """
    objective = objective or Objective("spin", beta=BETA)
    roles = len(objective.roles)
    batches = MicroBatches(
        [Example(group, [0.0] * roles) for group in groups],
        batch_size=len(groups),
        micro_batch_tokens=tokens,
        ranks=1,
        epochs=1.0,
        seed=0,
    )

    def step() -> Tensor:
        total = torch.zeros(())
        for batch in (batches[number] for number in range(len(batches))):
            opponent = torch.tensor([example.opponent_logps for example in batch.examples])
            opponent = opponent.to(model.device, non_blocking=True)

            def weighted(
                logps: Tensor, run: slice, batch: MicroBatch = batch, opponent: Tensor = opponent
            ) -> Tensor:
                return batch.weight * objective(logps.view(-1, roles), opponent[run]).sum()

            loss, _ = response_loss(model, [example.group for example in batch.examples], weighted)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach().cpu()
        return total

    return step


def plain_step(model: Any, groups: Sequence[Group], *, opponent: Any = None) -> Step:
    """Make the step as the official code does: padded pairs, full logits, perhaps the opponent's.

    Parameters
    ----------
    model : PreTrainedModel
        The policy.
    groups : sequence of Group
        The batch, pairs.
    opponent : PreTrainedModel, optional
        Forwarded in every step; without it its log-probs are 0.

    Returns
    -------
    callable
        Does it, and returns the loss.
    """
    rows = [(group.prompt_ids, response) for group in groups for response in group.responses]
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, wanted = torch.zeros_like(ids), torch.zeros_like(ids)
    for number, (prompt, response) in enumerate(rows):
        stop = len(prompt) + len(response)
        ids[number, :stop] = torch.tensor(prompt + response)
        mask[number, :stop] = 1
        wanted[number, len(prompt) : stop] = 1
    ids, mask, wanted = (x.to(model.device) for x in (ids, mask, wanted))

    def logps(model: Any) -> Tensor:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        token_logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        summed: Tensor = (token_logps * wanted[:, 1:]).sum(-1).view(-1, 2)
        return summed

    def step() -> Tensor:
        policy = logps(model)
        reference = torch.zeros_like(policy)
        if opponent is not None:
            with torch.no_grad():
                reference = logps(opponent)
        loss = Objective("spin", beta=BETA)(policy, reference).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().cpu()

    return step


def trl_step(model: Any, groups: Sequence[Group]) -> Step:
    """Make the step of TRL's `DPOTrainer` with cached reference log-probs.

    Parameters
    ----------
    model : PreTrainedModel
        The policy; the trainer changes its forward, so it is of no other use afterwards.
    groups : sequence of Group
        The batch, pairs.

    Returns
    -------
    callable
        Does it, and returns the loss.

    Raises
    ------
    ImportError
        If TRL is not installed.
    """
    import datasets
    from trl import DPOConfig, DPOTrainer

    datasets.disable_progress_bars()
    tokenizer = build_tokenizer("ab")
    tokenizer.pad_token = tokenizer.eos_token
    rows = [{"prompt": "a", "chosen": "b", "rejected": "a"}]  # replaced by the batch's tokens
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=str(Path(folder)),
            beta=BETA,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            max_length=None,
            report_to="none",
            use_cpu=model.device.type == "cpu",
            bf16=model.dtype == torch.bfloat16,
        )
        trainer = DPOTrainer(
            model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    batch = trainer.data_collator(
        [
            {
                "prompt_ids": group.prompt_ids,
                "chosen_ids": group.responses[0],
                "rejected_ids": group.responses[1],
                "ref_chosen_logps": 0.0,
                "ref_rejected_logps": 0.0,
            }
            for group in groups
        ]
    )
    batch = {name: value.to(model.device) for name, value in batch.items()}

    def step() -> Tensor:
        loss: Tensor = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().cpu()

    return step

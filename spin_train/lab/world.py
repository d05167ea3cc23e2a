"""A small world in which everything is known: prompts, responses, and p_data and p_0 as networks.

p_data is itself the table of a small Llama, so that it is in the policy's class as the theorems
assume. Both networks have more than enough parameters for any table of the space.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spin_theory.policies import TabularPolicy
from spin_train.lab.tabulate import PolicyTable, tabulate
from spin_train.languages import SPECIAL_TOKENS, build_tokenizer
from spin_train.model.loading import load_model
from spin_train.seeds import seed_of
from spin_train.system.files import write_directory

__all__ = ["Space", "fit_network", "table_of"]

LETTERS = "abc"  # of responses
NAMES = "stuvwxyz"  # of prompts
FITTING_STEPS = 300
FITTING_RATE = 5e-3


@dataclass(frozen=True)
class Space:
    """Prompts of one symbol, and responses of one or two letters; both end with a token."""

    prompts: int = 4
    responses: int = 8

    @property
    def tokens(self) -> list[str]:
        """Every token by its id."""
        return [*SPECIAL_TOKENS, *LETTERS, *NAMES]

    @property
    def prompt_texts(self) -> list[str]:
        """The prompts, X."""
        return list(NAMES[: self.prompts])

    @property
    def response_texts(self) -> list[str]:
        """The responses to each prompt, Y."""
        words = ["".join(word) for n in (1, 2) for word in product(LETTERS, repeat=n)]
        return words[: self.responses]

    @property
    def prompt_ids(self) -> list[list[int]]:
        """Token ids of each prompt, with the token that ends it."""
        return [[self.tokens.index(text), 2] for text in self.prompt_texts]

    @property
    def response_ids(self) -> list[list[int]]:
        """Token ids of each response, with the end of text."""
        return [[*map(self.tokens.index, text), 0] for text in self.response_texts]

    def table(self, model: Any) -> PolicyTable:
        """Tabulate a model over this space."""
        return tabulate(model, self.prompt_ids, [self.response_ids] * self.prompts)


def table_of(policy: str | Path, space: Space) -> PolicyTable:
    """Table of saved weights, computed in float64."""
    with torch.no_grad():
        return space.table(load_model(policy, dtype="float32").double().eval())


def fit_network(
    folder: Path, space: Space, target: TabularPolicy, *, seed: int, start: Path | None = None
) -> None:
    """Write a small Llama that has about this table, unless the folder is there already.

    It is fitted by gradient steps on the cross-entropy of the whole table, which leaves little
    probability outside of the space. `start` is a network to begin with instead of random
    weights.
    """
    if folder.is_dir():
        return
    model = _network(space, seed) if start is None else load_model(start, dtype="float32")
    optimiser = torch.optim.Adam(model.parameters(), lr=FITTING_RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, FITTING_STEPS)
    for _ in range(FITTING_STEPS):
        optimiser.zero_grad()
        log_probs = torch.stack(space.table(model).log_probs)  # (X, Y)
        loss = -(target.probs * log_probs).sum(-1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        decay.step()
    with write_directory(folder) as partial:
        build_tokenizer(LETTERS + NAMES).save_pretrained(partial)
        model.save_pretrained(partial)


def _network(space: Space, seed: int) -> LlamaForCausalLM:
    """Make a Llama of two layers and about 60,000 random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, "network") % 2**32)
        network: LlamaForCausalLM = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(space.tokens),
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=16,
                bos_token_id=None,
                eos_token_id=0,
                pad_token_id=None,
            )
        )
    return network.eval()  # type: ignore[no-any-return]

"""The known language of the study: its rows, its held-out prompts, and small networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from spin_theory.languages import NoisySort
from spin_train.languages import SPECIAL_TOKENS, LanguageData, language_data
from spin_train.seeds import seed_of

__all__ = ["LANGUAGE", "STOP", "Row", "World", "network"]

LANGUAGE = NoisySort(alphabet="abcdef", length=4, sharpness=1.0)
"""1,296 prompts with up to 24 responses, of 1.3 nats on average."""
STOP = 0  # the id of the end of text
_ENDS_PROMPTS = SPECIAL_TOKENS.index(">")


@dataclass(frozen=True)
class Row:
    """A prompt and the response that is real to a model that trains on it, as token ids."""

    prompt: list[int]
    response: list[int]


@dataclass(frozen=True)
class World:
    """Prompts of one seed, in three parts: to choose by, to report, to train on."""

    seed: int
    validation: int
    test: int

    @cached_property
    def language(self) -> LanguageData:
        """The language's tokens, and its prompts in the order of this seed."""
        return language_data(
            LANGUAGE, prompts=len(LANGUAGE.symbols) ** LANGUAGE.length, seed=self.seed
        )

    @cached_property
    def held_out(self) -> list[str]:
        """Prompts of validation, then of test."""
        return [row["prompt"] for row in self.language.rows[: self.validation + self.test]]

    @cached_property
    def spaces(self) -> list[tuple[list[list[int]], Tensor]]:
        """Valid responses to each held-out prompt as ids, and their log-probs (Y,) in p_data."""
        listed = [LANGUAGE.enumerate(prompt) for prompt in self.held_out]
        return [
            ([self.language.encode(response) for response in responses], log_probs)
            for responses, log_probs in listed
        ]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with the token that ends it."""
        return [*self.language.encode(prompt)[:-1], _ENDS_PROMPTS]

    def rows(self, *, prompts: int, responses: int, noise: float) -> list[Row]:
        """Draw rows of so many prompts, none of them held out.

        A share `noise` of the responses is replaced by as many symbols, drawn uniformly: hardly any
        of those is valid.
        """
        chosen = self.language.rows[len(self.held_out) :][:prompts]
        if len(chosen) < prompts:
            raise ValueError(f"prompts must be <= {len(chosen)} next to those held out")
        generator = torch.Generator().manual_seed(seed_of(self.seed, "study rows"))
        found = []
        for row in chosen:
            for _ in range(responses):
                response = LANGUAGE.sample(row["prompt"], generator=generator)
                if float(torch.rand((), generator=generator)) < noise:
                    response = _random_symbols(generator)
                ids = self.language.encode(response)
                found.append(Row(self.prompt_ids(row["prompt"]), ids))
        return found


def _random_symbols(generator: torch.Generator) -> str:
    symbols = LANGUAGE.symbols
    drawn: Sequence[int] = torch.randint(
        len(symbols), (LANGUAGE.length,), generator=generator
    ).tolist()
    return "".join(symbols[place] for place in drawn)


def network(*, width: int, layers: int, heads: int, seed: int) -> LlamaForCausalLM:
    """Make a Llama with random weights, in float32, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, "study network") % 2**32)
        model: LlamaForCausalLM = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(SPECIAL_TOKENS) + len(LANGUAGE.symbols),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=32,
                bos_token_id=None,
                eos_token_id=STOP,
                pad_token_id=None,
            )
        )
    return model.eval()  # type: ignore[no-any-return]

"""From a known language to what a run needs: rows, tokenizer and template."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from spin_theory.languages import Language
from spin_train.seeds import seed_of

__all__ = ["SPECIAL_TOKENS", "LanguageData", "build_tokenizer", "language_data"]

SPECIAL_TOKENS = ["<eos>", "<unk>", ">"]  # ids 0, 1, 2; > ends a prompt
TEMPLATE = "{prompt}>"


@dataclass(frozen=True)
class LanguageData:
    """A language as data of a run."""

    rows: list[dict[str, str]]
    """One per prompt, with the keys prompt and response: the lines of a JSON Lines file."""
    tokenizer: PreTrainedTokenizerFast
    """One token per symbol."""
    template: str
    """The `template` of the configuration."""
    tokens: tuple[str, ...]
    """Every token by its id, special ones first."""

    def encode(self, response: str) -> list[int]:
        """Token ids of a response, end of text included."""
        ids = {token: number for number, token in enumerate(self.tokens)}
        return [*(ids[symbol] for symbol in response), ids["<eos>"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without the spaces that the tokenizer would put between them."""
        return "".join(self.tokens[number] for number in ids)


def language_data(language: Language, *, prompts: int, seed: int) -> LanguageData:
    """Draw rows of any language of `spin_theory.languages`, and make its tokenizer and template.

    Prompts are all different, and each gets one response. More prompts begin with fewer.
    """
    clash = sorted(set(language.symbols) & set("".join(SPECIAL_TOKENS[2:])))
    if clash:
        raise ValueError(f"symbols must not hold {clash[0]!r}, which ends prompts")
    generator = torch.Generator().manual_seed(seed_of(seed, "responses"))
    rows = [
        {"prompt": prompt, "response": language.sample(prompt, generator=generator)}
        for prompt in language.sample_prompts(prompts, seed=seed)
    ]
    tokens = (*SPECIAL_TOKENS, *language.symbols)
    return LanguageData(rows, build_tokenizer(language.symbols), TEMPLATE, tokens)


def build_tokenizer(symbols: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per symbol; ``>`` ends prompts and ``<eos>`` responses."""
    tokens = [*SPECIAL_TOKENS, *symbols]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, "<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")

"""Prompts as vLLM takes them."""

from typing import TypedDict


class TokensPrompt(TypedDict):
    """A prompt that is tokens already."""

    prompt_token_ids: list[int]

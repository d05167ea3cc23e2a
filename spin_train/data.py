"""Rows to token ids: the one renderer, for generation and training alike; held-out split."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from spin_train.config import DataConfig
from spin_train.errors import UserError
from spin_train.records import Record, Response
from spin_train.rows import Row, read_rows

__all__ = ["Renderer", "prepare", "split_held_out"]


class Renderer:
    """Text to token ids, for prompts and real responses.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's.
    template : str or None
        Prompt template with one ``{prompt}``, or None for the tokenizer's chat template.

    Raises
    ------
    UserError
        If the tokenizer has no end-of-text token, or there is no template of either kind.

    Notes
    -----
    A response is tokenized as the continuation of its prompt where the prompt's ids stay the same,
    else as that of a line's end; it ends with `stop_id` exactly once, and nothing after that is
    kept. `stop_id` is the token that ends a turn in the chat template, or the tokenizer's end of
    text.
    """

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the tokenizer has no end-of-text token, so no response could ever end; "
                "set eos_token in its tokenizer_config.json"
            )
        if template is None and not tokenizer.chat_template:
            raise UserError(
                "the tokenizer has no chat template: give a template: key with {prompt} in it, "
                'such as template: "### Instruction: {prompt}\\n\\n### Response: "'
            )
        self._tokenizer = tokenizer
        self._template = template
        self.stop_id: int = self._end_of_turn()

    def render(self, row: Row) -> tuple[list[int], list[int]]:
        """Token ids of a row.

        Parameters
        ----------
        row : Row
            An SFT example.

        Returns
        -------
        prompt_ids, response_ids : list of int
            The response ends with its end-of-text token.

        Raises
        ------
        UserError
            If the row has turns that a plain template cannot hold, or renders to nothing.
        """
        if self._template is None:
            prompt, full = self._render_chat(row)
            special_tokens = False  # the chat template writes them itself
        else:
            if len(row.messages) != 1 or row.messages[0]["role"] != "user":
                raise UserError(
                    f"{row.where}: template: holds one user turn; rows with system or several "
                    "turns need the tokenizer's chat template (template: null)"
                )
            prompt = self._template.replace("{prompt}", row.messages[0]["content"])
            full = prompt + row.response
            special_tokens = True
        prompt_ids = self._encode(prompt, special_tokens)
        full_ids = self._encode(full, special_tokens)
        if full_ids[: len(prompt_ids)] == prompt_ids:
            response_ids = full_ids[len(prompt_ids) :]
        else:
            response_ids = self._encode_continuation(full[len(prompt) :])
        response_ids = self._end_once(response_ids)
        if not prompt_ids or len(response_ids) < 2:
            raise UserError(f"{row.where}: prompt or response renders to no tokens")
        return prompt_ids, response_ids

    def _render_chat(self, row: Row) -> tuple[str, str]:
        apply = self._tokenizer.apply_chat_template
        answer = {"role": "assistant", "content": row.response}
        try:
            prompt = apply(row.messages, tokenize=False, add_generation_prompt=True)
            full = apply([*row.messages, answer], tokenize=False)
        except Exception as error:  # jinja2's, raised by the template itself
            raise UserError(f"{row.where}: the chat template refuses this row: {error}") from None
        if not full.startswith(prompt):
            raise UserError(
                f"{row.where}: the chat template does not continue its own generation prompt; "
                "give a template: key instead"
            )
        return prompt, full

    def _encode(self, text: str, special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special_tokens)["input_ids"]
        # Some tokenizers close every text; a prompt is not at its end.
        while special_tokens and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]
        return ids

    def _encode_continuation(self, text: str) -> list[int]:
        # Some tokenizers put a space before a text that stands alone, so something stands before.
        for before in ("\n", "."):
            before_ids = self._encode(before, special_tokens=False)
            ids = self._encode(before + text, special_tokens=False)
            if ids[: len(before_ids)] == before_ids:
                return ids[len(before_ids) :]
        return self._encode(text, special_tokens=False)

    def _end_once(self, response_ids: list[int]) -> list[int]:
        if self.stop_id in response_ids:
            return response_ids[: response_ids.index(self.stop_id) + 1]
        return [*response_ids, self.stop_id]

    def _end_of_turn(self) -> int:
        end: int = self._tokenizer.eos_token_id
        if self._template is not None:
            return end
        probe = Row([{"role": "user", "content": "prompt"}], "response", "chat template")
        prompt, full = self._render_chat(probe)
        after = full[len(prompt) :].partition("response")[2]
        special = {index for index, token in self._added_tokens() if token.special}
        return next((i for i in self._encode(after, special_tokens=False) if i in special), end)

    def _added_tokens(self) -> Any:
        return self._tokenizer.added_tokens_decoder.items()


def split_held_out(prompts: Sequence[str], held_out: float, *, seed: int) -> list[bool]:
    """Choose the rows kept out of training, all rows of one prompt on the same side.

    Parameters
    ----------
    prompts : sequence of str
        Text of each row's prompt.
    held_out : float
        Fraction of the distinct prompts below 1, their number from 1 on.
    seed : int
        Of the choice.

    Returns
    -------
    list of bool
        For each row, whether it is held out.

    Raises
    ------
    UserError
        If either side would be empty.
    """
    distinct = sorted(set(prompts))
    wanted = int(held_out) if held_out >= 1 else max(1, round(held_out * len(distinct)))
    if wanted >= len(distinct):
        raise UserError(
            f"data.held_out asks for {wanted} of {len(distinct)} distinct prompts; "
            "leave some to train on"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(distinct), generator=generator)[:wanted].tolist()
    chosen = {distinct[index] for index in order}
    return [prompt in chosen for prompt in prompts]


def prepare(
    data: DataConfig, renderer: Renderer, *, context: int, max_new_tokens: int, seed: int
) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """Render all rows and split off the held-out ones.

    Parameters
    ----------
    data : DataConfig
        Where the rows are, and their limits.
    renderer : Renderer
        Text to token ids.
    context : int
        Longest sequence the model takes, tokens.
    max_new_tokens : int
        Longest generated response, tokens.
    seed : int
        Of the held-out split.

    Returns
    -------
    train, held_out : list of Record
        Each with its real response.
    summary : dict
        Counts and lengths.

    Raises
    ------
    UserError
        If a row is malformed or beyond a limit, or there are too few rows.
    """
    records: list[Record] = []
    prompts: list[str] = []
    dropped = 0
    for number, row in enumerate(read_rows(data)):
        prompt_ids, response_ids = renderer.render(row)
        problem = _too_long(prompt_ids, response_ids, data, context, max_new_tokens)
        if problem and data.too_long == "error":
            raise UserError(
                f"{row.where}: {problem}; raise the limit, or set data.too_long=drop to leave "
                "such rows out"
            )
        if problem:
            dropped += 1
            continue
        real = Response(role="real", ids=response_ids, finish_reason="stop")
        records.append(Record(number, prompt_ids, [real]))
        prompts.append(json.dumps(row.messages))
    if len(set(prompts)) < 2:
        raise UserError(f"{data.path} gives {len(records)} usable rows; at least 2 prompts needed")
    is_held_out = split_held_out(prompts, data.held_out, seed=seed)
    train = [record for record, out in zip(records, is_held_out, strict=True) if not out]
    held_out = [record for record, out in zip(records, is_held_out, strict=True) if out]
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    summary = {
        "rows": len(records) + dropped,
        "dropped_too_long": dropped,
        "train": len(train),
        "held_out": len(held_out),
        "distinct_prompts": len(set(prompts)),
        "prompt_tokens": _lengths([len(record.prompt_ids) for record in records]),
        "response_tokens": _lengths([len(record.responses[0].ids) for record in records]),
        "prompts_sha256": digest,
    }
    return train, held_out, summary


def _too_long(
    prompt_ids: list[int],
    response_ids: list[int],
    data: DataConfig,
    context: int,
    max_new_tokens: int,
) -> str:
    longest = len(prompt_ids) + max(len(response_ids), max_new_tokens)
    if len(prompt_ids) > data.max_prompt_tokens:
        return f"the prompt has {len(prompt_ids)} tokens, over data.max_prompt_tokens"
    if len(response_ids) > data.max_response_tokens:
        return f"the response has {len(response_ids)} tokens, over data.max_response_tokens"
    if longest > context:
        return (
            f"prompt and response take up to {longest} tokens (generation.max_new_tokens "
            f"included), over the model's context of {context}"
        )
    return ""


def _lengths(lengths: list[int]) -> dict[str, float]:
    values = torch.tensor(lengths, dtype=torch.float64)
    return {
        "mean": round(values.mean().item(), 2),
        "median": values.median().item(),
        "max": values.max().item(),
    }

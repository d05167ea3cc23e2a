"""Rows to token ids: the one renderer, for generation and training alike."""

from typing import Any

from spin_train.config.templates import CHAT_TEMPLATES, PLAIN_TEMPLATES
from spin_train.data.formats import Message, RowError, SftRow
from spin_train.data.special_tokens import SpecialTokens
from spin_train.errors import UserError, one_line

__all__ = ["Renderer"]


class Renderer:
    """Text to token ids, by a `template` or, where that is None, by the tokenizer's chat template.

    A response is tokenized as the continuation of its prompt where the prompt's ids stay the same,
    else as the continuation of a line's end. It ends with `stop_id` exactly once, and nothing after
    that is kept. `stop_id` is the token that ends a turn in the chat template, or the tokenizer's
    end of text. Special tokens written out in a row are text: only those of the template act.
    """

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the tokenizer has no end-of-text token, so no response could ever end; "
                "set eos_token in its tokenizer_config.json"
            )
        if template is None and not tokenizer.chat_template:
            names = ", ".join([*PLAIN_TEMPLATES, *CHAT_TEMPLATES])
            raise UserError(
                f"the tokenizer has no chat template: set template to a name ({names}) "
                'or to text that contains {prompt}, such as template: "Q: {prompt} A: "'
            )
        self._tokenizer = tokenizer
        self._chat: str | None = None
        self._plain: str | None = None
        if template in CHAT_TEMPLATES:
            self._chat = CHAT_TEMPLATES[template]
        elif template is not None:
            self._plain = PLAIN_TEMPLATES.get(template, template)
        self._special = SpecialTokens(tokenizer)
        self.stop_id: int = self._end_of_turn()

    def render(self, row: SftRow) -> tuple[list[int], list[int]]:
        """Token ids of prompt and response; the response ends with its end-of-text token.

        RowError: the row renders to nothing, or the chat template refuses it. UserError: it has
        turns that a plain template cannot hold.
        """
        prompt_ids, response_ids = self._render(row, row.response)
        if not prompt_ids or len(response_ids) < 2:
            raise RowError(f"{row.where}: prompt or response renders to no tokens")
        return prompt_ids, response_ids

    def render_given(self, row: SftRow) -> list[int]:
        """Token ids of the other response that a row came with, made as by `render`.

        It ends with an end-of-text token too: text does not say where a sample was cut.
        """
        assert row.given is not None
        return self._render(row, row.given)[1]

    def _render(self, row: SftRow, response: str) -> tuple[list[int], list[int]]:
        messages = [*row.messages, {"role": "assistant", "content": response}]
        try:
            *before, answer = (
                turn | {"content": self._special.mark(turn["content"])} for turn in messages
            )
        except ValueError as error:
            raise RowError(f"{row.where}: {one_line(error)}") from None
        if self._plain is None:
            prompt, full = self._render_chat(before, answer, row.where)
            special_tokens = False  # the chat template writes them itself
        else:
            if len(before) != 1 or before[0]["role"] != "user":
                raise UserError(
                    f"{row.where}: a plain template holds a single user turn; for a system turn or "
                    "several turns use a chat template: the tokenizer's (template: null) or "
                    "template: zephyr"
                )
            prompt = self._plain.replace("{prompt}", before[0]["content"])
            full = prompt + answer["content"]
            special_tokens = True
        try:
            prompt_ids = self._encode(prompt, special_tokens)
            full_ids = self._encode(full, special_tokens)
            if full_ids[: len(prompt_ids)] == prompt_ids:
                response_ids = full_ids[len(prompt_ids) :]
            else:
                response_ids = self._encode_continuation(full[len(prompt) :])
        except ValueError as error:
            raise RowError(f"{row.where}: {one_line(error)}") from None
        return prompt_ids, self._end_once(response_ids)

    def _render_chat(self, before: list[Message], answer: Message, where: str) -> tuple[str, str]:
        apply = self._tokenizer.apply_chat_template
        settings = {"tokenize": False, "chat_template": self._chat}
        try:
            prompt = apply(before, add_generation_prompt=True, **settings)
            full = apply([*before, answer], **settings)
        except Exception as error:  # jinja2's, raised by the template itself
            raise RowError(
                f"{where}: the chat template refuses this row: {one_line(error)}"
            ) from None
        if not full.startswith(prompt):
            raise UserError(
                f"{where}: the chat template does not continue its own generation prompt; "
                "set the template key instead"
            )
        return prompt, full

    def _encode(self, text: str, special_tokens: bool) -> list[int]:
        marked = self._special.marked(text)
        start = "" if marked else text
        ids: list[int] = self._tokenizer(start, add_special_tokens=special_tokens)["input_ids"]
        # Some tokenizers end every text with an end-of-text token, but a prompt must stay open.
        while special_tokens and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]
        return [*ids, *self._special.encode(text)] if marked else ids

    def _encode_continuation(self, text: str) -> list[int]:
        # Some tokenizers put a space before the start of a text, so it does not come first here.
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
        if self._plain is not None:
            return end
        user, answer = (
            {"role": "user", "content": "prompt"},
            {"role": "assistant", "content": "response"},
        )
        prompt, full = self._render_chat([user], answer, "chat template")
        after = full[len(prompt) :].partition("response")[2]
        after_ids = self._encode(after, special_tokens=False)
        return next((i for i in after_ids if i in self._special.ids), end)

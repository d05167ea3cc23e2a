"""Rows to token ids: the one renderer, for generation and training alike."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from spin_train.config.templates import CHAT_TEMPLATES, PLAIN_TEMPLATES
from spin_train.data.chat_template import TODAY, ChatTemplate, Use, alteration, name_of, stripped
from spin_train.data.chat_template import pieces_left_out as left_out
from spin_train.data.formats import Message, RowError, SftRow, without_tools
from spin_train.data.special_tokens import SpecialTokens
from spin_train.data.turns import TURN, calls_tools, is_of_a_tool
from spin_train.errors import UserError, one_line

__all__ = ["Renderer"]


class Renderer:
    """Text to token ids, by a `template` or, where that is None, by the tokenizer's chat template.

    A response is tokenized as the continuation of its prompt where the prompt's ids stay the same,
    else as the continuation of a line's end. It ends with `stop_id` exactly once, and nothing after
    that is kept. `stop_id` is the token that ends a turn in the chat template, or the tokenizer's
    end of text. Special tokens written out in a row are text: only those of the template act.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        *,
        arguments: Mapping[str, Any] | None = None,
        today: date = TODAY,
        ends: Collection[int] = (),
    ) -> None:
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
        self._plain: str | None = None
        if template is not None and template not in CHAT_TEMPLATES:
            self._plain = PLAIN_TEMPLATES.get(template, template)
        self._chat = ChatTemplate(tokenizer, CHAT_TEMPLATES.get(template or ""), arguments, today)
        for name in arguments or {}:
            if self._plain is None and not self._chat.knows(name):
                raise UserError(
                    f"template_arguments: the chat template does not use {name}; correct the name, "
                    "or remove it"
                )
        self._special = SpecialTokens(tokenizer)
        self.stop_id: int = self._end_of_turn(ends)
        unknown = tokenizer.unk_token_id
        self.unknown_id = None if unknown == tokenizer.eos_token_id else unknown

    @property
    def depends_on_date(self) -> bool:
        """Whether the chat template has asked for today's date."""
        return self._chat.depends_on_date

    def fitted(self, row: SftRow) -> tuple[SftRow, list[str]]:
        """Give a row with what the template renders of it, and the names of what it leaves out.

        Turns of tools that it cannot render are left out. RowError: it leaves out the whole text of
        another turn.
        """
        if self._plain is not None:
            if any(map(is_of_a_tool, _turns(row))):
                row = without_tools(row)
            names = [f"{TURN}{key}" for turn in _turns(row) for key in turn.keys() - _TEXT]
            names += [f"{TURN}{key}" for key in row.given_fields] + ["tools"] * bool(row.tools)
            bare = [{key: turn[key] for key in ("role", "content")} for turn in row.messages]
            return replace(row, messages=bare, fields={}, given_fields={}, tools=None), names
        row, use = self._with_tools_or_without(row)
        if use.refused:  # in words of the row's own when it is rendered
            return row, []
        turns = _turns(row)
        for place in use.lost_turns:
            raise RowError(_lost(row.where, place, turns[place]))
        names = [name_of(path) for path in use.unseen]
        if not use.tools:
            row, names = replace(row, tools=None), [*names, "tools"]
        kept = stripped(turns, use.unseen)
        if kept != turns and not self._chat.use(kept, row.tools).refused:
            row = _with_turns(row, kept)
        if row.given_fields:
            other = {"role": "assistant", "content": row.given or "", **row.given_fields}
            shown = self._chat.use([*row.messages, other], row.tools)
            (other,) = stripped(
                [other], [(0, *p[1:]) for p in shown.unseen if p[0] == len(kept) - 1]
            )
            names += [f"{TURN}{key}" for key in row.given_fields.keys() - other.keys()]
            row = replace(row, given_fields={k: v for k, v in other.items() if k not in _TEXT})
        names += self._parts_left_out(_turns(row), row)
        if row.given is not None:
            given = {"role": "assistant", "content": row.given, **row.given_fields}
            names += self._parts_left_out([*row.messages, given], row, since=len(row.messages))
        return row, names

    def _with_tools_or_without(self, row: SftRow) -> tuple[SftRow, Use]:
        """Keep the turns of tools if the template renders them whole."""
        turns = _turns(row)
        use = self._chat.use(turns, row.tools)
        places = [place for place, turn in enumerate(turns) if is_of_a_tool(turn)]
        if not places:
            return row, use
        for kept in (turns, [_arguments_as_text(turn) for turn in turns]):
            use = self._chat.use(kept, row.tools)
            if not use.refused and not use.loses_calls and not set(places) & set(use.lost_turns):
                return _with_turns(row, kept), use
        row = without_tools(row)
        return row, self._chat.use(_turns(row), row.tools)

    def _parts_left_out(self, turns: list[Message], row: SftRow, *, since: int = 0) -> list[str]:
        """Look for the text of each turn in the rendering; name what lacks a part."""
        try:
            text = self._chat.render(turns, row.tools)
        except Exception:  # jinja2's: `render` says it
            return []
        names = []
        for place, turn in enumerate(turns[since:], since):
            missing, pieces = left_out(turn["content"], text)
            if missing and missing == pieces:
                raise RowError(_lost(row.where, place, turn))
            if missing:
                names.append(f"{TURN}content (a part of the {turn['role']}'s)")
            elif what := alteration(turn["content"], text):
                names.append(f"{TURN}content ({what} the {turn['role']}'s)")
        return names

    def render(self, row: SftRow) -> tuple[list[int], list[int]]:
        """Token ids of prompt and response; the response ends with its end-of-text token.

        RowError: the row renders to nothing, or the chat template refuses it. UserError: it has
        turns that a plain template cannot hold.
        """
        prompt_ids, response_ids = self._render(row)
        if not prompt_ids or len(response_ids) < 2:
            raise RowError(f"{row.where}: prompt or response renders to no tokens")
        return prompt_ids, response_ids

    def render_given(self, row: SftRow) -> list[int]:
        """Token ids of the other response that a row came with, made as by `render`.

        It ends with an end-of-text token too: text does not say where a sample was cut.
        """
        assert row.given is not None
        return self._render(replace(row, response=row.given, fields=row.given_fields))[1]

    def _render(self, row: SftRow) -> tuple[list[int], list[int]]:
        try:
            *before, answer = self._marked(_turns(row))
            tools = self._marked(row.tools)
        except ValueError as error:
            raise RowError(f"{row.where}: {one_line(error)}") from None
        if self._plain is None:
            prompt, full = self._render_chat(before, answer, tools, row.where)
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

    def _marked(self, value: Any) -> Any:
        """Mark the special tokens in all texts of turns or schemas."""
        if isinstance(value, dict):
            return {k: v if k == "role" else self._marked(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._marked(inner) for inner in value]
        return self._special.mark(value) if isinstance(value, str) else value

    def _render_chat(
        self, before: list[Message], answer: Message, tools: list[Any] | None, where: str
    ) -> tuple[str, str]:
        try:
            prompt = self._chat.render(before, tools, prompt=True)
            full = self._chat.render([*before, answer], tools)
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
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise ValueError(
                f"a text contains an unpaired surrogate ({half!r}); fix or remove the row"
            ) from None
        marked = self._special.marked(text)
        start = "" if marked else text
        ids: list[int] = self._tokenizer(start, add_special_tokens=special_tokens)["input_ids"]
        # Some tokenizers end every text with an end-of-text token, but a prompt must stay open.
        while special_tokens and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]
        ids = [*ids, *self._special.encode(text)] if marked else ids
        # A template may write the beginning of text that the tokenizer adds by itself.
        begin = self._tokenizer.bos_token_id
        return ids[1:] if special_tokens and begin is not None and ids[:2] == [begin] * 2 else ids

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

    def _end_of_turn(self, ends: Collection[int]) -> int:
        end: int = self._tokenizer.eos_token_id
        if self._plain is not None:
            return end
        user, answer = (
            {"role": "user", "content": "prompt"},
            {"role": "assistant", "content": "response"},
        )
        prompt, full = self._render_chat([user], answer, None, "chat template")
        after = self._special_after(full[len(prompt) :])
        if after is None and ends:
            # Some models end a turn with the token that begins the next.
            try:
                following = self._chat.render([user, answer, user])[len(prompt) :]
            except Exception:  # jinja2's: a template for single turns
                return end
            begins = self._special_after(following)
            return begins if begins is not None and begins in ends else end
        return end if after is None else after

    def _special_after(self, text: str) -> int | None:
        """First special token behind the response in a rendering."""
        ids = self._encode(text.partition("response")[2], special_tokens=False)
        return next((i for i in ids if i in self._special.ids), None)


_TEXT = {"role", "content"}


def _turns(row: SftRow) -> list[Message]:
    return [*row.messages, {"role": "assistant", "content": row.response, **row.fields}]


def _with_turns(row: SftRow, turns: Sequence[Message]) -> SftRow:
    fields = {key: value for key, value in turns[-1].items() if key not in _TEXT}
    return replace(row, messages=list(turns[:-1]), fields=fields)


def _lost(where: str, place: int, turn: Message) -> str:
    return (
        f"{where}: the chat template leaves out the text of turn {place + 1} ({turn['role']}, "
        f"{turn['content']!r:.40}); set template to another one, or remove such rows"
    )


def _arguments_as_text(turn: Message) -> Message:
    """Write the arguments of calls as JSON in text, as some templates expect them."""
    if not calls_tools(turn):
        return turn
    calls = [
        call | {"function": call["function"] | {"arguments": json.dumps(arguments)}}
        if not isinstance(arguments := call["function"].get("arguments"), str)
        else call
        for call in turn["tool_calls"]
    ]
    return turn | {"tool_calls": calls}

"""The formats that SFT rows come in: a raw object to an `SftRow`, by its keys."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from spin_train.errors import UserError

__all__ = ["FORMATS", "Message", "RowError", "SftRow", "row_of"]

Message = dict[str, str]

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **dict.fromkeys(
        ("tool", "function", "function_call", "function_response", "observation"), "tool"
    ),
    **dict.fromkeys(("tool_call", "tool_calls", "tool_response", "ipython"), "tool"),
}


@dataclass(frozen=True)
class SftRow:
    """One SFT example."""

    messages: list[Message]
    """Chat up to the prompt, each with `role` and `content`."""
    response: str
    """The human response: the last assistant turn."""
    where: str
    """File and line, for messages."""
    given: str | None = None
    """The other response that came with it: official `generated`, or `rejected`."""
    ignored_turns: int = 0
    """Number of tool turns left out."""
    dropped_turns: int = 0
    """Number of turns left out after the response."""


class RowError(UserError):
    """A row that cannot be used; the message begins with its file and line."""


def row_of(
    raw: Any, where: str, format_name: str | None = None, *, turn: Literal["last", "first"] = "last"
) -> SftRow:
    """Read one raw row in the format given, else in the one whose keys it has.

    Keys whose value is null count as absent. `where` is file and line; the RowError of a row that
    is malformed, or that fits no format or several, begins with it. `turn` says which answer of a
    chat is the response.
    """
    if not isinstance(raw, dict):
        raise RowError(f"{where}: a row must be an object, got {type(raw).__name__}")
    present = {key: value for key, value in raw.items() if value is not None}
    fitting = [name for name, (keys, _) in FORMATS.items() if present.keys() >= set(keys)]
    keys = ", ".join(map(str, present)) or "no keys"
    if format_name is not None and format_name not in fitting:
        raise RowError(f"{where}: data.shape is {format_name}, but the row has {keys}")
    if not fitting:
        raise RowError(f"{where}: a row needs one of {'; '.join(FORMATS)}; got {keys}")
    if format_name is None and len(fitting) > 1:
        raise RowError(f"{where}: the row could be {' or '.join(fitting)}; choose with data.shape")
    name = format_name or fitting[0]
    try:
        row = FORMATS[name][1](present, where)
        return row if turn == "last" else _first_turn(row)
    except _MalformedError as error:
        raise RowError(f"{where}: {error}") from None


class _MalformedError(Exception):
    """A problem with a row; the message does not say which row."""


def _plain(prompt_key: str, response_key: str) -> Callable[[dict[str, Any], str], SftRow]:
    """Format with two keys; each holds text or a list of messages, as in TRL."""

    def read(raw: dict[str, Any], where: str) -> SftRow:
        prompt, response = raw[prompt_key], raw[response_key]
        return _chat(_joined(prompt, prompt_key, response, response_key), where)

    return read


def _alpaca(raw: dict[str, Any], where: str) -> SftRow:
    instruction = _text(raw["instruction"], "instruction")
    context = _text(raw.get("input", ""), "input", empty=True)
    prompt = f"{instruction}\n\n{context}" if context.strip() else instruction
    return _chat(_joined(prompt, "instruction", raw["output"], "output"), where)


def _messages(key: str) -> Callable[[dict[str, Any], str], SftRow]:
    return lambda raw, where: _chat(_turns(raw[key], key), where)


def _pair(better: str, worse: str) -> Callable[[dict[str, Any], str], SftRow]:
    """Format with a real and another response, with or without a separate prompt."""

    def read(raw: dict[str, Any], where: str) -> SftRow:
        real, other = (
            _chat(_joined(raw.get("prompt"), "prompt", raw[key], key, empty=empty), where)
            for key, empty in ((better, False), (worse, True))
        )
        if real.messages != other.messages:
            raise _MalformedError(f"{better} and {worse} answer different prompts")
        return SftRow(
            real.messages,
            real.response,
            where,
            given=other.response,
            ignored_turns=real.ignored_turns,
            dropped_turns=real.dropped_turns,
        )

    return read


def _joined(
    prompt: Any, prompt_key: str, response: Any, response_key: str, *, empty: bool = False
) -> list[Message]:
    """One chat of a prompt and a response, each text or messages.

    A response that begins before the assistant's turn is a whole chat with its own prompt.
    """
    if isinstance(response, list):
        after = _turns(response, response_key, empty=empty)
        if not after or after[0]["role"] != "assistant":
            return after
    else:
        content = _text(response, response_key, empty=empty)
        after = [{"role": "assistant", "content": content}]
    if isinstance(prompt, list):
        return [*_turns(prompt, prompt_key), *after]
    return [{"role": "user", "content": _text(prompt, prompt_key)}, *after]


def _turns(messages: Any, key: str, *, empty: bool = False) -> list[Message]:
    """Convert turns to role and content, from the same names or ShareGPT's from and value.

    With `empty` an assistant's turn may be empty, as samples of a model can be.
    """
    if not isinstance(messages, list):
        raise _MalformedError(f"{key} must be a list of turns, got {messages!r:.60}")
    turns: list[Message] = []
    for number, message in enumerate(messages, 1):
        name = f"of turn {number} of {key}"
        if not isinstance(message, dict):
            raise _MalformedError(f"turn {number} of {key} must be an object")
        said_by = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        role = _ROLES.get(said_by.strip().lower()) if isinstance(said_by, str) else None
        if role is None:
            raise _MalformedError(f"role {name} must be user, assistant or system, got {said_by!r}")
        if role == "assistant" and not content and message.get("tool_calls"):
            role = "tool"
        may_be_empty = role == "system" or (empty and role == "assistant")
        text = "" if role == "tool" else _text(content, f"content {name}", empty=may_be_empty)
        turns.append({"role": role, "content": text})
    return turns


def _chat(turns: list[Message], where: str) -> SftRow:
    """Use the last assistant turn as the response; leave out tool turns and what follows it."""
    spoken = [turn for turn in turns if turn["role"] != "tool"]
    last = max((i for i, turn in enumerate(spoken) if turn["role"] == "assistant"), default=None)
    if last is None:
        raise _MalformedError("no assistant turn, so there is no response")
    first = next(turn["role"] for turn in spoken if turn["role"] != "system")
    if first != "user":
        raise _MalformedError("an assistant turn comes before any user turn, so there is no prompt")
    return SftRow(
        spoken[:last],
        spoken[last]["content"],
        where,
        ignored_turns=len(turns) - len(spoken),
        dropped_turns=len(spoken) - last - 1,
    )


def _first_turn(row: SftRow) -> SftRow:
    """Use the first answer of a chat, as the published runs did; the rest is left out."""
    first = next((i for i, t in enumerate(row.messages) if t["role"] == "assistant"), None)
    if first is None:
        return row
    if row.given is not None:
        raise _MalformedError("data.turn is first, but the given response answers the last turn")
    return replace(
        row,
        messages=row.messages[:first],
        response=row.messages[first]["content"],
        dropped_turns=row.dropped_turns + len(row.messages) - first,
    )


def _text(value: Any, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise _MalformedError(f"{name} must be non-empty text, got {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise _MalformedError(
            f"{name} contains an unpaired surrogate ({half!r}); fix or remove the row"
        ) from None
    return value


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any], str], SftRow]]] = {
    "messages": (("messages",), _messages("messages")),
    "conversations": (("conversations",), _messages("conversations")),
    "real/generated": (("real", "generated"), _pair("real", "generated")),
    "chosen/rejected": (("chosen", "rejected"), _pair("chosen", "rejected")),
    "prompt/response": (("prompt", "response"), _plain("prompt", "response")),
    "prompt/completion": (("prompt", "completion"), _plain("prompt", "completion")),
    "instruction/output": (("instruction", "output"), _alpaca),
    "question/answer": (("question", "answer"), _plain("question", "answer")),
}
"""Name of each format, the keys that identify it, and the function that reads it."""

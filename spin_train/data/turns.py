"""The turns of a chat: roles, texts, calls of tools, and what else a chat template may use."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from spin_train.data.fields import (
    Fields,
    MalformedError,
    cleaned,
    is_empty,
    refuse_deep,
    truth_of,
    weight_of,
)

__all__ = ["TURN", "Message", "Turn", "calls_tools", "is_of_a_tool", "json_or_text", "text_of"]

Message = dict[str, Any]

TURN = "messages[]."
"""How fields of turns are named, in every format."""
PART = f"{TURN}content[]."
"""How fields of parts of a turn's content are named."""

_CALLS = ("function_call", "tool_call", "tool_calls")
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "function_response", "observation"), "tool"),
    **dict.fromkeys(("tool_response", "ipython"), "tool"),
    **dict.fromkeys(_CALLS, "assistant"),
}
_IS_MEDIA = re.compile("(input_)?(image|video|audio)(_url)?").fullmatch  # types of parts
_WEIGHTS = ("weight", "loss_weight", "train", "trainable", "loss")


@dataclass(frozen=True)
class Turn:
    """One turn, and whether its text is to be learnt where it is a response."""

    message: Message
    """`role`, `content`, and the other fields of the turn, for the chat template."""
    weight: float = 1.0
    """Weight in the loss; 0 where it must not be learnt."""
    unused: tuple[str, ...] = ()
    """Keys of parts of its content that nothing uses."""

    @classmethod
    def of(cls, raw: Any, number: int, key: str, *, empty: bool, ignore: Collection[str]) -> "Turn":
        """Read a turn with role and content, or ShareGPT's from and value.

        With `empty` an assistant's turn may be empty, as samples of a model can be.
        """
        name = f"of turn {number} of {key}"
        if not isinstance(raw, dict):
            raise MalformedError(f"turn {number} of {key} must be an object")
        fields = Fields(raw, path=TURN, ignore=ignore)
        fields.refuse_media()
        said_by = fields.take("role", "from")
        content = fields.take("content", "value")
        spoken = said_by.strip().lower() if isinstance(said_by, str) else ""
        role = _ROLES.get(spoken)
        if role is None:
            raise MalformedError(f"role {name} must be user, assistant or system, got {said_by!r}")
        weight = _weight(fields, name)
        calls = fields.take("tool_calls", "function_call") if role == "assistant" else None
        calls = None if is_empty(calls) else calls
        if spoken in _CALLS and calls is None:
            called = json_or_text(content)
            if isinstance(called, dict | list):  # else it stays text
                content, calls = "", called
        message: Message = {"role": role}
        if role == "tool":
            text, unused = _of_a_result(content, name, ignore)
            message["content"] = text_of(text, f"content {name}", empty=True)
        else:
            may_be_empty = role == "system" or calls is not None or (empty and role == "assistant")
            text, unused = _joined_parts(content, name, ignore)
            if may_be_empty and text is None:
                text = ""
            message["content"] = text_of(text, f"content {name}", empty=may_be_empty)
        if calls is not None:
            message["tool_calls"] = _calls(calls, name)
        return cls(message | cleaned(fields.left), weight, unused)


def is_of_a_tool(message: Message) -> bool:
    """Say whether a turn calls a tool or is a tool's answer.

    Whatever else a turn holds under that name, such as a user's, is a field like any other.
    """
    return message["role"] == "tool" or calls_tools(message)


def calls_tools(message: Message) -> bool:
    """Say whether a turn of the assistant calls tools."""
    return message["role"] == "assistant" and "tool_calls" in message


def json_or_text(value: Any) -> Any:
    """Read text that holds a JSON object or list; anything else stays as it is."""
    if not isinstance(value, str) or value.strip()[:1] not in ("{", "["):
        return value
    try:
        read = json.loads(value)
    except ValueError:
        return value
    except RecursionError:
        raise MalformedError(
            f"JSON in text is nested too deeply ({value!r:.40}); remove the row, or that field"
        ) from None
    refuse_deep(read, "JSON in text")
    return read


def text_of(value: Any, name: str, *, empty: bool = False) -> str:
    """Check that a value is text, and not blank unless it may be `empty`."""
    if not isinstance(value, str) or not (empty or value.strip()):
        raise MalformedError(f"{name} must be non-empty text, got {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise MalformedError(
            f"{name} contains an unpaired surrogate ({half!r}); fix or remove the row"
        ) from None
    return value


def _weight(fields: Fields, name: str) -> float:
    weight = 1.0
    for key in _WEIGHTS:
        value = fields.peek(key)
        if is_empty(value):
            continue
        found = weight_of(value) if "weight" in key else truth_of(value)
        if found is None and "weight" in key:
            raise MalformedError(f"{key} {name} must be a number >= 0, got {value!r}")
        if found is not None:  # another `loss` or `train` is left, and so named
            fields.take(key)
            weight *= found
    return weight


def _joined_parts(content: Any, name: str, ignore: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Text of a content in parts, where all parts are text, and what else the parts hold."""
    if not isinstance(content, list):
        return content, ()
    texts = []
    unused: set[str] = set()
    for part in map(cleaned, content):
        text, kind = part, "text"
        if isinstance(part, dict):
            fields = Fields(part, path=PART, ignore=ignore)
            text, kind = fields.take("text"), fields.take("type") or "text"
            unused |= {fields.path_of(key) for key in fields.left}
        if kind != "text" or not isinstance(text, str):
            raise MalformedError(f"content {name} holds a part that is not text ({kind})")
        if isinstance(part, dict):
            fields.refuse_media()
        texts.append(text)
    return "".join(texts), tuple(sorted(unused))


def _of_a_result(content: Any, name: str, ignore: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Text of what a tool gave back: text, parts of a content, or any other value as JSON."""
    if content is None or isinstance(content, str):
        return content or "", ()
    parts = content if isinstance(content, list) else []
    kinds = {str(part.get("type")) if isinstance(part, dict) else "" for part in parts}
    if kinds == {"text"} or any(map(_IS_MEDIA, kinds)):
        return _joined_parts(content, name, ignore)
    return json.dumps(cleaned(content), ensure_ascii=False, default=str), ()


def _calls(calls: Any, name: str) -> list[Any]:
    """Write calls of tools as chat templates expect them, with objects as arguments."""
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        if not isinstance(call, dict):
            raise MalformedError(f"tool_calls {name} must hold objects, got {call!r:.60}")
        call = cleaned(call)
        inner = call["function"] if isinstance(call.get("function"), dict) else call
        arguments = json_or_text(inner.get("arguments", {}))
        rest = {key: value for key, value in call.items() if key not in ("name", "arguments")}
        function = {
            key: value for key, value in inner.items() if inner is not call or key == "name"
        }
        found.append(
            {"type": "function"} | rest | {"function": function | {"arguments": arguments}}
        )
    return found

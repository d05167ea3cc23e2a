"""The formats that SFT rows come in: a raw object to an `SftRow`, by its keys.

Every key of a row is accounted for in `row_of`: it is used, the row is refused, or the name of the
key is in `SftRow.unused`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from spin_train.data.fields import Fields, MalformedError, RowError, is_empty, truth_of, weight_of
from spin_train.data.turns import (
    TURN,
    Message,
    Turn,
    is_of_a_tool,
    json_or_text,
    text_of,
)

__all__ = ["FORMATS", "Message", "RowError", "SftRow", "row_of", "without_tools"]

# Keys under which rows say a text of their chat once more.
_SAID_AGAIN = {
    *("prompt", "instruction", "question", "query", "input", "text"),
    *("response", "answer", "completion", "output"),
}
_SYSTEM = ("system", "system_prompt", "system_message")
_LABELS = ("label", "kto_tag")
_MARKS = ("train", "trainable", "loss")
_ROW_WEIGHTS = ("weight", "sample_weight", "loss_weight")


@dataclass(frozen=True)
class SftRow:
    """One SFT example."""

    messages: list[Message]
    """Chat up to the prompt, each turn with `role`, `content` and perhaps more."""
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
    fields: Message = field(default_factory=dict)
    """Other fields of the response's turn, such as `reasoning_content` and `tool_calls`."""
    given_fields: Message = field(default_factory=dict)
    """The same of the other response."""
    tools: list[Any] | None = None
    """Schemas of the tools that the model may call."""
    weight: float = 1.0
    """Weight in the loss; 0 where the response must not be learnt."""
    label: bool | None = None
    """Whether the response is wanted, where the row says so."""
    unused: tuple[str, ...] = ()
    """Keys of the row that nothing uses."""
    number: int = -1
    """Its number in the data, from 0."""


def row_of(
    raw: Any,
    where: str,
    format_name: str | None = None,
    *,
    turn: Literal["last", "first"] = "last",
    ignore: Collection[str] = (),
) -> SftRow:
    """Read one raw row in the format given, else in the one whose keys it has.

    Keys whose value is null, and those to `ignore`, count as absent. `where` is file and line; the
    RowError of a row that is malformed, or that fits no format or several, begins with it. `turn`
    says which answer of a chat is the response.
    """
    if not isinstance(raw, dict):
        raise RowError(f"{where}: a row must be an object, got {type(raw).__name__}")
    fields = Fields(raw, ignore=ignore)
    fitting = [name for name, (keys, _) in FORMATS.items() if set(keys) <= set(fields.names)]
    keys = ", ".join(fields.names) or "no keys"
    if format_name is not None and format_name not in fitting:
        raise RowError(f"{where}: data.shape is {format_name}, but the row has {keys}")
    if not fitting:
        raise RowError(f"{where}: a row needs one of {'; '.join(FORMATS)}; got {keys}")
    if len(fitting) > 1:  # an empty one next to the one that holds something
        filled = [name for name in fitting if fields.hold(FORMATS[name][0])]
        fitting = filled or fitting
    if format_name is None and len(fitting) > 1:
        raise RowError(f"{where}: the row could be {' or '.join(fitting)}; choose with data.shape")
    reading = _Reading(fields, where, turn, ignore)
    try:
        fields.refuse_deep()
        return reading.finished(FORMATS[format_name or fitting[0]][1](reading))
    except MalformedError as error:
        raise RowError(f"{where}: {error}") from None


def without_tools(row: SftRow) -> SftRow:
    """Leave out the turns of tools; the last answer in words is the response then."""
    turns = [*row.messages, {"role": "assistant", "content": row.response} | row.fields]
    spoken = [Turn(message) for message in turns if not is_of_a_tool(message)]
    try:
        kept = _chat(spoken, row.where, "last")
    except MalformedError as error:
        raise RowError(f"{row.where}: without its tool turns there is {error}") from None
    return replace(
        row,
        messages=kept.messages,
        response=kept.response,
        fields=kept.fields,
        ignored_turns=row.ignored_turns + len(turns) - len(spoken),
        dropped_turns=row.dropped_turns + kept.dropped_turns,
    )


@dataclass(frozen=True)
class _Reading:
    """One row that is being read."""

    fields: Fields
    where: str
    turn: Literal["last", "first"]
    ignore: Collection[str]

    def turns(self, messages: Any, key: str, *, empty: bool = False) -> list[Turn]:
        if not isinstance(messages, list):
            raise MalformedError(f"{key} must be a list of turns, got {messages!r:.60}")
        return [
            Turn.of(message, number, key, empty=empty, ignore=self.ignore)
            for number, message in enumerate(messages, 1)
        ]

    def chat(self, turns: list[Turn]) -> SftRow:
        return _chat(turns, self.where, self.turn)

    def joined(self, prompt_key: str, response_key: str, *, empty: bool = False) -> list[Turn]:
        """One chat of a prompt and a response, each text or messages.

        A response that begins before the assistant's turn is a whole chat with its own prompt.
        """
        response = self.fields.take(response_key)
        if isinstance(response, dict):
            response = [response]
        if isinstance(response, list):
            after = self.turns(response, response_key, empty=empty)
            if not after or after[0].message["role"] != "assistant":
                return after
        else:
            content = text_of(response, response_key, empty=empty)
            after = [Turn({"role": "assistant", "content": content})]
        prompt = self.fields.take(prompt_key)
        if isinstance(prompt, list):
            return [*self.turns(prompt, prompt_key), *after]
        text = text_of(prompt, prompt_key)
        if prompt_key == "instruction":
            context = self.fields.take("input")
            context = text_of("" if is_empty(context) else context, "input", empty=True)
            text = f"{text}\n\n{context}" if context.strip() else text
        return [Turn({"role": "user", "content": text}), *after]

    def finished(self, row: SftRow) -> SftRow:
        """Add what stands next to the chat, and account for every other key."""
        fields = self.fields
        fields.refuse_media()
        weight, label = row.weight, None
        for name in _ROW_WEIGHTS:
            value = fields.take(name)
            if is_empty(value):
                continue
            found = weight_of(value)
            if found is None:
                raise MalformedError(f"{name} must be a number >= 0, got {value!r}")
            weight *= found
        for name in _MARKS:  # anything but true or false is no such mark, and is named
            found = truth_of(fields.peek(name))
            if found is not None:
                fields.take(name)
                weight *= found
        for name in _LABELS:
            if row.given is None and label is None and truth_of(fields.peek(name)) is not None:
                label = truth_of(fields.take(name))
        messages = _with_history(self, row.messages)
        messages = _with_system(fields.take(*_SYSTEM), messages)
        tools = json_or_text(fields.take("tools", "functions"))
        if tools and not isinstance(tools, list):
            raise MalformedError(f"tools must be a list of schemas, got {tools!r:.60}")
        said = {message["content"] for message in messages} | {row.response}
        unused = row.unused + tuple(
            fields.path_of(name)
            for name, value in fields.left.items()
            if not (name in _SAID_AGAIN and isinstance(value, str) and value in said)
        )
        return replace(
            row, messages=messages, tools=tools or None, weight=weight, label=label, unused=unused
        )


def _with_system(system: Any, messages: list[Message]) -> list[Message]:
    """Put a system text that stands next to the chat before it."""
    if is_empty(system) or not text_of(system, "system", empty=True).strip():
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    if messages[0]["content"].strip() not in ("", system.strip()):
        raise MalformedError("the system text next to the chat is not that of its system turn")
    return [messages[0] | {"content": system}, *messages[1:]]


def _with_history(reading: _Reading, messages: list[Message]) -> list[Message]:
    """Put earlier turns that stand next to a prompt before it."""
    if len([message for message in messages if message["role"] != "system"]) != 1:
        return messages  # a chat has its own; a history next to it is named
    history = json_or_text(reading.fields.take("history"))
    if is_empty(history):
        return messages
    if not isinstance(history, list):
        raise MalformedError(f"history must be a list of turns, got {history!r:.60}")
    turns: list[Any] = []
    for entry in history:
        if isinstance(entry, list):
            roles = ("user", "assistant")
            if len(entry) != len(roles):
                raise MalformedError(f"history must hold pairs of texts, got {entry!r:.60}")
            turns += [{"role": r, "content": c} for r, c in zip(roles, entry, strict=True)]
        else:
            turns.append(entry)
    earlier = [turn.message for turn in reading.turns(turns, "history")]
    return [*messages[:-1], *earlier, messages[-1]]


def _plain(prompt_key: str, response_key: str) -> Callable[[_Reading], SftRow]:
    """Format with two keys; each holds text or a list of messages, as in TRL."""
    return lambda reading: reading.chat(reading.joined(prompt_key, response_key))


def _messages(key: str) -> Callable[[_Reading], SftRow]:
    return lambda reading: reading.chat(reading.turns(reading.fields.take(key), key))


def _pair(better: str, worse: str) -> Callable[[_Reading], SftRow]:
    """Format with a real and another response, with or without a separate prompt."""

    def read(reading: _Reading) -> SftRow:
        names = reading.fields.names
        keys = ("prompt", "instruction", "question", "conversations")
        prompt = next((key for key in keys if key in names), "prompt")
        chats = [
            reading.joined(prompt, key, empty=empty)
            for key, empty in ((better, False), (worse, True))
        ]
        answers = [said for said in chats[0] if said.message["role"] == "assistant"]
        if reading.turn == "first" and len(answers) > 1:
            raise MalformedError("data.turn is first, but the given response answers the last turn")
        real, other = map(reading.chat, chats)
        if real.messages != other.messages:
            raise MalformedError(f"{better} and {worse} answer different prompts")
        weight = (f"{TURN}weight (of the {worse} response)",) if other.weight != 1 else ()
        return replace(
            real,
            given=other.response,
            given_fields=other.fields,
            dropped_turns=real.dropped_turns + other.dropped_turns,
            unused=(*real.unused, *other.unused, *weight),
        )

    return read


def _chat(turns: list[Turn], where: str, turn: Literal["last", "first"]) -> SftRow:
    """Use the last assistant turn as the response, or the first; leave out what follows it."""
    answers = [i for i, said in enumerate(turns) if said.message["role"] == "assistant"]
    if not answers:
        raise MalformedError("no assistant turn, so there is no response")
    place = answers[-1 if turn == "last" else 0]
    roles = [said.message["role"] for said in turns]
    if next(role for role in roles if role != "system") != "user":
        raise MalformedError("an assistant turn comes before any user turn, so there is no prompt")
    answer = turns[place].message
    return SftRow(
        [said.message for said in turns[:place]],
        answer["content"],
        where,
        dropped_turns=len(turns) - place - 1,
        fields={key: value for key, value in answer.items() if key not in ("role", "content")},
        weight=turns[place].weight,
        unused=tuple(name for said in turns[: place + 1] for name in said.unused),
    )


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[_Reading], SftRow]]] = {
    "messages": (("messages",), _messages("messages")),
    "conversations": (("conversations",), _messages("conversations")),
    "real/generated": (("real", "generated"), _pair("real", "generated")),
    "chosen/rejected": (("chosen", "rejected"), _pair("chosen", "rejected")),
    "prompt/response": (("prompt", "response"), _plain("prompt", "response")),
    "prompt/completion": (("prompt", "completion"), _plain("prompt", "completion")),
    "instruction/output": (("instruction", "output"), _plain("instruction", "output")),
    "question/answer": (("question", "answer"), _plain("question", "answer")),
}
"""Name of each format, the keys that identify it, and the function that reads it."""

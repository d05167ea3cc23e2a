"""A chat template, and what it does with each field of a chat.

A template may silently drop a system turn, the reasoning of an answer or the call of a tool. Which
fields it renders is found out once for each outline of a chat: every text is replaced by another
word, and the words are looked for in the rendering. Templates that treat some texts in
another way, such as what stands before ``</think>``, are noticed by looking for the text itself.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from spin_train.data.turns import TURN, Message, calls_tools

__all__ = [
    "TODAY",
    "ChatTemplate",
    "Use",
    "alteration",
    "name_of",
    "pieces_left_out",
    "stripped",
]

TODAY = date(2024, 7, 26)
"""Day that a template takes for today; any fixed one would do."""

_KEPT = ("role", "type")  # templates branch on these, so they keep their values
_DIRECTIVES = "aAbBcdDeFGHIjmMpRSTuUVwWxXyYzZ"  # of strftime
_PIECE = re.compile(r"[^\n<>]+")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Use:
    """What a template does with chats of one outline."""

    refused: str = ""
    """What the template says where it refuses them."""
    lost_turns: tuple[int, ...] = ()
    """Turns whose text it does not render, by their place."""
    unseen: tuple[Path, ...] = ()
    """Other fields that it does not render: place of the turn, then keys."""
    tools: bool = True
    """Whether it renders the tools."""
    loses_calls: bool = False
    """Whether it leaves out a part of a call of a tool other than its id."""


class ChatTemplate:
    """A tokenizer's chat template, or another, with its arguments and on a fixed day."""

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        arguments: Mapping[str, Any] | None = None,
        today: date = TODAY,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._arguments = dict(arguments or {})
        self._clock = _clock_of(today)
        self._uses: dict[str, Use] = {}
        self.depends_on_date = False

    def render(
        self, messages: Sequence[Message], tools: list[Any] | None = None, *, prompt: bool = False
    ) -> str:
        """Text of a chat; with `prompt` an answer is to follow. Raises what the template raises."""
        template = self._tokenizer.get_chat_template(self._template, tools)
        if "strftime_now" in template:
            self.depends_on_date = True
            template = self._clock + template
        text: str = self._tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            tokenize=False,
            chat_template=template,
            add_generation_prompt=prompt,
            **self._arguments,
        )
        return text

    def knows(self, name: str) -> bool:
        """Say whether the template mentions a name, so that an argument may have an effect."""
        texts = self._template or self._tokenizer.chat_template
        texts = list(texts.values()) if isinstance(texts, dict) else [texts]
        return any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts)

    def use(self, messages: Sequence[Message], tools: list[Any] | None = None) -> Use:
        """Say what the template does with each field of chats of this outline."""
        outline = json.dumps([_outline(messages), _outline(tools)], default=str)
        if outline not in self._uses:
            self._uses[outline] = self._tried(messages, tools)
        return self._uses[outline]

    def _tried(self, messages: Sequence[Message], tools: list[Any] | None) -> Use:
        words: dict[Path, str] = {}
        probe = [_with_words(message, (place,), words) for place, message in enumerate(messages)]
        schemas = _with_words(tools, ("tools",), words)
        try:
            text = self.render(probe, schemas)
        except Exception as error:  # jinja2's, raised by the template itself
            return Use(refused=str(error))
        folded = text.casefold()  # a template may change the case of letters
        missing = [path for path, word in words.items() if word.casefold() not in folded]
        lost = tuple(path[0] for path in missing if path[1:] == ("content",))
        unseen = [p for p in missing if p[0] != "tools" and p[1:] != ("content",)]
        for place, message in enumerate(probe):  # true and false are replaced by none
            for key in message.keys() - {"role", "content"}:
                if any(path[:2] == (place, key) for path in words):
                    continue
                less = {k: v for k, v in message.items() if k != key}
                if self.render([*probe[:place], less, *probe[place + 1 :]], schemas) == text:
                    unseen.append((place, key))
        shown = [path for path in words if path[0] == "tools" and path not in missing]
        calls = [path for path in unseen if path[1] == "tool_calls" and path[-1] != "id"]
        return Use(
            lost_turns=tuple(map(int, lost)),
            unseen=tuple(unseen),
            tools=bool(shown) or not tools,
            loses_calls=any(calls_tools(messages[int(path[0])]) for path in calls),
        )


def _clock_of(day: date) -> str:
    """Write a macro of Jinja that stands before a template in place of transformers' clock.

    The form may be put together while the template runs, so each of its directives is replaced.
    """
    forms = [f"%{flag}{letter}" for letter in _DIRECTIVES for flag in ("", "-")]
    replaced = "".join(f"|replace({form!r}, {day.strftime(form)!r})" for form in [*forms, "%%"])
    return f"{{%- macro strftime_now(form) -%}}{{{{ form{replaced} }}}}{{%- endmacro +%}}"


def pieces_left_out(content: str, text: str) -> tuple[int, int]:
    """Count the pieces of a turn's text that a rendering lacks, and all of its pieces."""
    squashed = _squashed(text)

    def is_there(part: str) -> bool:
        return any(_squashed(form) in squashed for form in _forms(part))

    if is_there(content):
        return 0, 1
    pieces = [piece for piece in _PIECE.findall(content) if piece.strip()]
    return sum(not is_there(piece) for piece in pieces), len(pieces)


def alteration(content: str, text: str) -> str:
    """Say what a rendering that leaves out no piece of a turn's text changes in it, if anything."""
    if any(form in text for form in _forms(content)):
        return ""
    if any(form in text for form in _forms(content.strip())):
        return "spaces around"
    whole = any(_squashed(form) in _squashed(text) for form in _forms(content))
    return "spaces or letter case of" if whole else ""  # else it stands there in pieces


def name_of(path: Path) -> str:
    """Name of a field of a turn as users read it, such as ``messages[].tool_calls[].id``."""
    name = TURN.removesuffix(".")
    for key in path[1:]:
        name += "[]" if isinstance(key, int) else f".{key}"
    return name


def stripped(messages: Sequence[Message], unseen: Sequence[Path]) -> list[Message]:
    """Leave out the fields of turns that are not rendered, where the whole field is not."""
    gone = {
        (place, key)
        for place, message in enumerate(messages)
        for key in message
        if _is_unseen(message[key], (place, key), set(unseen))
    }
    return [
        {key: value for key, value in message.items() if (place, key) not in gone}
        for place, message in enumerate(messages)
    ]


def _is_unseen(value: Any, path: Path, unseen: set[Path]) -> bool:
    leaves = set(_leaves(value, path))
    return path in unseen or (bool(leaves) and leaves <= unseen)


def _forms(part: str) -> tuple[str, ...]:
    """Text as a template may write it: as it is, or within JSON."""
    return part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1]


def _squashed(text: str) -> str:
    return "".join(text.split()).casefold()


def _outline(value: Any) -> Any:
    """Keys and kinds of values, with no texts; whether a text is empty stays."""
    if isinstance(value, dict):
        return {k: v if k in _KEPT else _outline(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_outline(inner) for inner in value]
    if isinstance(value, str):
        return "text" if value.strip() else ""
    return value if value is None or isinstance(value, bool) else "number"


def _leaves(value: Any, path: Path) -> Iterator[Path]:
    """Paths of the texts and numbers in a value that are replaced by words."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in _KEPT:
                yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, place))
    elif (isinstance(value, str) and value.strip()) or (
        isinstance(value, int | float) and not isinstance(value, bool)
    ):
        yield path


def _with_words(value: Any, path: Path, words: dict[Path, str]) -> Any:
    """Copy a value with another word in place of each text and number."""
    if isinstance(value, dict):
        return {k: v if k in _KEPT else _with_words(v, (*path, k), words) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_words(inner, (*path, i), words) for i, inner in enumerate(value)]
    if not any(_leaves(value, path)):
        return value
    # Nine letters and digits, as some templates demand of the ids of calls.
    number = len(words)
    word = f"{900000000 + number}" if not isinstance(value, str) else f"w{number:07d}w"
    words[path] = word
    return word if isinstance(value, str) else int(word)

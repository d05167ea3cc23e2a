"""Which prompts are held out: conversations whole, chosen by a seed and the prompts alone."""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from spin_train.data.formats import SftRow
from spin_train.errors import UserError

__all__ = ["Conversations", "alike", "digest", "prompt_text", "response_texts", "split_prompts"]


def digest(text: str) -> bytes:
    """Hash a text to 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def alike(text: str) -> str:
    r"""Reduce a text to what two copies of it have in common: case, spaces and accents vary.

    >>> alike(" Two\n words") == alike("two words ")
    True
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def prompt_text(row: SftRow) -> str:
    """Everything before the response, as one text."""
    if row.tools is None:
        return json.dumps(row.messages, default=str)
    return json.dumps([row.messages, row.tools], default=str)


def response_texts(row: SftRow) -> list[str]:
    """Give the response and the other one that came with it, with their calls and reasoning."""
    answers = [(row.response, row.fields)]
    if row.given is not None:
        answers.append((row.given, row.given_fields))
    return [json.dumps([said, fields], default=str) if fields else said for said, fields in answers]


class Conversations:
    """Which prompts belong to one conversation: one goes on where the other was answered.

    A file may hold a conversation several times, once for each of its answers. The answer of one
    row then stands in the prompt of the next.
    """

    def __init__(self) -> None:
        self._parents: dict[bytes, bytes] = {}
        self._answered: dict[bytes, bytes] = {}
        self._alike: dict[bytes, bytes] = {}
        self._beginnings: list[tuple[bytes, bytes]] = []

    def add(self, row: SftRow, prompt: bytes) -> None:
        """Note the conversation that a row ends, and those that its prompt goes on from.

        Prompts that differ in case or spaces alone belong together.
        """
        words = digest(json.dumps([alike(message["content"]) for message in row.messages]))
        copy = self._alike.setdefault(words, prompt)
        if copy != prompt:
            self._join(copy, prompt)
        whole = [*(alike(message["content"]) for message in row.messages), alike(row.response)]
        same = self._answered.setdefault(digest(json.dumps(whole)), prompt)
        if same != prompt:  # with other tools
            self._join(same, prompt)
        texts: list[str] = []
        for message in row.messages:
            texts.append(alike(message["content"]))
            if message["role"] == "assistant":
                self._beginnings.append((prompt, digest(json.dumps(texts))))

    def join(self) -> None:
        """Put the prompts together, once all rows are added; turns that no row ends join none."""
        for prompt, beginning in self._beginnings:
            if beginning in self._answered:
                self._join(prompt, self._answered[beginning])

    def of(self, prompt: bytes) -> bytes:
        """Name the conversation of a prompt."""
        parents = self._parents
        root = prompt
        while (parent := parents.get(root, root)) != root:
            root = parent
        while (parent := parents.get(prompt, root)) != root:
            parents[prompt], prompt = root, parent
        return root

    def _join(self, one: bytes, other: bytes) -> None:
        first, second = self.of(one), self.of(other)
        if first != second:
            self._parents[second] = first


def split_prompts(
    prompts: Sequence[bytes],
    *,
    held_out: float,
    rows: int | None,
    seed: int,
    conversation_of: Callable[[bytes], bytes] = lambda prompt: prompt,
) -> tuple[set[bytes], set[bytes]]:
    """Choose the prompts to train on and those held out, from the digest of each row's prompt.

    Prompts are put in the order of a digest of seed and prompt: the first are held out, the next
    are trained on. So nothing depends on the order of the rows, and a smaller `rows` gives a
    subset. `held_out` is a fraction of the distinct prompts below 1, and their number from 1 on.
    Prompts of one conversation stay on one side, so a few less may be held out. Where fewer than
    `rows` are left, all of them are trained on. Raises `UserError` if either side would be empty.
    """
    key = hashlib.sha256(repr(seed).encode()).digest()
    places = {prompt: hashlib.sha256(key + prompt).digest() for prompt in set(prompts)}
    names = {prompt: conversation_of(prompt) for prompt in places}
    firsts: dict[bytes, bytes] = {}
    for prompt, name in names.items():
        firsts[name] = min(firsts.get(name, places[prompt]), places[prompt])
    order = sorted(places, key=lambda prompt: (firsts[names[prompt]], places[prompt]))
    wanted = int(held_out) if held_out >= 1 else max(1, round(held_out * len(order)))
    if wanted >= len(order):
        raise UserError(
            f"data.held_out asks for {wanted} of {len(order)} distinct prompts; "
            "leave some for training"
        )
    groups = [list(group) for _, group in groupby(order, key=names.__getitem__)]
    out = _held_out(groups, wanted)
    train = [prompt for prompt in order if prompt not in out]
    if not train:
        raise UserError(
            f"all {len(order)} prompts belong to one conversation, so none can be held out: add "
            "rows of other conversations"
        )
    return set(train[:rows]), out


def _held_out(groups: Iterable[list[bytes]], wanted: int) -> set[bytes]:
    """Take the first conversations that fit into the number that is wanted; at least one."""
    out: set[bytes] = set()
    for group in groups:
        if len(out) + len(group) <= wanted:
            out.update(group)
    smallest: list[bytes] = min(groups, key=len)
    return out or set(smallest)

"""Special tokens that a row contains as text are marked, and encoded as plain text."""

import re
from typing import Any

__all__ = ["SpecialTokens"]

# Noncharacters of Unicode, which are not allowed in exchanged text.
_START, _END = "\ufdd0", "\ufdd1"


class SpecialTokens:
    r"""Keep a tokenizer's special tokens as text where a row contains them.

    A row may hold ``</s>`` or ``<|im_start|>`` as text. Its turns are marked before the chat
    template sees them; where `encode` finds a mark, the token between the marks becomes plain
    text, and what the template wrote itself stays a special token.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Tokenizer of the model.

    Attributes
    ----------
    ids : frozenset of int
        Ids of all special tokens.

    Notes
    -----
    transformers has the same since 5.20, under names that are not public and have changed since.
    Here it works the same way, token for token, on every version.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        # Not every tokenizer calls its end of text special where it lists what was added.
        named = tokenizer.all_special_tokens
        self._id_of = {
            token.content: index
            for index, token in added
            if token.special or token.content in named
        }
        self.ids = frozenset(self._id_of.values())
        longest_first = sorted(self._id_of, key=len, reverse=True)
        written = "|".join(map(re.escape, longest_first)) or "(?!)"  # (?!) matches nothing
        self._written = re.compile(written)
        # A template may cut text between two marks, so a mark can stand alone.
        self._marked = re.compile(f"{_START}({written}){_END}|[{_START}{_END}]")

    def marked(self, text: str) -> bool:
        """Say whether a text holds a mark.

        Parameters
        ----------
        text : str
            As `mark` leaves it, or as a template does.

        Returns
        -------
        bool
            Whether `encode` has anything to do.
        """
        return _START in text or _END in text

    def mark(self, text: str) -> str:
        """Put marks around every special token that is written out in a text.

        Parameters
        ----------
        text : str
            One turn of a row.

        Returns
        -------
        str
            The same text with marks.

        Raises
        ------
        ValueError
            If the text holds a mark already: it could pass for one of ours.
        """
        for mark in (_START, _END):
            if mark in text:
                raise ValueError(
                    f"the text holds U+{ord(mark):04X}, which is not a character; remove it"
                )
        return self._written.sub(rf"{_START}\g<0>{_END}", text)

    def encode(self, text: str) -> list[int]:
        """Encode a text, marked tokens as plain text, without the tokens around a whole text.

        Parameters
        ----------
        text : str
            A prompt or a conversation, with or without marks.

        Returns
        -------
        list of int
            Token ids.

        Raises
        ------
        ValueError
            If the tokenizer makes the special token of plain text too, so it cannot stay text.
        """
        # [text, marked token, text, ..., text]; None where a mark stood alone.
        first, *pieces = self._marked.split(text)
        ids: list[int] = self._tokenizer.encode(first, add_special_tokens=False)
        for number, piece in enumerate(pieces):
            if not piece:
                continue
            as_text = number % 2 == 0
            piece_ids = self._encode_within(piece, as_text=as_text)
            if as_text and self._id_of[piece] in piece_ids:
                raise ValueError(
                    f"the text holds the special token {piece!r}, and the tokenizer cannot "
                    "encode it as plain text; remove it"
                )
            ids += piece_ids
        return ids

    def _encode_within(self, piece: str, *, as_text: bool) -> list[int]:
        """Encode what stands within a text: some tokenizers put a space before its start."""
        encode = self._encode_as_text if as_text else self._encode_plainly
        newline_ids = self._encode_plainly("\n")
        ids = encode("\n" + piece)
        if ids[: len(newline_ids)] == newline_ids:
            return ids[len(newline_ids) :]
        return encode(piece)

    def _encode_plainly(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _encode_as_text(self, text: str) -> list[int]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:  # a tokenizer written in Python
            ids: list[int] = self._tokenizer.encode(
                text, add_special_tokens=False, split_special_tokens=True
            )
            return ids
        # The steps of the backend, without its first: the search for added tokens.
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        pieces = [text]
        if backend.pre_tokenizer is not None:
            pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for piece in pieces for token in backend.model.tokenize(piece)]

"""Text of a model or of a data set, shown so that it can do nothing but be read."""

import unicodedata
from itertools import groupby

__all__ = ["printable", "segments"]

_SHOWN = "\n\u200c\u200d"  # joiners are parts of words in Persian and Hindi, and of emoji
_HIDDEN_KINDS = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""Write out control characters, marks of direction and others that have no shape.

    A terminal would obey the former, and a mark that turns the direction of writing changes how
    what follows it looks. Line breaks, and the joiners that scripts need, stay.

    Examples
    --------
    >>> print(printable("red \x1b[31m, tab \t, turned \u202e, line\nbreak"))
    red \x1b[31m, tab \x09, turned \u202e, line
    break
    """
    return "".join(part for _, part in segments(text))


def segments(text: str) -> list[tuple[bool, str]]:
    r"""Cut a text into parts that are as they were, and parts that are written out (True).

    Examples
    --------
    >>> segments("a\\x00 \x00")
    [(False, 'a\\x00 '), (True, '\\x00')]
    """
    return [
        (hidden, "".join(map(_written_out, part) if hidden else part))
        for hidden, part in groupby(text, _is_hidden)
    ]


def _is_hidden(character: str) -> bool:
    return character not in _SHOWN and unicodedata.category(character) in _HIDDEN_KINDS


def _written_out(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

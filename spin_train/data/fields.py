"""The keys of a row: each is used, or its name is left at the end."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from spin_train.errors import UserError

__all__ = [
    "Fields",
    "Ignored",
    "MalformedError",
    "RowError",
    "cleaned",
    "is_empty",
    "refuse_deep",
    "truth_of",
    "weight_of",
]

_TRUTHS = {
    **dict.fromkeys((True, 1, "true", "1", "yes"), True),
    **dict.fromkeys((False, 0, -1, "false", "0", "-1", "no"), False),
}


_DEEPEST = 100  # lists and objects in each other; templates and Python recurse into them
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")


class MalformedError(Exception):
    """A problem with a row; the message does not say which row."""


class RowError(UserError):
    """A row that cannot be used; the message begins with its file and line."""


def is_empty(value: Any) -> bool:
    """Say whether a value holds nothing: null, nan, and empty text, lists and objects."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str | list | dict) and not value)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def refuse_deep(value: Any, name: str) -> None:
    """Raise `MalformedError` if lists and objects are nested so deeply that nobody reads them."""
    level = [value]
    for _ in range(_DEEPEST):
        found = [inner for outer in level for inner in _inside(outer)]
        level = [inner for inner in found if isinstance(inner, dict | list)]
        if not level:
            return
    raise MalformedError(
        f"{name} is nested more than {_DEEPEST} levels deep; remove the row, or that field"
    )


def cleaned(value: Any) -> Any:
    """Leave out, at any depth, the nulls with which Parquet fills the keys of other rows."""
    if isinstance(value, dict):
        return {key: cleaned(inner) for key, inner in value.items() if inner is not None}
    return [cleaned(inner) for inner in value] if isinstance(value, list) else value


def truth_of(value: Any) -> bool | None:
    """Read true or false, as JSON, CSV and people write them; None for anything else."""
    if isinstance(value, str):
        text = value.strip().lower()
        with suppress(ValueError):  # 0.0 is what CSV makes of 0 in a column with gaps
            return _TRUTHS.get(float(text))
        return _TRUTHS.get(text)
    return _TRUTHS.get(value) if isinstance(value, bool | int | float) else None


def weight_of(value: Any) -> float | None:
    """Read a weight: a finite number from 0 on, or true or false; None for anything else."""
    try:
        weight = float(value) if isinstance(value, bool | int | float | str) else math.nan
    except OverflowError:  # an integer beyond the largest float
        return None
    except ValueError:
        return None if truth_of(value) is None else float(truth_of(value) or 0.0)
    return weight if 0 <= weight < math.inf else None


class Ignored(Collection[str]):
    """Keys to read as if they were not there, which remembers those that a row had."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._met: set[str] = set()

    def __contains__(self, name: object) -> bool:
        found = name in self._names
        if found:
            self._met.add(str(name))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def in_vain(self) -> list[str]:
        """Those that no row had."""
        return [name for name in self._names if name not in self._met]


class Fields:
    """Keys and values of a row or a turn, and which of them were asked for.

    A key whose value is null or nan counts as absent, and so does one that the user ignores.
    """

    def __init__(
        self, raw: Mapping[Any, Any], *, path: str = "", ignore: Collection[str] = ()
    ) -> None:
        self._path = path
        self._values = {
            str(key): value
            for key, value in raw.items()
            if f"{path}{key}" not in ignore
            and value is not None
            and not (isinstance(value, float) and math.isnan(value))
        }
        self._taken: set[str] = set()

    def refuse_deep(self) -> None:
        """Raise `MalformedError` where a value is nested too deeply."""
        for name, value in self._values.items():
            refuse_deep(value, f"{self._path}{name}")

    @property
    def names(self) -> list[str]:
        """Keys that are there, taken or not."""
        return list(self._values)

    def take(self, *names: str) -> Any:
        """Use the value of the first of these keys that holds something; None without any."""
        for name in names:
            if not is_empty(self._values.get(name)):
                self._taken.add(name)
                return self._values[name]
        present = [name for name in names if name in self._values]
        self._taken.update(present)
        return self._values[present[0]] if present else None

    def hold(self, names: Iterable[str]) -> bool:
        """Say whether each of these keys holds something."""
        return not any(is_empty(self._values.get(name)) for name in names)

    def peek(self, name: str) -> Any:
        """Look at a value without using it."""
        return self._values.get(name)

    def refuse_media(self) -> None:
        """Raise `MalformedError` where anything but text comes along."""
        for name in _MEDIA:
            if not is_empty(self._values.get(name)):
                raise MalformedError(
                    f"{self._path}{name}: only text is trained on; remove the row, or leave the "
                    f"key out with data.ignore=['{self._path}{name}']"
                )

    @property
    def left(self) -> dict[str, Any]:
        """Keys that hold something and were not taken, with their values."""
        return {
            name: value
            for name, value in self._values.items()
            if name not in self._taken and not is_empty(value)
        }

    def path_of(self, name: str) -> str:
        """Name of a key as users read it, such as ``messages[].name``."""
        return f"{self._path}{name}"

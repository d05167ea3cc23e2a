"""Configurations as given: YAML files, presets and ``key=value`` overrides."""

import difflib
import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from spin_train.config.paths import expanded
from spin_train.config.schema import Config
from spin_train.config.yaml12 import read_yaml
from spin_train.errors import UserError

__all__ = [
    "allowed_values",
    "known_keys",
    "load_config",
    "override",
    "parse_config",
    "presets",
    "section_of",
]

# YAML 1.1 took these for two values of which YAML 1.2 has only the last.
_WORDS = {
    **dict.fromkeys(("yes", "on", "y"), "true"),
    **dict.fromkeys(("no", "off", "n"), "false"),
}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file or a preset and apply ``key=value`` overrides.

    Parameters
    ----------
    path : str or Path
        YAML 1.2 file with the keys of `Config`, or the name of one of `presets`.
    overrides : iterable of str, optional
        Such as ``training.batch_size=8``; the value is YAML.

    Returns
    -------
    Config
        The checked configuration.

    Raises
    ------
    UserError
        If the file is missing or not valid YAML, or a key is unknown, given twice, of the wrong
        type, or contradicts another; the message names the key.
    """
    try:
        path = Path(expanded(str(path)))
    except ValueError as error:
        raise UserError(f"config file {path}: {error}") from None
    source = str(path)
    if not path.is_file() and source in presets():
        path, source = presets()[source], f"preset {source}"
    if (path / "config.yaml").is_file():
        raise UserError(f"no config file at {path}: it is a directory; give {path / 'config.yaml'}")
    if not path.is_file():
        names = ", ".join(presets())
        raise UserError(f"no config file at {path}; give a YAML file, or a preset ({names})")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold key: value lines, got {type(content).__name__}")
    overrides = list(overrides)
    override(content, overrides)
    overridden = [text.partition("=")[0] for text in overrides]
    return parse_config(content, source=source, overridden=overridden)


def presets() -> dict[str, Path]:
    """List the configurations that come with the package.

    Returns
    -------
    dict
        Name to YAML file; each file begins with what it follows.
    """
    folder = Path(str(importlib.resources.files("spin_train.config"))) / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def parse_config(
    content: dict[str, Any], *, source: str = "config", overridden: Iterable[str] = ()
) -> Config:
    """Check a mapping against the schema.

    Parameters
    ----------
    content : dict
        Nested keys and values, as read from YAML.
    source : str, optional
        Where it came from, for messages.
    overridden : iterable of str, optional
        Keys that did not come from there; messages about them do not name it.

    Returns
    -------
    Config
        The checked configuration.

    Raises
    ------
    UserError
        If a key is unknown, of the wrong type or contradicts another.
    """
    if "alpha" in content:
        key = "alpha"
        line = "no key alpha: T-SPIN's alpha is beta here, its beta is history_weight"
    else:
        try:
            config = Config.model_validate(content)
        except ValidationError as error:
            key, line = _first_problem(error)
        else:
            key, line = _word_for_a_bool(config)
            if not key:
                return config
    near = (f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in overridden)
    raise UserError(line if any(near) else f"{source}: {line}")


def known_keys(section: type[BaseModel] = Config, prefix: str = "") -> dict[str, FieldInfo]:
    """List all keys, sections included.

    Parameters
    ----------
    section : type, default Config
        Where to begin.
    prefix : str, optional
        What stands before its keys.

    Returns
    -------
    dict
        Dotted key to its field, in the order of the schema.

    Examples
    --------
    >>> [key for key in known_keys() if key.startswith("sft.")]
    ['sft.epochs', 'sft.learning_rate']
    """
    keys = {}
    for name, field in section.model_fields.items():
        keys[f"{prefix}{name}"] = field
        inner = section_of(field)
        if inner is not None:
            keys |= known_keys(inner, f"{prefix}{name}.")
    return keys


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Say which section a key opens.

    Parameters
    ----------
    field : FieldInfo
        Of `known_keys`.

    Returns
    -------
    type or None
        None for a key that takes a value.
    """
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    sections = (k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return next(sections, None)


def override(content: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put ``key=value`` overrides into a mapping, in place.

    Parameters
    ----------
    content : dict
        Nested keys and values, as read from YAML.
    overrides : iterable of str
        Such as ``training.batch_size=8``; the value is YAML.

    Raises
    ------
    UserError
        If one is not key=value, or its value is not valid YAML.

    Examples
    --------
    >>> content = {"beta": 0.1}
    >>> override(content, ["beta=5.0", "training.batch_size=8"])
    >>> content
    {'beta': 5.0, 'training': {'batch_size': 8}}
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"override {text!r} is not key=value")
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        try:
            section[last] = read_yaml(value)
        except UserError as error:
            raise UserError(f"override {text!r}: {error}") from None


def _first_problem(error: ValidationError) -> tuple[str, str]:
    """Key and line of the most telling problem in pydantic's report."""
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            key = ".".join(map(str, problem["loc"]))
            near = difflib.get_close_matches(key, known_keys(), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            return key, f"unknown key {key}; {hint}`spin-train keys` lists all keys"
    keys = [_key_of(problem["loc"]) for problem in problems]
    key = keys[0]
    # A union reports each of its branches; the one that got furthest tells most.
    same = [problem for problem, its in zip(problems, keys, strict=True) if its == key]
    first = max(same, key=lambda problem: len(problem["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return key, f"key {key} is missing: give {_example(key)}"
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    if first["type"] in ("bool_parsing", "bool_type"):
        got += "; write true or false"
    if first["type"] == "string_type" and not isinstance(first["input"], list | dict | None):
        got += "; put text that looks like a number or a date in quotes"
    if first["type"] == "model_type":
        return key, f"{key} is a section; set its keys, such as {_example(key)}{got}"
    if not key:  # a contradiction: it begins with the key
        return message.split()[0].rstrip(":"), f"{message}{got}"
    return key, f"{key}: {message}{got}"


def _word_for_a_bool(config: Config) -> tuple[str, str]:
    """Key and line of a TrainingArguments key that was given ``no`` for false; empty if none was.

    A key of the schema with two values takes such words itself. TrainingArguments would take the
    text "no" as true.
    """
    for name, value in (config.training.model_extra or {}).items():
        word = value.lower() if isinstance(value, str) else ""
        if word in _WORDS and not (word == "no" and name.endswith("_strategy")):
            key = f"training.{name}"
            return key, f"{key}: write {_WORDS[word]}; {value} is text in YAML 1.2"
    return "", ""


def allowed_values(kind: Any) -> str:
    """List the values that a type of the schema enumerates, as `spin-train keys` shows them.

    Parameters
    ----------
    kind : type
        Annotation of a key.

    Returns
    -------
    str
        A space and the values in brackets; empty if it enumerates none.
    """
    for branch in (kind, *get_args(kind)):
        if get_origin(branch) is Literal:
            return f" ({', '.join(map(str, get_args(branch)))})"
    return ""


def _example(key: str) -> str:
    """Say how a key is given on the command line; of a section, its first required key."""
    section = section_of(known_keys()[key])
    if section is None:
        return f"{key}=..."
    fields = section.model_fields
    return f"{key}.{min(fields, key=lambda name: not fields[name].is_required())}=..."


def _key_of(location: tuple[str | int, ...]) -> str:
    """Drop what pydantic puts behind a key: the branch of a union, the index in a list."""
    known = known_keys()
    while location and ".".join(map(str, location)) not in known:
        location = location[:-1]
    return ".".join(map(str, location))

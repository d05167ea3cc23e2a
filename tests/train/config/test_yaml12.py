from contextlib import suppress

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spin_train.config.files import load_config, parse_config, presets
from spin_train.config.yaml12 import read_yaml, yaml_text
from spin_train.errors import UserError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
# What a configuration holds: sections of keys, schedules, texts.
CONTENTS = st.dictionaries(
    st.from_regex(r"[a-z_]{1,10}", fullmatch=True),
    st.recursive(
        SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=4
    ),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("yes", "no", "on", "off", "y", "n", "Yes", "NO")],
        *[("true", True), ("False", False), ("null", None), ("~", None), ("", None)],
        *[("010", 10), ("0o10", 8), ("1e-8", 1e-8), ("1e5", 1e5), ("-.inf", float("-inf"))],
        *[("1:30", "1:30"), ("'010'", "010"), ("[1, 2.0]", [1, 2.0])],
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


@example(content={"template": "yes"})
@example(content={"model": "1e5", "revision": "010"})
@example(content={"template": " ### {prompt}\n\n: # - "})
@example(content={"learning_rate": 5e-7, "largest": 1e300})
@example(content={"b": "one\x85two\u2028three", "a": 1})
@given(content=CONTENTS)
def test_what_is_written_is_read_back(content):
    text = yaml_text(content)
    assert read_yaml(text) == content
    assert list(read_yaml(text)) == list(content)


@pytest.mark.parametrize("name", presets())
def test_a_resolved_configuration_is_read_back(name):
    config = load_config(name, ["model=m", "output_dir=out", "data.path=rows.jsonl"])
    assert parse_config(read_yaml(yaml_text(config.model_dump()))) == config


@example(number=5e-7)
@given(number=st.floats(allow_nan=False))
def test_readers_of_yaml_1_1_take_a_float_for_one(number):
    assert yaml.safe_load(yaml_text({"a": number}))["a"] == number


def texts_in(content):
    """Texts of a content, keys too."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | dict):
        inner = [*content, *content.values()] if isinstance(content, dict) else content
        for part in inner:
            yield from texts_in(part)


@example(content={"template": "yes", "split": "no", "revision": "v0o7"})
@example(content={"beta": [0.1, 1e-5, 5e-07], "rows": None, "model": "null", "path": "010"})
@given(content=CONTENTS)
def test_configurations_saved_by_pyyaml_are_read_as_they_were(content):
    # PyYAML leaves a few texts bare that are numbers in YAML 1.2, such as 1e5, 0o17, 08 and -.5. A
    # revision or subset of such a form is refused with the advice to put it in quotes. What ends a
    # line in YAML 1.1 alone (U+0085, U+2028, U+2029) is read as a space.
    texts = list(texts_in(content))
    assume(not any(text[:1] in tuple("+-.0123456789") for text in texts))
    assume(not any(set(text) & set("\x85\u2028\u2029") for text in texts))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    assert read_yaml(text) == content


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: {c: 1, d: 2, c: 3}", "key 'c' is given twice (line 2); keep one"),
        ("a: 1\n\nb: 2\na: 3", "key 'a' is given twice (line 4); keep one"),
        ("a: 1\nb: 'x", "not valid YAML: found unexpected end of stream (line 2)"),
        ("a: 1\n\tb: 2", "not valid YAML: "),
        ("a: 2026-02-31", "not valid YAML: day is out of range for month"),
        ("a: !!int", "not valid YAML: string index out of range"),
        ("--- a\n--- b", "not valid YAML: but found another document (line 2)"),
    ],
)
def test_what_is_wrong_is_said_on_one_line_with_its_place(text, line):
    with pytest.raises(UserError) as caught:
        read_yaml(text)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


PIECES = [*":-,[]{}&*!|>'\"%@`#?=<~\n \t019_.eE+ax", "!!int", "!!set ", "<<: ", "2026-02-31", "---"]


@example(text="!!int")
@example(text="&a [*a]")
@example(text="[" * 600)
@given(text=st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | TEXTS)
def test_no_text_ends_in_another_exception(text):
    with suppress(UserError):
        read_yaml(text)

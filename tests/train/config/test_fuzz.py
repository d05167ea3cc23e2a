"""Whatever stands in a file of configuration, the answer is a Config or one line for the user."""

import copy
import math

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from spin_train.config.files import known_keys, load_config, override, parse_config, presets
from spin_train.config.schema import Config
from spin_train.errors import UserError

KEYS = sorted(known_keys())
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", "null", "~", "1e-5", "-1", "nan", ".inf", "0x10", "yes", "$HOME", "${", "{prompt}", "\x00"]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 1e-320, 2**70, 10**400])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
LEAST = {
    "model": "m",
    "data": {"path": "rows.jsonl"},
    "output_dir": "out",
    "learning_rate": 1e-6,
}
STARTS = [LEAST, *(yaml.safe_load(path.read_text()) for path in presets().values())]


def one_line(error):
    text = str(error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 2000


def put(content, key, value):
    """Set a nested key, through whatever stands on its way."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(content.get(section), dict):
            content[section] = {}
        content = content[section]
    content[name] = value


@given(
    start=st.sampled_from(STARTS),
    changes=st.lists(st.tuples(st.sampled_from(KEYS) | TEXTS, VALUES), max_size=4),
)
@example(start=LEAST, changes=[("beta", [])])
def test_a_mapping_is_a_config_or_one_line(start, changes):
    content = copy.deepcopy(start)
    for key, value in changes:
        put(content, key, value)
    try:
        config = parse_config(content)
    except UserError as error:
        one_line(error)
        return
    # What was accepted can be written down and read back.
    again = parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config
    for k in range(min(config.iterations, 3)):
        assert math.isfinite(config.at("beta", k))


@example(assignments=["data.held_out=.inf"]).via("infinity has no integer")
@example(assignments=["a\nb=1"]).via("a key of two lines made a message of two")
@given(assignments=st.lists(st.builds("{}={}".format, st.sampled_from(KEYS) | TEXTS, TEXTS)))
def test_overrides_are_a_config_or_one_line(assignments):
    content = copy.deepcopy(LEAST)
    try:
        override(content, assignments)
        assert isinstance(parse_config(content), Config)
    except UserError as error:
        one_line(error)


@given(content=st.binary(max_size=60) | TEXTS.map(str.encode) | VALUES.map(repr).map(str.encode))
def test_any_file_is_a_config_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(load_config(path), Config)
    except UserError as error:
        one_line(error)

"""YAML 1.2 as configurations are read and written: by ruamel.yaml, a repeated key refused.

PyYAML reads YAML 1.1, where ``no`` is false, ``010`` is eight and ``1e-8`` is text, and keeps the
last of two equal keys silently. Here ``no`` is text, ``010`` ten and ``1e-8`` a number.
"""

import io
import re
from typing import TYPE_CHECKING, Any

from spin_train.errors import UserError, one_line

if TYPE_CHECKING:
    from ruamel.yaml import YAML

__all__ = ["read_yaml", "yaml_text"]

_REPEATED = re.compile(r'found duplicate key "(.*)" with value', re.DOTALL)


def read_yaml(text: str) -> Any:
    """Read YAML 1.2.

    Parameters
    ----------
    text : str
        One document.

    Returns
    -------
    object
        Dicts, lists and scalars.

    Raises
    ------
    UserError
        If it is not valid YAML, or a mapping has a key twice; the message names the line.

    Examples
    --------
    >>> read_yaml("{a: no, b: 010, c: 1e-8, d: true, e: null}")
    {'a': 'no', 'b': 10, 'c': 1e-08, 'd': True, 'e': None}
    """
    from ruamel.yaml.error import MarkedYAMLError

    try:
        return _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f" (line {mark.line + 1})"
        repeated = _REPEATED.match(error.problem or "")
        if repeated:
            raise UserError(f"key {repeated[1]!r} is given twice{place}; keep one") from None
        problem = one_line(error.problem or error.context or "cannot be read")
        raise UserError(f"not valid YAML: {problem}{place}") from None
    except Exception as error:  # what a constructor refuses, such as the date 2026-02-31
        raise UserError(f"not valid YAML: {one_line(error)}") from None


def yaml_text(content: dict[str, Any]) -> str:
    """Write YAML 1.2, keys in their order, floats so that YAML 1.1 takes them for floats too.

    Parameters
    ----------
    content : dict
        Nested dicts, lists and scalars.

    Returns
    -------
    str
        One document.

    Examples
    --------
    >>> print(yaml_text({"learning_rate": 5e-7, "beta": [0.1, 1.0], "sft": None}), end="")
    learning_rate: 5.0e-07
    beta:
    - 0.1
    - 1.0
    sft: null
    """
    stream = io.StringIO()
    _yaml().dump(content, stream)
    return stream.getvalue()


def _yaml() -> "YAML":
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        """Writes 5.0e-07, a number in YAML 1.1 too, and puts text of several lines in quotes."""

        def represent_float(self, data: float) -> Any:
            node = super().represent_float(data)
            if "." not in node.value:
                node.value = node.value.replace("e", ".0e")
            return node

        def represent_str(self, data: str) -> Any:
            # Folded over lines, some line ends of Unicode would be read as spaces.
            style = None if data.isprintable() else '"'
            return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    Representer.add_representer(float, Representer.represent_float)
    Representer.add_representer(str, Representer.represent_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 1000
    return yaml

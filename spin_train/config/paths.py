"""Paths as shell users write them: `~` and variables, in every key that holds a path."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Located", "expanded"]

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expanded(path: str) -> str:
    """Put the home directory for ``~`` and the values of variables into a path.

    Parameters
    ----------
    path : str
        Path as given; a name of the hub passes through.

    Returns
    -------
    str
        The path as a shell would take it.

    Raises
    ------
    ValueError
        If a variable is not set, there is no home directory, or the path holds a zero byte. A file
        whose own name holds a dollar sign is taken as it is.

    Examples
    --------
    >>> os.environ["SCRATCH"] = "/scratch/me"
    >>> expanded("$SCRATCH/runs"), expanded("org/model")
    ('/scratch/me/runs', 'org/model')
    """
    if "\0" in path:
        raise ValueError("a path cannot hold a zero byte")
    if "$" in path and not Path(path).exists():
        unset = [name for name in _VARIABLE.findall(path) if name.strip("{}") not in os.environ]
        if unset:
            raise ValueError(f"the variable {unset[0].strip('{}')} is not set")
        path = os.path.expandvars(path)
    if path.startswith("~"):
        opened = os.path.expanduser(path)
        if opened == path:
            name = path.partition("/")[0]
            raise ValueError(
                f"there is no home directory {name}; if that is a name, write ./{name}"
            )
        return opened
    return path


Located = Annotated[str, AfterValidator(expanded)]
"""A path, or a name on the hub, with ``~`` and variables replaced."""

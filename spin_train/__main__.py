"""`python -m spin_train` is `spin-train`."""

import os
import sys
from typing import NoReturn

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# `python -m` puts the working directory first, where a file datasets.py would replace a package.
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != _ROOT:
    del sys.path[0]

from spin_train.errors import UserError  # noqa: E402
from spin_train.system.shadows import shadow_of  # noqa: E402
from spin_train.system.surroundings import home_variables, open_streams  # noqa: E402

__all__ = ["main"]


def main() -> None:
    """Run the command line, or name the extra to install."""
    open_streams()
    try:
        os.environ.update(home_variables())
        _run()
    except UserError as error:
        _leave(str(error))
    except Exception as error:
        if line := shadow_of(error):
            _leave(line)
        raise


def _run() -> None:
    try:
        from spin_train.cli import main as run
    except ModuleNotFoundError as error:
        if shadow_of(error) or str(error.name).startswith(("spin_train", "spin_theory")):
            raise
        _leave(f"{error.name} is not installed: pip install 'spin-toolkit[train]'")
    run()


def _leave(line: str) -> NoReturn:
    print(f"spin-train: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

"""`python -m spin_train` is `spin-train`."""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# `python -m` puts the working directory first, where a file datasets.py would replace a package.
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != _ROOT:
    del sys.path[0]

from spin_train.errors import UserError  # noqa: E402
from spin_train.system.surroundings import home_variables, open_streams  # noqa: E402

__all__ = ["main"]


def main() -> None:
    """Run the command line, or name the extra to install."""
    open_streams()
    try:
        os.environ.update(home_variables())
        from spin_train.cli import main as run
    except UserError as error:
        print(f"spin-train: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if str(error.name).startswith(("spin_train", "spin_theory")):
            raise
        line = f"{error.name} is not installed: pip install 'spin-toolkit[train]'"
        print(f"spin-train: {line}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()

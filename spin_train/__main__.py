"""`python -m spin_train` is `spin-train`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or name the extra to install."""
    try:
        from spin_train.cli import main as run
    except ModuleNotFoundError as error:
        if str(error.name).startswith(("spin_train", "spin_theory")):
            raise
        line = f"{error.name} is not installed: pip install 'spin-toolkit[train]'"
        print(f"spin-train: {line}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()

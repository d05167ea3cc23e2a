"""A damaged run directory: every command works, or says in one line what is wrong."""

import sys

import pytest

from spin_train.cli import main
from spin_train.driver import local_workers
from tests.train.runs import make_config, succeed

pytestmark = [pytest.mark.process, pytest.mark.slow]

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "noise": lambda content: bytes(range(250, 150, -1)),
    "null": lambda content: b"null",
    "list": lambda content: b"[]",
    "object": lambda content: b"{}",
}
SUFFIXES = (".json", ".jsonl", ".yaml", ".parquet")


class WorkersError(Exception):
    """The driver found nothing wrong, and would have started workers."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    succeed("run", make_config(folder, iterations=1, control=True))
    return folder / "run"


def answer(capsys, arguments):
    """Exit code of a command, and what it said; its workers do not start."""
    sys.argv = ["spin-train", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return end.code, capsys.readouterr().err
    except WorkersError:
        pass
    return 0, capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_works_or_refuses_in_one_line(finished, monkeypatch, capsys, damage):
    def launch(*_, **__):
        raise WorkersError

    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(local_workers, "launch_workers", launch)
    files = [path for path in sorted(finished.rglob("*")) if path.suffix in SUFFIXES]
    assert len(files) > 20
    refused = 0
    for path in files:
        content = path.read_bytes()
        path.write_bytes(DAMAGES[damage](content))
        try:
            commands = [("status", finished), ("samples", finished)]
            for command in [*commands, ("run", finished / "config.yaml")]:
                code, said = answer(capsys, command)
                assert code in (0, 2), (path, command, said)
                assert "Traceback" not in said
                refused += code == 2
        finally:
            path.write_bytes(content)
    assert refused > 0

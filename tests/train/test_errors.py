import errno
import json
import subprocess
import sys

import pytest

from spin_train.errors import UserError, disk_full


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_disk_that_takes_no_more_is_told_by_its_number(number):
    assert disk_full(OSError(number, "whatever the language says"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "no file"), OSError(errno.EACCES, "no"), RuntimeError("no")]
)
def test_another_error_is_no_full_disk(error):
    assert not disk_full(error)


def chained(*, explicit):
    """A full disk behind two errors that do not say so."""
    try:
        try:
            try:
                raise OSError(errno.ENOSPC, "full")
            except OSError as error:
                if explicit:
                    raise RuntimeError("no checkpoint") from error
                raise RuntimeError("no checkpoint")  # noqa: B904 -- an implicit chain is meant
        except RuntimeError:
            raise UserError("no policy")  # noqa: B904
    except UserError as error:
        return error


@pytest.mark.parametrize("explicit", [True, False])
def test_a_full_disk_is_found_behind_the_errors_it_caused(explicit):
    assert disk_full(chained(explicit=explicit))


# What the writers of a run really raise when a file may not grow, one after the other.
WRITERS = """
import json, pathlib, resource, sys
import pyarrow, pyarrow.parquet, tokenizers, torch, safetensors.torch
from spin_train.system.files import write_json
from spin_train.errors import disk_full
from spin_train.data.records import Record, write_records

folder = pathlib.Path(sys.argv[1])
weights = {"weight": torch.rand(100_000)}
vocabulary = {f"token{index}": index for index in range(20_000)}
tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="token0"))
generator = torch.Generator().manual_seed(0)
ids = torch.randint(2**31 - 1, (100_000,), generator=generator).tolist()

def legacy(path):
    torch.save(weights, path, _use_new_zipfile_serialization=False)

writers = {
    "json": lambda path: write_json(path, ids),
    "records": lambda path: write_records(path, [Record(0, ids, [])]),
    "safetensors": lambda path: safetensors.torch.save_file(weights, path),
    "torch": lambda path: torch.save(weights, path),
    "torch_legacy": legacy,
    "tokenizer": lambda path: tokenizer.save(str(path)),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
told = {}
for name, write in writers.items():
    try:
        write(folder / name)
        told[name] = "wrote everything"
    except Exception as error:
        told[name] = disk_full(error) or f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limited")
    ran = subprocess.run(
        [sys.executable, "-c", WRITERS, str(folder)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), folder


@pytest.mark.process
@pytest.mark.parametrize(
    "writer", ["json", "records", "safetensors", "torch", "torch_legacy", "tokenizer"]
)
def test_what_writers_raise_at_a_file_size_limit_is_known_as_a_full_disk(told, writer):
    assert told[0][writer] is True


@pytest.mark.process
def test_a_record_file_that_could_not_grow_leaves_nothing(told):
    left = {path.name for path in told[1].iterdir()}
    assert not any(name.startswith(("json", "records")) for name in left)


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("a\nb", "a b"),
        ("a\r\nb\x0bc", "a b c"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202eleft", r"\u202eleft"),
        ("\x00", r"\x00"),
        ("é 漢 🙂 \ud800", "é 漢 🙂 \\ud800"),
    ],
)
def test_a_message_is_one_line_that_no_terminal_obeys(quoted, shown):
    assert str(UserError(f"key {quoted}: no")) == f"key {shown}: no"

"""Open a data file, compressed or not; the bytes at its beginning say which, not its name."""

import gzip
import io
import lzma
from pathlib import Path
from typing import IO, Any, cast

from spin_train.errors import UserError

__all__ = ["open_bytes", "open_text", "plain_suffix"]

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_PACKED = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x04\x22\x4d\x18": "LZ4",
    b"Rar!": "a RAR archive",
}
_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def plain_suffix(path: Path) -> str:
    """Suffix that says what rows look like, in lower case.

    >>> plain_suffix(Path("rows.JSON.gz")), plain_suffix(Path("rows.csv"))
    ('.json', '.csv')
    """
    name = path.name.lower()
    inner = name.rpartition(".")[0] if name.endswith(_SUFFIXES) else name
    return Path(inner).suffix


def open_bytes(path: Path) -> IO[bytes]:
    """Open the content of a file that may be compressed by gzip, bzip2, xz or zstd.

    UserError for an archive, which may hold several files. A stream that is cut short or damaged,
    or followed by what is no stream, raises OSError, EOFError or LZMAError when it is read.
    """
    with path.open("rb") as file:
        first = file.read(8)
    for magic, what in _PACKED.items():
        if first.startswith(magic):
            raise UserError(f"{path} is {what}: unpack it, and give data.path what was in it")
    kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), "")
    if kind == "gzip":
        return cast(IO[bytes], gzip.open(path))
    if kind == "xz":
        return io.BufferedReader(_XzStreams(path))
    if kind:  # Python's bz2 silently passes over what follows a stream; Arrow does not
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(str(path), kind.replace("zip", "z")))
    return path.open("rb")


def open_text(path: Path, *, newline: str | None = None) -> IO[str]:
    """Open a file as `open_bytes` does, as UTF-8 text without a byte-order mark."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline=newline)


class _XzStreams(io.RawIOBase):
    """The content of an xz file; Python's lzma silently passes over what follows a stream."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            compressed = b""
            if self._stream.eof:
                compressed = self._stream.unused_data.lstrip(b"\0")  # zeros may pad a stream
                while not compressed:
                    if not (read := self._file.read(io.DEFAULT_BUFFER_SIZE)):
                        return 0
                    compressed = read.lstrip(b"\0")
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            elif self._stream.needs_input and not (
                compressed := self._file.read(io.DEFAULT_BUFFER_SIZE)
            ):
                raise EOFError("the file ends within a compressed stream")
            content = self._stream.decompress(compressed, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()

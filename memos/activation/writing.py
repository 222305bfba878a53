"""Bytes to the disk, and their SHA-256: a digest for audits, since it would slow every load down several times."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memos.activation.miss import KVMiss

#: Bytes written at a time: a good deal faster than more at once, and than less.
_CHUNK = 1 << 20


def write_out(handle: int, pieces: Sequence[memoryview]) -> str:
    """Write pieces one after the other, wait until they are on the disk, and return the hex SHA-256 of them all."""
    with ThreadPoolExecutor(1, "memos-kv-digest") as pool:
        digest = pool.submit(_sha256, pieces)
        write_pieces(handle, pieces)
        return digest.result()


def write_pieces(handle: int, pieces: Sequence[memoryview]) -> None:
    """Write pieces one after the other, and wait until they are on the disk."""
    for piece in pieces:
        for start in range(0, piece.nbytes, _CHUNK):
            write_all(handle, piece[start : start + _CHUNK])
    os.fsync(handle)


def write_all(handle: int, data: memoryview) -> None:
    """Write bytes, however many calls it takes."""
    while data:
        data = data[os.write(handle, data) :]


def _sha256(pieces: Sequence[memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Return the hex SHA-256 of a file. Raises :class:`KVMiss` (``io``)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KVMiss("io", f"it cannot be read: {error.strerror}") from error

"""A KV file that was opened, checked and found to be the one that was asked for; its layers are still to be read."""

from __future__ import annotations

import io
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from memos.activation.buffers import PAGE, Bytes, scratch
from memos.activation.codecs.base import Array
from memos.activation.container import KVHeader, from_metadata, shape_of
from memos.activation.kv import KVShape
from memos.activation.layout import MAX_HEADER, TOKEN_IDS, Tensor, check_seal, parse_table
from memos.activation.miss import KVMiss

#: Bytes read at a time; they are hashed while they are still in the processor's cache.
CHUNK = 1 << 20
_LAYER = re.compile(r"layer\.([0-9]{3,5})\.(.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file has to be: made by this model, from these note versions, and its tokens the first of these."""

    fingerprint: str
    shape: KVShape
    sources: tuple[tuple[str, int], ...]
    token_ids: Sequence[int]

    def check(self, header: KVHeader) -> None:
        """Raise :class:`KVMiss` unless a header is as expected."""
        if header.fingerprint != self.fingerprint or header.shape != self.shape or header.first_position:
            raise KVMiss("fingerprint", "it was made by another model, or for another place")
        if header.sources != self.sources:
            raise KVMiss("sources", "it was made from other versions of the memories")
        if not header.tokens or header.token_ids != tuple(self.token_ids[: header.tokens]):
            raise KVMiss("tokens", "it is the cache of other tokens")


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file: its header, the arrays all layers share, and where each layer's tensors lie.

    ``bytes`` is the file's size, ``lookup_ms`` what opening and checking took. The file stays readable when its name is
    removed or given to another. Close it, or hand it to :func:`memos.activation.loader.load`, which does.
    """

    header: KVHeader
    shared: Mapping[str, Array]
    layers: Sequence[Sequence[Tensor]]
    bytes: int
    lookup_ms: float
    file: io.FileIO

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_file(path: Path, key: str, secret: bytes) -> Opened:
    """Open a file and check all but its layers. Raises :class:`KVMiss`."""
    start = time.perf_counter()
    file = _open(path)
    try:
        metadata, tensors, size = _read_table(file, secret)
        if metadata.get("key") != key:
            raise KVMiss("key", "it was sealed under another key")
        front, layers = _grouped(tensors, metadata)
        arrays = read_arrays(file, front)
        token_ids = arrays.pop(TOKEN_IDS, None)
        if token_ids is None or token_ids.dtype != np.int32 or token_ids.ndim != 1:
            raise KVMiss("format", "the file has no token ids")
        header = from_metadata(metadata, tuple(token_ids.tolist()))
        shared = {name.removeprefix("shared."): array for name, array in arrays.items()}
        return Opened(header, shared, layers, size, (time.perf_counter() - start) * 1e3, file)
    except BaseException:
        file.close()
        raise


def _open(path: Path) -> io.FileIO:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would block
    try:
        file = io.FileIO(os.open(path, flags))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    except FileNotFoundError as error:
        raise KVMiss("absent", "there is no such file") from error
    except OSError as error:  # FileIO itself refuses folders
        raise KVMiss("io", f"it cannot be opened: {error.strerror}") from error
    raise KVMiss("io", "it is not a file")


def _read_table(file: io.FileIO, secret: bytes) -> tuple[dict[str, str], list[Tensor], int]:
    try:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(os.pread(file.fileno(), 8, 0), "little")
        if length > MAX_HEADER:
            raise KVMiss("format", f"a header of {length} bytes")
        if size < 8 + length or size < 8:
            raise KVMiss("truncated", f"{size} bytes, less than its header")
        table = os.pread(file.fileno(), length, 8)
    except OSError as error:
        raise KVMiss("io", f"it cannot be read: {error.strerror}") from error
    if len(table) != length:
        raise KVMiss("truncated", "it ends within its header")
    check_seal(table, secret)
    return *parse_table(table, size), size


def _grouped(tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return what comes before the layers, and the layers; padding belongs to what it follows."""
    try:
        groups: list[list[Tensor]] = [[] for _ in range(shape_of(metadata).layers + 1)]
    except KeyError as error:
        raise KVMiss("format", f"the header has no {error}") from error
    current = 0
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        group = int(match[1]) + 1 if match else current if is_padding(tensor) else 0
        if not current <= group < len(groups):
            raise KVMiss("format", f"{tensor.name} is not where it belongs")
        groups[group].append(tensor)
        current = group
    return groups[0], groups[1:]


def is_padding(tensor: Tensor) -> bool:
    """Whether a tensor only fills a gap."""
    return tensor.name.startswith("pad.")


# ------------------------------------------------------------ reading what was opened


def read_arrays(file: io.FileIO, tensors: Sequence[Tensor], room: Bytes | None = None) -> dict[str, Array]:
    """Read neighbouring tensors and return them, verified, by name. Raises :class:`KVMiss`.

    They are views of ``room`` (:func:`room_for` says how much), or of memory of their own.
    """
    room = room_for(tensors) if room is None else room
    arrays: dict[str, Array] = {}
    at = 0
    for tensor in tensors:
        target = room[at : at + tensor.size]
        read_tensor(file, tensor, target)
        if not is_padding(tensor):
            arrays[tensor.name] = target.view(tensor.dtype).reshape(tensor.shape)
        at += tensor.size
    return arrays


def room_for(*groups: Sequence[Tensor]) -> Bytes:
    """Return memory for the largest of some groups of neighbouring tensors."""
    size = max((sum(tensor.size for tensor in group) for group in groups), default=0)
    phase = next((group[0].start for group in groups if group), 0)
    return scratch(size, phase % PAGE)


def read_tensor(file: io.FileIO, tensor: Tensor, target: Bytes) -> None:
    """Read a tensor into ``target``, of its size, and compare its checksum. Raises :class:`KVMiss`."""
    view = target.data
    digest = xxhash.xxh3_128()
    done = 0
    try:
        while done < tensor.size:
            got = os.preadv(file.fileno(), [view[done : min(done + CHUNK, tensor.size)]], tensor.start + done)
            if not got:
                raise KVMiss("truncated", f"it ends within {tensor.name}")
            digest.update(view[done : done + got])
            done += got
    except OSError as error:
        raise KVMiss("io", f"{tensor.name} cannot be read: {error.strerror}") from error
    if digest.hexdigest() != tensor.xxh3:
        raise KVMiss("checksum", f"{tensor.name} is not what was written")


def short_name(tensor: Tensor) -> str:
    """Return the name that a codec gave an array of a layer."""
    return tensor.name.split(".", 2)[2]

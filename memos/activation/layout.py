"""How a KV file lies on the disk: safetensors, its header sealed.

    8 bytes    length of the header, little-endian
    header     {"__metadata__":{"seal":"64 hex digits", ...},"NAME":{"dtype":..,"shape":..,"data_offsets":[..]},...}
    data       shared.*, token_ids, layer.000.*, layer.001.*, ..., without holes

Each tensor begins at a multiple of 64 bytes; where the one before ends elsewhere, a tensor of zeros called ``pad.*``
fills the gap. (A decoder's loads like that, and so does the kernel, which is slower to copy a page to an address that
is aligned otherwise.) The seal is BLAKE2b, keyed by the tenant's secret, over length and header with the seal's digits
zeroed. The header holds each tensor's XXH3, so every byte of a file counts.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xxhash

from memos.activation.codecs.base import Array, Encoded
from memos.activation.container import KVHeader, to_metadata
from memos.activation.fingerprint import CONTAINER_VERSION
from memos.activation.miss import KVMiss
from memos.activation.strict import as_integer, as_list, as_map, as_text, dump, parse

#: Longest header that is read, in bytes.
MAX_HEADER = 16 << 20
ALIGNMENT = 64
_MAX_AXES = 8
TOKEN_IDS = "token_ids"
_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_SEAL_START = b'{"__metadata__":{"seal":"'
_SEAL = slice(len(_SEAL_START), len(_SEAL_START) + 64)
_SEAL_END = b'","'


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file: bytes ``start`` to ``stop`` of the file, and the hex XXH3 (128 bits) of those."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int
    stop: int
    xxh3: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start


# ------------------------------------------------------------ writing


def compose(header: KVHeader, encoded: Encoded, secret: bytes) -> list[memoryview]:
    """Return a file as pieces to be written one after the other; big arrays are not copied.

    Raises ``ValueError`` for arrays of a dtype that safetensors has not.
    """
    arrays = list(_padded(_named(header, encoded)))
    pieces = [array.reshape(-1).view(np.uint8).data for _, array in arrays]
    digests = [xxhash.xxh3_128_hexdigest(piece) for piece in pieces]
    metadata = to_metadata(header)
    table: dict[str, object] = {"__metadata__": {"seal": "0" * 64, **metadata, "xxh3": dump(digests)}}
    end = 0
    for (name, array), piece in zip(arrays, pieces, strict=True):
        start, end = end, end + piece.nbytes
        table[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    return [memoryview(_sealed(dump(table).encode(), secret)), *pieces]


def _named(header: KVHeader, encoded: Encoded) -> Iterator[tuple[str, Array]]:
    yield from ((f"shared.{name}", array) for name, array in encoded.shared.items())
    yield TOKEN_IDS, np.array(header.token_ids, np.int32)
    for layer, parts in enumerate(encoded.layers):
        yield from ((f"layer.{layer:03}.{name}", array) for name, array in parts.items())


def _padded(arrays: Iterable[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
    for number, (name, array) in enumerate(arrays):
        if array.dtype not in _NAMES:
            raise ValueError(f"safetensors has no {array.dtype}, which {name} is of")
        yield name, np.ascontiguousarray(array) if array.ndim else array
        if gap := -array.nbytes % ALIGNMENT:
            yield f"pad.{number}", np.zeros(gap, np.uint8)


def resealed(table: bytes, key: str, secret: bytes) -> bytes:
    """Return length and header of a file under another key and secret, as long as they were.

    Raises :class:`KVMiss` for a header that nothing here wrote.
    """
    try:
        entries = as_map(parse(table.decode("ascii")))
    except UnicodeDecodeError as error:
        raise KVMiss("format", "the header is not ASCII") from error
    metadata = as_map(entries.pop("__metadata__", None))
    metadata = {"seal": "0" * 64, **{name: value for name, value in metadata.items() if name != "seal"}, "key": key}
    front = _sealed(dump({"__metadata__": metadata, **entries}).encode(), secret)
    if len(front) != 8 + len(table):
        raise KVMiss("format", "the header is not as this version writes it")
    return front


def _sealed(table: bytes, secret: bytes) -> bytes:
    table += b" " * (-(8 + len(table)) % ALIGNMENT)
    if len(table) > MAX_HEADER:
        raise ValueError(f"a header of {len(table)} bytes is too long")
    length = len(table).to_bytes(8, "little")
    seal = _seal(length, table, secret).encode()
    return b"".join([length, table[: _SEAL.start], seal, table[_SEAL.stop :]])


def _seal(length: bytes, table: bytes, secret: bytes) -> str:
    digest = hashlib.blake2b(length, key=secret, person=b"memos kv seal", digest_size=32)
    view = memoryview(table)
    for part in (view[: _SEAL.start], b"0" * 64, view[_SEAL.stop :]):
        digest.update(part)
    return digest.hexdigest()


# ------------------------------------------------------------ reading


def check_seal(table: bytes, secret: bytes) -> None:
    """Raise :class:`KVMiss` unless the header is, to the bit, what was sealed with this secret."""
    ending = table[_SEAL.stop : _SEAL.stop + len(_SEAL_END)]
    if not table.startswith(_SEAL_START) or ending != _SEAL_END:
        raise KVMiss("format", "the file does not begin like a KV file")
    expected = _seal(len(table).to_bytes(8, "little"), table, secret)
    if not hmac.compare_digest(expected.encode(), table[_SEAL]):
        raise KVMiss("seal", "the header was changed, or sealed with another secret")


def parse_table(table: bytes, size: int) -> tuple[dict[str, str], list[Tensor]]:
    """Return metadata and tensors, in the order of a file of ``size`` bytes. Raises :class:`KVMiss`."""
    try:
        entries = as_map(parse(table.decode("ascii")))
    except UnicodeDecodeError as error:
        raise KVMiss("format", "the header is not ASCII") from error
    metadata = {name: as_text(value) for name, value in as_map(entries.pop("__metadata__", None)).items()}
    if metadata.get("version") != str(CONTAINER_VERSION):
        raise KVMiss("format", f"version {metadata.get('version')} of the container, not {CONTAINER_VERSION}")
    digests = as_list(parse(metadata.get("xxh3", "")))
    if len(digests) != len(entries):
        raise KVMiss("format", "the header has not one checksum for each tensor")
    return metadata, list(_tensors(entries, digests, 8 + len(table), size))


def _tensors(entries: Mapping[str, object], digests: list[object], end: int, size: int) -> Iterator[Tensor]:
    base = end
    for (name, entry), digest in zip(entries.items(), digests, strict=True):
        tensor = _tensor(name, as_map(entry), base, as_text(digest))
        if tensor.start != end:
            raise KVMiss("format", f"{name} does not begin where the tensor before it ends")
        end = tensor.stop
        yield tensor
    if end != size:
        raise KVMiss("truncated" if size < end else "format", f"{size} bytes, where the header says {end}")


def _tensor(name: str, entry: dict[str, object], base: int, digest: str) -> Tensor:
    dtype = _DTYPES.get(as_text(entry.get("dtype")))
    shape = tuple(as_integer(length) for length in as_list(entry.get("shape")))
    offsets = [as_integer(offset) for offset in as_list(entry.get("data_offsets"))]
    if dtype is None or len(shape) > _MAX_AXES or len(offsets) != 2:
        raise KVMiss("format", f"the table is wrong about {name}")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise KVMiss("format", f"{name} is not as long as its shape says")
    return Tensor(name, dtype, shape, base + offsets[0], base + offsets[1], digest)

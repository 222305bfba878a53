"""What a KV file says about itself: enough to check it, decode it and put it back into the index."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memos.activation.fingerprint import CONTAINER_VERSION
from memos.activation.kv import DTYPES, KVShape
from memos.activation.miss import KVMiss
from memos.activation.strict import as_integer, as_list, as_map, dump, parse

#: More layers than any model has.
MAX_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class KVHeader:
    """A KV file's description of itself.

    ``key`` is its storage key, ``sources`` the note versions it was made from as ``(id, version)``, in the order of
    the bundle. ``token_ids`` are all cached tokens from ``first_position`` on, ``head_tokens`` of them the constant
    start of a prompt. ``created_at`` is in microseconds since the epoch, ``loss`` the KL divergence per token (nats)
    that a lossy codec was measured to cost. ``parameters`` are the codec's, filled in when the file is published.
    """

    key: str
    cube_id: str
    fingerprint: str
    sources: tuple[tuple[str, int], ...]
    token_ids: tuple[int, ...]
    head_tokens: int
    shape: KVShape
    codec: str
    created_at: int
    first_position: int = 0
    loss: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The number of cached tokens."""
        return len(self.token_ids)


def to_metadata(header: KVHeader) -> dict[str, str]:
    """Return the header as a map of strings; the token ids are a tensor of their own."""
    return {
        "version": str(CONTAINER_VERSION),
        "key": header.key,
        "cube_id": header.cube_id,
        "fingerprint": header.fingerprint,
        "sources": dump([list(source) for source in header.sources]),
        "tokens": str(header.tokens),
        "head_tokens": str(header.head_tokens),
        "first_position": str(header.first_position),
        "layers": str(header.shape.layers),
        "heads": str(header.shape.heads),
        "head_dim": str(header.shape.head_dim),
        "dtype": header.shape.dtype,
        "codec": header.codec,
        "parameters": dump(dict(header.parameters)),
        "created_at": str(header.created_at),
        "loss": dump(header.loss),
    }


def from_metadata(metadata: Mapping[str, str], token_ids: tuple[int, ...]) -> KVHeader:
    """Return the header that a map of strings describes. Raises :class:`KVMiss` (``format``)."""
    try:
        header = _header(metadata, token_ids)
        counted = as_integer(metadata["tokens"])
    except KeyError as error:
        raise KVMiss("format", f"the header has no {error}") from error
    if header.tokens != counted or header.head_tokens > counted:
        raise KVMiss("format", "the header counts its tokens wrongly")
    return header


def _header(metadata: Mapping[str, str], token_ids: tuple[int, ...]) -> KVHeader:
    return KVHeader(
        key=metadata["key"],
        cube_id=metadata["cube_id"],
        fingerprint=metadata["fingerprint"],
        sources=tuple(_source(source) for source in as_list(parse(metadata["sources"]))),
        token_ids=token_ids,
        head_tokens=as_integer(metadata["head_tokens"]),
        shape=shape_of(metadata),
        codec=metadata["codec"],
        created_at=as_integer(metadata["created_at"]),
        first_position=as_integer(metadata["first_position"]),
        loss=_loss(parse(metadata["loss"])),
        parameters=as_map(parse(metadata["parameters"])),
    )


def shape_of(metadata: Mapping[str, str]) -> KVShape:
    """Return the shape of the cache. Raises :class:`KVMiss` (``format``) and ``KeyError``."""
    layers, heads, head_dim = (as_integer(metadata[name]) for name in ("layers", "heads", "head_dim"))
    if metadata["dtype"] not in DTYPES or not layers * heads * head_dim or layers > MAX_LAYERS:
        raise KVMiss("format", "the header describes no cache")
    return KVShape(layers, heads, head_dim, metadata["dtype"])


def _source(value: object) -> tuple[str, int]:
    match value:
        case [str(cube_id), int(version)] if version > 0:
            return cube_id, version
    raise KVMiss("format", "the header's sources are not pairs of id and version")


def _loss(value: object) -> float | None:
    if value is None or (isinstance(value, float | int) and math.isfinite(value)):
        return value
    raise KVMiss("format", "the header's loss is not a number")

"""How an adapter or cartridge lies on the disk: safetensors with PEFT's names, sealed for its tenant.

The metadata says what it is: key, payload, base, digest, scalings, sources, name, gate report and provenance. The
digest covers every tensor with its name, shape and dtype; the seal, BLAKE2b keyed by the tenant's secret, covers the
metadata. So what is read is, to the bit, what was published, and a file of another tenant or name is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from memos.activation.kv import DTYPES, KVBlock, KVShape
from memos.errors import AdapterRefused
from memos.parametric.adapter import Adapter
from memos.parametric.cartridge import TrainedCartridge
from memos.parametric.checks import Trained
from memos.parametric.naming import adapter_of, module_name, tensors_of
from memos.store.adapters import Payload
from memos.store.lineage import Source

VERSION = "1"
#: Longest header that is read, in bytes.
MAX_HEADER = 16 << 20
_CARTRIDGE = "cartridge"
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Card:
    """What a file says of itself beside its tensors, as :class:`memos.store.adapters.AdapterRecord` means it."""

    key: str
    digest: str
    base: str
    payload: Payload
    name: str | None
    sources: tuple[Source, ...]
    gate: Mapping[str, Any] | None
    provenance: Mapping[str, Any]


def compose(card: Card, trained: Trained, secret: bytes) -> bytes:
    """Return the file."""
    metadata = {"format": "pt", "memos": VERSION, **_described(card), "scalings": json.dumps(_scalings(trained))}
    tensors = tensors_of(trained) if isinstance(trained, Adapter) else {_CARTRIDGE: trained.kv.data.contiguous()}
    return _packed(tensors, {**metadata, "seal": _seal(metadata, secret)})


def open_container(data: bytes, key: str, secret: bytes) -> tuple[Card, Trained]:
    """Return what a file holds. Raises :class:`AdapterRefused`."""
    metadata = metadata_of(data)
    seal = metadata.pop("seal", "")
    if metadata.get("memos") != VERSION:
        raise AdapterRefused(f"it is no adapter file of version {VERSION}")
    if not hmac.compare_digest(seal.encode(), _seal(metadata, secret).encode()):
        raise AdapterRefused("its metadata was changed, or sealed with the secret of another tenant")
    if metadata.get("key") != key:
        raise AdapterRefused("it was published under another key: swapped or renamed")
    try:
        card, scalings = _card(metadata), _numbers(json.loads(metadata["scalings"]))
    except (KeyError, TypeError, ValueError) as error:  # sealed here, but written elsewhere
        raise AdapterRefused("its metadata is not that of an adapter file") from error
    trained = _trained(card, read_tensors(data), scalings)
    if trained.digest != card.digest:
        raise AdapterRefused("its tensors are not what was published")
    return card, trained


def resealed(data: bytes, key: str, secret: bytes) -> bytes:
    """Return a file under another key and secret. Raises :class:`AdapterRefused` for what nothing here wrote."""
    metadata = {**metadata_of(data), "key": key}
    metadata.pop("seal", None)
    length = int.from_bytes(data[:8], "little")
    table = {**json.loads(data[8 : 8 + length]), "__metadata__": {**metadata, "seal": _seal(metadata, secret)}}
    return _framed(table) + data[8 + length :]


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file, a map of strings. Raises :class:`AdapterRefused`."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, len(data) - 8):
        raise AdapterRefused("it is truncated, or no safetensors file")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise AdapterRefused("its header is not JSON") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdapterRefused("its header is not that of a safetensors file")
    return metadata


def read_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, in host memory. Raises :class:`AdapterRefused`."""
    try:
        return load(data)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise AdapterRefused(f"it is truncated or damaged: {' '.join(str(error).split())[:200]}") from error


# ------------------------------------------------------------ inside


def _packed(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file: the length of its header, the header, and the tensors without holes.

    The library's own writer takes several times as long, which a registry of thousands would pay for each.
    """
    table: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        table[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    views = [tensor.view(-1).view(torch.uint8).numpy().data for tensor in tensors.values()]
    return b"".join([_framed(table), *views])


def _framed(table: Mapping[str, object]) -> bytes:
    """Return the length of a header, and the header."""
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _described(card: Card) -> dict[str, str]:
    fixed = {"key": card.key, "digest": card.digest, "base": card.base, "payload": card.payload.value}
    loose = {"name": card.name, "sources": card.sources, "gate": card.gate, "provenance": card.provenance}
    return {**fixed, **{name: json.dumps(value, allow_nan=False) for name, value in loose.items()}}


def _card(metadata: Mapping[str, str]) -> Card:
    """Return the card in metadata whose seal was found right."""
    fixed: dict[str, Any] = {name: metadata[name] for name in ("key", "digest", "base")}
    loose = {name: json.loads(metadata[name]) for name in ("name", "gate", "provenance")}
    sources = tuple((cube_id, version) for cube_id, version in json.loads(metadata["sources"]))
    return Card(**fixed, **loose, payload=Payload(metadata["payload"]), sources=sources)


def _scalings(trained: Trained) -> dict[str, float]:
    if not isinstance(trained, Adapter):
        return {}
    return {module_name(*place): factors.scaling for place, factors in trained.sorted()}


def _numbers(value: object) -> dict[str, float]:
    if isinstance(value, dict) and all(isinstance(one, int | float) for one in value.values()):
        return value
    raise TypeError("scalings are numbers by name")


def _trained(card: Card, tensors: Mapping[str, torch.Tensor], scalings: Mapping[str, float]) -> Trained:
    if card.payload is Payload.LORA:
        return adapter_of(card.base, tensors, lambda module, _rank: scalings.get(module, 1.0))
    data = tensors.get(_CARTRIDGE)
    if data is None or data.ndim != 5 or data.dtype not in _DTYPE_NAMES:
        raise AdapterRefused("it holds no cartridge")
    layers, _, heads, _, head_dim = data.shape
    return TrainedCartridge(card.base, KVBlock(KVShape(layers, heads, head_dim, _DTYPE_NAMES[data.dtype]), data))


def _seal(metadata: Mapping[str, str], secret: bytes) -> str:
    canonical = json.dumps(metadata, sort_keys=True).encode()
    return hashlib.blake2b(canonical, key=secret, person=b"memos ad seal", digest_size=32).hexdigest()

"""What a backup says of itself: whose memories it holds, made when and by what, and a checksum of every file.

    manifest.json                              this, and a checksum of itself
    rows/0000000.jsonl                          the rows of the first namespace
    tiers/kv/0000000/<key>.safetensors          its KV files
    tiers/adapters/0000000/<key>.safetensors    its adapters and cartridges

In a folder and in an archive alike. Files stand in the order of their names, and the manifest comes last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from memos.cube import Frozen
from memos.errors import BackupRefused, StoreTooNew
from memos.store.revision import HEAD, KNOWN

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST = 256 << 20
_NAME = re.compile(r"rows/[0-9]{7}\.jsonl|tiers/[a-z]{1,8}/[0-9]{7}/[0-9a-f]{64}\.safetensors|manifest\.json")
_PAYLOAD = re.compile(r"tiers/(?P<tier>[a-z]+)/(?P<space>[0-9]{7})/(?P<key>[0-9a-f]{64})\.safetensors")


class Record(Frozen):
    """Base of what a manifest holds: exact types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileRecord(Record):
    """A file of the backup: its size in bytes and its hex SHA-256."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class EmbedderRecord(Record):
    """Who made the vectors, float32 ``[dimension]``."""

    identity: str
    dimension: int = Field(ge=1)


class SpaceRecord(Record):
    """A namespace. ``said`` is its row in the directory, ``rows`` the number of rows by table."""

    tenant: str
    user_id: str
    said: dict[str, Any]
    rows: dict[str, int]


class Manifest(Record):
    """The whole. ``created_at`` is the moment that the rows are of, ``store_schema`` the revision of their tables."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    format: Literal["memos-backup"] = "memos-backup"
    version: int
    id: str
    created_at: AwareDatetime
    written_by: str
    store_schema: str
    embedder: EmbedderRecord | None
    namespaces: tuple[SpaceRecord, ...]
    files: dict[str, FileRecord]


def seal(content: Mapping[str, Any]) -> bytes:
    """Return the manifest file, of what :class:`Manifest` is as JSON."""
    return json.dumps({"sha256": _digest(content), "manifest": content}, ensure_ascii=False).encode()


def read_manifest(data: bytes) -> Manifest:
    """Return what a manifest file says. Raises :class:`BackupRefused`, and :class:`StoreTooNew`."""
    try:
        whole = json.loads(data)
        content, digest = whole["manifest"], whole["sha256"]
        version, schema = content["version"], content["store_schema"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BackupRefused("the manifest is damaged, or this is no backup; nothing was restored") from error
    if _digest(content) != digest:
        raise BackupRefused("the manifest is not what was written; nothing was restored")
    if version != FORMAT_VERSION or schema not in KNOWN:
        raise StoreTooNew(
            f"this backup has format {version!r} of schema {schema!r}; this version of agent-memos reads format "
            f"{FORMAT_VERSION} of schemas up to {HEAD}. Upgrade the package; nothing was restored"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise BackupRefused("the manifest does not say what a backup has to say; nothing was restored") from error
    _check_names(manifest)
    return manifest


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_names(manifest: Manifest) -> None:
    spaces = range(len(manifest.namespaces))
    expected = {rows_name(space) for space in spaces}
    payloads = manifest.files.keys() - expected
    if not expected <= manifest.files.keys() or not all(
        (match := _PAYLOAD.fullmatch(name)) and int(match["space"]) in spaces for name in payloads
    ):
        raise BackupRefused("the manifest names files that belong to no namespace, or not all; nothing was restored")


# ------------------------------------------------------------ names


def check_file_name(name: str) -> str:
    """Return the name of a file of a backup. Raises :class:`BackupRefused` for any that no backup has."""
    if not _NAME.fullmatch(name):
        raise BackupRefused(f"a backup has no file {name[:200]!r}; nothing was restored")
    return name


def rows_name(space: int) -> str:
    """Return the name of the file with the rows of a namespace, by its place in the manifest."""
    return f"rows/{space:07}.jsonl"


def payload_name(tier: str, space: int, key: str) -> str:
    """Return the name of a KV file or adapter."""
    return f"tiers/{tier}/{space:07}/{key}.safetensors"


def payload_of(name: str) -> tuple[str, int, str] | None:
    """Return tier, namespace and key that a name of :func:`payload_name` says, ``None`` for another one."""
    match = _PAYLOAD.fullmatch(name)
    return None if match is None else (match["tier"], int(match["space"]), match["key"])

"""Secrets and keys: what seals a tenant's files, and what names them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from array import array
from collections.abc import Sequence
from pathlib import Path

from memos.errors import StoreUnavailable

_SECRET_BYTES = 32
SECRET = "secret"


class TenantSecrets:
    """One random store secret in ``root/secret`` (mode 0600), from which every tenant's is derived.

    Without it no file in ``root`` can be verified, and all of them are misses. Raises :class:`StoreUnavailable` when
    the secret can be neither read nor made.
    """

    def __init__(self, root: Path) -> None:
        path = root / SECRET
        try:
            if not path.exists():
                _create(path)
            self._secret = path.read_bytes()
        except OSError as error:
            raise StoreUnavailable(f"the secret {path} cannot be used: {error.strerror}") from error
        if len(self._secret) != _SECRET_BYTES:
            raise StoreUnavailable(f"{path} is no secret of {_SECRET_BYTES} bytes; without it remove all of {root}")

    def of(self, tenant: str) -> bytes:
        """Return a tenant's secret, 32 bytes."""
        return tenant_secret(self._secret, tenant)


def tenant_secret(secret: bytes, tenant: str) -> bytes:
    """Return what a tenant's share of a secret of 32 bytes is, 32 bytes."""
    return hashlib.blake2b(tenant.encode(), key=secret, person=b"memos tenant", digest_size=32).digest()


def storage_key(secret: bytes, *parts: str, tokens: Sequence[int]) -> str:
    """Return the name of a file, 64 hex digits: BLAKE2b keyed by a tenant's secret over parts and token ids.

    What two tenants have in common cannot be told from their keys, nor by asking for a key and timing the answer.
    """
    ids = hashlib.blake2b(array("i", tokens).tobytes(), digest_size=32).hexdigest()
    canonical = json.dumps([*parts, ids], separators=(",", ":")).encode()
    return hashlib.blake2b(canonical, key=secret, person=b"memos kv key", digest_size=32).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _create(path: Path) -> None:
    """Make a secret; of several processes that try at once, all go on with the first one's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{SECRET}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink()

"""The deletion receipt, version 1, and the bytes that are signed of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from memos.cube import Frozen
from memos.errors import InvalidInput
from memos.receipts.keys import ReceiptKey
from memos.store.exports import ExportRecord


class DeletionReceipt(Frozen):
    """What a deletion removed.

    ``cube_ids`` are the memories, ``derived`` the cubes that were made from them. ``digests`` are keyed, one for each
    text: they tell nobody without the key what it was. ``removed`` counts by place, ``files`` names KV files and
    adapters as ``PLACE/KEY``. ``pending`` names places that could not be reached and are emptied once they can be,
    ``lingering`` those that keep unreachable bytes until they are rewritten, ``exports`` the files in somebody's hands
    that hold one of the memories. ``signature`` (Ed25519, hex, by ``key``) is over :func:`signed_bytes`.
    """

    version: Literal[1] = 1
    id: str
    tenant: str
    user_id: str
    cube_ids: tuple[str, ...]
    derived: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    removed: dict[str, int]
    files: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    lingering: tuple[str, ...] = ()
    exports: tuple[ExportRecord, ...] = ()
    deleted_at: datetime
    key: str = ""
    signature: str = ""

    def keys_in(self, place: str) -> Iterator[str]:
        """Yield the keys of the files of a place."""
        for name in self.files:
            where, _, key = name.partition("/")
            if where == place:
                yield key


def signed_bytes(receipt: DeletionReceipt) -> bytes:
    """Return the receipt without its signature as canonical JSON: names in order, no white space, UTF-8."""
    plain = receipt.model_dump(mode="json", exclude={"signature"})
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(receipt: DeletionReceipt, key: ReceiptKey) -> DeletionReceipt:
    """Return a receipt signed by its tenant's key."""
    open_ = receipt.model_copy(update={"key": key.public})
    return open_.model_copy(update={"signature": key.sign(signed_bytes(open_))})


def read_receipt(given: object) -> DeletionReceipt:
    """Return a receipt from plain data. Raises :class:`InvalidInput`."""
    if isinstance(given, DeletionReceipt):
        return given
    if not isinstance(given, Mapping):
        raise InvalidInput("a receipt is a JSON object, as `forget` returned it")
    try:
        return DeletionReceipt.model_validate_json(json.dumps(dict(given), default=_plain))
    except (ValidationError, TypeError, ValueError) as error:
        raise InvalidInput(f"that is no deletion receipt of version 1: {_wrong(error)}") from error


def _wrong(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")

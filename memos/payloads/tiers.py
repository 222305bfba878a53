"""All tiers whose payloads are files."""

from __future__ import annotations

from memos.config import Settings
from memos.payloads.adapters import AdapterPayloads
from memos.payloads.base import PayloadFiles
from memos.payloads.kv import KVPayloads


def payload_files(settings: Settings) -> list[PayloadFiles]:
    """Return the files of each tier, in the order of their names."""
    return [AdapterPayloads(settings), KVPayloads(settings)]

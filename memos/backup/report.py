"""What a backup or a restore did."""

from __future__ import annotations

from datetime import datetime

from memos.cube import Frozen


class BackupReport(Frozen):
    """A backup that is on the disk whole. ``created_at`` is the moment that it is of, ``bytes`` its size unpacked.

    ``left_out`` counts KV files and adapters that were gone or damaged: a restore does without them.
    """

    id: str
    path: str
    created_at: datetime
    namespaces: int
    memories: int
    kv_files: int
    adapters: int
    left_out: int
    bytes: int


class RestoreReport(Frozen):
    """What was restored of the backup ``id``. ``replaced`` counts namespaces that held other memories before.

    ``kv_dropped`` are KV files that were not in the backup, or found no room here: chats compute what they held anew.
    ``adapters_dropped`` are adapters likewise, of which ``retraining`` are trained again from their memories.
    """

    id: str
    created_at: datetime
    namespaces: int
    memories: int
    kv_files: int
    adapters: int
    kv_dropped: int
    adapters_dropped: int
    retraining: int
    replaced: int

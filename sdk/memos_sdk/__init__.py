"""Memory for LLM agents: ``Memory`` and ``AsyncMemory``, embedded or over HTTP."""

from __future__ import annotations

from memos_sdk import errors
from memos_sdk._client import AsyncMemory, Memory
from memos_sdk._stream import AsyncChatStream, ChatStream
from memos_sdk.errors import MemosError
from memos_sdk.types import (
    AdapterInfo,
    BackupReport,
    ChatReply,
    Check,
    CubeVersion,
    DeletionReceipt,
    ExportRecord,
    Hit,
    Hold,
    ImportReport,
    Job,
    KVFile,
    KVSettings,
    Link,
    MemCube,
    Miss,
    Move,
    RecallResult,
    ReceiptCheck,
    RestoreReport,
    Retention,
    Statistics,
    Usage,
)

__version__ = "0.1.0"
__all__ = [
    "AdapterInfo",
    "AsyncChatStream",
    "AsyncMemory",
    "BackupReport",
    "ChatReply",
    "ChatStream",
    "Check",
    "CubeVersion",
    "DeletionReceipt",
    "ExportRecord",
    "Hit",
    "Hold",
    "ImportReport",
    "Job",
    "KVFile",
    "KVSettings",
    "Link",
    "MemCube",
    "Memory",
    "MemosError",
    "Miss",
    "Move",
    "RecallResult",
    "ReceiptCheck",
    "RestoreReport",
    "Retention",
    "Statistics",
    "Usage",
    "__version__",
    "errors",
]

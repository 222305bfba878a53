"""Memory for LLM agents: ``Memory`` and ``AsyncMemory``, embedded or over HTTP."""

from __future__ import annotations

from memos_sdk import errors
from memos_sdk._client import AsyncMemory, Memory
from memos_sdk.errors import MemosError
from memos_sdk.types import (
    CubeVersion,
    DeletionReceipt,
    Hit,
    ImportReport,
    Link,
    MemCube,
    RecallResult,
    Statistics,
)

__version__ = "0.1.0"
__all__ = [
    "AsyncMemory",
    "CubeVersion",
    "DeletionReceipt",
    "Hit",
    "ImportReport",
    "Link",
    "MemCube",
    "Memory",
    "MemosError",
    "RecallResult",
    "Statistics",
    "__version__",
    "errors",
]

"""An operating system for the memory of LLM agents.

``from memos import MemoryOS`` is the engine; agents normally use ``memos_sdk.Memory``, which runs it embedded or talks
to a server. Importing this package stays light: the engine loads on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memos.engine import MemoryOS

__version__ = "0.1.0"
__all__ = ["MemoryOS", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "MemoryOS":
        from memos.engine import MemoryOS

        return MemoryOS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

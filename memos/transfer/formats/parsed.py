"""What a format reads from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memos.transfer.report import RejectedLine

Parsed = tuple[int, Mapping[str, Any]] | RejectedLine
ParsedLines = Iterator[Parsed]

#: Set by a format that made up the run of a memory from the file's structure.
DERIVED_RUN = "derived_run_id"

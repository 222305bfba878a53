"""What an import says about itself."""

from __future__ import annotations

from memos.cube import Frozen


class RejectedLine(Frozen):
    """A line that could not be used, by number (1-based), and why."""

    line: int
    reason: str


class ImportReport(Frozen):
    """What an import did: memories stored, memories already there, and lines rejected."""

    format: str
    imported: int = 0
    skipped: int = 0
    rejected: tuple[RejectedLine, ...] = ()

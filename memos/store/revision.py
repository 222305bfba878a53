"""Schema revisions this version of the package understands, oldest first (checked against migrations/ by a test)."""

from __future__ import annotations

KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")
HEAD = KNOWN[-1]

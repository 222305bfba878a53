"""What an examination says."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from memos.cube import Frozen


class Status(StrEnum):
    """How bad a finding is. Only an error needs somebody to act."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Frozen):
    """One thing that was looked at; the message says what to do about it."""

    name: str
    status: Status
    message: str


class NamespaceHealth(Frozen):
    """The counts of one namespace.

    ``memories`` is the number the directory keeps, ``counted`` that of the rows, ``indexed`` that of the collection
    (``None`` if it has none or was not asked). ``index_lag`` counts write transactions, ``missing_vectors`` versions
    without a vector of the serving embedder, ``other_vectors`` those of any other, ``orphans`` rows that belong to
    nothing and memories without text.
    """

    tenant: str
    user_id: str
    memories: int
    counted: int
    indexed: int | None = None
    index_lag: int = 0
    missing_vectors: int = 0
    other_vectors: int = 0
    orphans: int = 0

    @property
    def name(self) -> str:
        """The namespace as people write it."""
        return f"{self.tenant}/{self.user_id}"


class DoctorReport(Frozen):
    """All findings, the counts behind them, and sizes in bytes."""

    home: str
    findings: tuple[Finding, ...]
    namespaces: tuple[NamespaceHealth, ...] = ()
    sizes: dict[str, int] = Field(default_factory=dict)
    free_bytes: int | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing needs somebody to act."""
        return all(finding.status is not Status.ERROR for finding in self.findings)


def ok(name: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(name=name, status=Status.OK, message=message)


def warning(name: str, message: str) -> Finding:
    """Return a finding to know about."""
    return Finding(name=name, status=Status.WARNING, message=message)


def error(name: str, message: str) -> Finding:
    """Return a finding to act on."""
    return Finding(name=name, status=Status.ERROR, message=message)


def megabytes(count: int) -> str:
    """Return a size in bytes as people read it."""
    return f"{count / 1e6:,.1f} MB"

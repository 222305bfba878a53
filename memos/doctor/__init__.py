"""Looking at a store: is everything there, does it agree with itself, and if not, what to do. Nothing is changed."""

from __future__ import annotations

from memos.doctor.examination import diagnose, examine
from memos.doctor.report import DoctorReport, Finding, NamespaceHealth, Status

__all__ = ["DoctorReport", "Finding", "NamespaceHealth", "Status", "diagnose", "examine"]

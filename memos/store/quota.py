"""Quotas of a namespace: how much one user may keep, checked in the transaction that would keep more."""

from __future__ import annotations

from memos.config import Settings
from memos.errors import LimitReached, QuotaReached


def check_memories(settings: Settings, present: int, more: int) -> None:
    """Raise :class:`QuotaReached` where a user would have too many memories."""
    _check(settings.quota_memories, present, more, "memories")


def check_characters(settings: Settings, present: int, more: int) -> None:
    """Raise :class:`QuotaReached` where a user's memories would have too much text."""
    _check(settings.quota_characters, present, more, "characters of text")


def check_kv(settings: Settings, present: int, more: int) -> None:
    """Raise :class:`QuotaReached` where a user's KV files would be too large."""
    _check(settings.quota_kv_bytes, present, more, "bytes of KV files")


def check_adapters(settings: Settings, present: int, more: int) -> None:
    """Raise :class:`QuotaReached` where a user's adapters would be too large."""
    _check(settings.quota_adapter_bytes, present, more, "bytes of adapters")


def check_jobs(settings: Settings, unfinished: int) -> None:
    """Raise :class:`LimitReached` where too many jobs of a user wait or run."""
    most = settings.quota_jobs
    if most and unfinished >= most:
        raise LimitReached(f"{unfinished} jobs of this user wait or run, and {most} may: wait for one to end")


def _check(most: int, present: int, more: int, what: str) -> None:
    if most and more and present + more > most:
        raise QuotaReached(
            f"this user may keep {most} {what}, has {present} and would have {present + more}: forget some first",
            quota=most,
            used=present,
        )

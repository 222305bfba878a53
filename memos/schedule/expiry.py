"""Expiry and retention: what has passed its time is deleted for good, whatever was made from it too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from memos.clock import now_us
from memos.cube import Frozen, Scope
from memos.store.database import Database
from memos.store.scoped import due

#: Memories that one transaction deletes at most, for each of the two reasons: writers of the namespace wait meanwhile.
BATCH = 500
#: Deletes up to so many memories of a namespace that are due at a time (microseconds); returns how many, by reason.
Delete = Callable[[Scope, int, int], dict[str, int]]


class Expired(Frozen):
    """How many memories were deleted because they had expired, and because they were kept long enough."""

    expired: int = 0
    retained: int = 0


def expire(database: Database, delete: Delete, finish: Callable[[Scope], object], *, batch: int = BATCH) -> Expired:
    """Delete in every namespace what is due now, batch by batch, and ``finish`` each namespace that lost something.

    Of several processes that try at once, one does it. Whatever stops this, the rest is due still.
    """
    now, counts = now_us(), Counter[str]()
    with database.read() as connection:
        scopes = due(connection, now)
    if not scopes:
        return Expired()
    with database.lease("memos-expiry") as granted:
        for scope in scopes if granted else ():
            before = counts.total()
            while any((deleted := delete(scope, now, batch)).values()):
                counts.update(deleted)
            if counts.total() > before:
                finish(scope)
    return Expired(expired=counts["expire"], retained=counts["retain"])

"""What the service promised its clients, and what it left open."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: The name that stands in one text and in no other, here or in an answer: fusing keeps names.
MARK = re.compile(r"Mark[a-p]{12}")
TOPICS = "harbour weather garden music kitchen travel".split()
_SYLLABLES = "ba de fi go hu ka le mi no pu ra se ti vo zu".split()


def new_text(dice: random.Random) -> str:
    """Return a text that shares its topic with others, and little else."""
    words = ["".join(dice.choices(_SYLLABLES, k=4)) for _ in range(8)]
    return f"About {dice.choice(TOPICS)}: {' '.join(words)} {_mark(dice)}"


def told_again(dice: random.Random, text: str) -> str:
    """Return a text that says nearly the same."""
    return MARK.sub(_mark(dice), text)


def _mark(dice: random.Random) -> str:
    return "Mark" + "".join(dice.choices("abcdefghijklmnop", k=12))


def marks(*texts: str) -> set[str]:
    """Return the marks that stand in some texts."""
    return {mark for text in texts for mark in MARK.findall(text)}


@dataclass(slots=True)
class Promise:
    """A memory. ``texts`` are what it may say, several if the answer to a change was lost; ``said`` is all so far."""

    id: str
    user: str
    texts: set[str]
    said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.said |= self.texts

    def changes(self, text: str, *, surely: bool) -> None:
        """Say something else from now on, or perhaps."""
        self.texts = {text} if surely else self.texts | {text}
        self.said.add(text)


@dataclass
class Ledger:
    """Every memory is in one place: ``kept``, ``doubtful`` (it may have been forgotten), ``gone``, or in use."""

    kept: dict[str, Promise] = field(default_factory=dict)
    doubtful: dict[str, Promise] = field(default_factory=dict)
    gone: dict[str, Promise] = field(default_factory=dict)
    #: Batches whose answer was lost: texts that are there all or not at all, with their user.
    open: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
    #: How often each operation was answered, and how often it was not.
    answered: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    _unsaid: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, promises: Iterable[Promise]) -> None:
        """Take in memories that have to be there from now on."""
        with self._lock:
            self.kept.update((one.id, one) for one in promises)

    def doubt(self, promise: Promise) -> None:
        """Say that a memory may or may not have been forgotten."""
        with self._lock:
            self.doubtful[promise.id] = promise

    def bury(self, promise: Promise, receipt: dict[str, Any]) -> None:
        """Say that a memory may never be seen again."""
        with self._lock:
            self.gone[promise.id] = promise
            self._unsaid.update(marks(*promise.said))
            self.receipts.append(receipt)

    @contextmanager
    def borrowed(self, dice: random.Random) -> Iterator[Promise | None]:
        """Lend one memory to a client, who is alone with it until the block ends, unless it is put elsewhere."""
        with self._lock:
            promise = self.kept.pop(dice.choice(list(self.kept))) if self.kept else None
        try:
            yield promise
        finally:
            with self._lock:
                if promise is not None and promise.id not in self.gone and promise.id not in self.doubtful:
                    self.kept[promise.id] = promise

    def some(self, dice: random.Random, user: str, count: int) -> list[str]:
        """Return ids of memories of a user, which others may change or forget at any moment."""
        with self._lock:
            own = [one.id for one in self.kept.values() if one.user == user]
        return dice.sample(own, min(count, len(own)))

    def forgotten(self) -> frozenset[str]:
        """Return the marks that no answer may hold from now on."""
        with self._lock:
            return frozenset(self._unsaid)

    def count(self, operation: str, *, answered: bool) -> None:
        """Count an operation."""
        with self._lock:
            (self.answered if answered else self.lost)[operation] += 1

"""What a note says about a memory beside its text."""

from __future__ import annotations

from datetime import datetime

from memos.cube import Descriptor, Frozen

#: Most keywords, tags and entities of one note; most characters of one of them, of a title and of a context.
MAX_KEYWORDS, MAX_TAGS, MAX_ENTITIES = 12, 10, 24
MAX_TERM, MAX_TITLE, MAX_CONTEXT = 80, 120, 400


class Attributes(Frozen):
    """A-MEM's attributes K (``keywords``), G (``tags``) and X (``context``), and what else is known of a text.

    ``event_time`` is when the text says that it happened, ``None`` where it names no day. ``importance`` runs from 0 to
    1. ``sensitivity`` is ``normal``, ``personal`` or ``secret``.
    """

    title: str | None = None
    keywords: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    context: str | None = None
    entities: tuple[str, ...] = ()
    language: str | None = None
    sensitivity: str = "normal"
    importance: float = 0.5
    event_time: datetime | None = None

    @property
    def descriptor(self) -> Descriptor:
        """What is kept with the version the note is about."""
        names = ("title", "keywords", "tags", "context", "entities", "language", "importance")
        return Descriptor(**{name: getattr(self, name) for name in names})

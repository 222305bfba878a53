"""Bundles: ordered note versions with one deterministic rendering, the stuff that the upper tiers are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from memos.cube import MemCube
from memos.errors import BundleRefused
from memos.store.lineage import Source

#: A bundle is taken when it holds at least this share of the recalled memories: the rest of it is context, too.
MIN_SHARE = 0.5
#: Tokens of a context window that bundles leave to the question and the answer: a quarter.
ROOM = 4


@dataclass(frozen=True, slots=True)
class BundleNote:
    """One note version; ``happened_at`` is when it happened or, where that is unknown, from when it holds."""

    cube_id: str
    version: int
    text: str
    happened_at: datetime

    @property
    def line(self) -> str:
        """The note as the model reads it: a dated line, as in the context block of a recall."""
        return f"[{self.happened_at:%Y-%m-%d}] {self.text}\n"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Notes in the order of time, each once. Equal sources give equal text, tokens and digest in every process."""

    notes: tuple[BundleNote, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        """The exact versions it was made from, in order."""
        return tuple((note.cube_id, note.version) for note in self.notes)

    @property
    def text(self) -> str:
        """The rendering."""
        return "".join(note.line for note in self.notes)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of sources and rendering."""
        return hashlib.sha256(json.dumps([self.sources, self.text], ensure_ascii=False).encode()).hexdigest()

    def tokens(self, encode: Callable[[str], Sequence[int]]) -> list[int]:
        """Return the token ids: every line tokenised alone, so that no merge crosses a seam."""
        return [token for note in self.notes for token in encode(note.line)]


def bundle_of(notes: Iterable[BundleNote]) -> Bundle:
    """Return the bundle of some notes, whatever order they come in."""
    unique = {note.cube_id: note for note in notes}
    return Bundle(tuple(sorted(unique.values(), key=lambda note: (note.happened_at, note.cube_id))))


def note_of(cube: MemCube) -> BundleNote:
    """Return a plaintext cube's present version as a bundle takes it."""
    return BundleNote(cube.id, cube.version, cube.text or "", cube.time.event_time or cube.time.valid_from)


def check_size(memory_tokens: int, prompt_tokens: int, *, smallest: int, largest: int) -> None:
    """Refuse a bundle that is not worth a file, or that leaves the model no room to answer.

    Args:
        memory_tokens: tokens of the bundle alone.
        prompt_tokens: tokens with the constant start of the prompt.
        smallest: fewest memory tokens worth a file.
        largest: most prompt tokens allowed.
    """
    if memory_tokens < smallest:
        raise BundleRefused(
            f"{memory_tokens} tokens are too few to be worth a KV file: promote notes of at least {smallest} tokens "
            f"together, or lower MEMOS_BUNDLE_MIN_TOKENS"
        )
    if prompt_tokens > largest:
        raise BundleRefused(
            f"the bundle has {prompt_tokens} tokens and the model can read {largest} beside a question and an answer; "
            f"promote fewer notes at once"
        )

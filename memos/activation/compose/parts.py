"""What is composed: bundles in order behind one head. What makes no prompt is refused here, before any work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from memos.activation.kv import KVShape, KVSource
from memos.errors import CompositionRefused, PromptTooLong
from memos.store.lineage import Source


@dataclass(frozen=True, slots=True)
class Part:
    """One bundle: ``kv`` is the cache of the head and of ``tokens``, as :mod:`memos.activation.promotion` makes it.

    ``name`` is its cube id, ``sources`` the note versions in it, ``fingerprint`` the model that the cache is of, and
    ``key`` its file's storage key, if it has a file.
    """

    name: str
    tokens: tuple[int, ...]
    kv: KVSource
    fingerprint: str
    sources: tuple[Source, ...] = ()
    key: str = ""

    @property
    def identity(self) -> str:
        """What tells it from any other text, version, model or user's: the storage key, or a digest of what is known.

        A storage key is a keyed digest of user, note versions, tokens, model and codec.
        """
        known = json.dumps([self.name, self.fingerprint, self.sources, self.tokens])
        return self.key or hashlib.sha256(known.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``first`` to ``last - 1`` of a prompt."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class Parts:
    """The head of a prompt and the bundles behind it. The first one lies where its cache was computed: it is exact."""

    head: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens of the composed cache."""
        return (*self.head, *(token for part in self.parts for token in part.tokens))

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where each part lies."""
        ends = list(accumulate((len(part.tokens) for part in self.parts), initial=len(self.head)))
        return tuple(Span(first, last) for first, last in pairwise(ends))

    @property
    def memory_tokens(self) -> int:
        """The tokens of all bundles."""
        return sum(len(part.tokens) for part in self.parts)

    @property
    def shape(self) -> KVShape:
        """What one token's cache looks like."""
        return self.parts[0].kv.shape

    def moved(self) -> Iterator[tuple[Part, Span]]:
        """Yield the parts that do not lie where they were computed."""
        yield from list(zip(self.parts, self.spans, strict=True))[1:]


def check_parts(parts: Parts, fingerprint: str, shape: KVShape, window: int) -> None:
    """Refuse parts that make no prompt of a model. ``window`` is the most tokens that the composed cache may have.

    Raises:
        CompositionRefused: no parts, one twice, one of another model or of a cache of another size, or two that hold
            different versions of a note, or the same one.
        PromptTooLong: more tokens than the window.
    """
    if not parts.parts:
        raise CompositionRefused("there is nothing to compose")
    for part in parts.parts:
        _check_part(part, len(parts.head), fingerprint, shape)
    _check_once([part.name for part in parts.parts], "the bundle {} is there twice")
    notes = [note for part in parts.parts for note, _ in part.sources]
    _check_once(notes, "the memory {} is in two of the bundles")
    if len(parts.tokens) > window:
        raise PromptTooLong(f"the bundles have {len(parts.tokens)} tokens with the head; {window} at most fit")


def _check_part(part: Part, head: int, fingerprint: str, shape: KVShape) -> None:
    if part.fingerprint != fingerprint:
        raise CompositionRefused(f"the bundle {part.name} is a cache of another model, or was made otherwise")
    if part.kv.shape != shape or part.kv.tokens != head + len(part.tokens) or not part.tokens:
        raise CompositionRefused(f"the cache of the bundle {part.name} is not one of the head and its tokens")


def _check_once(names: Sequence[str], message: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CompositionRefused(message.format(name))
        seen.add(name)

"""Who writes notes: a language model, or nobody but the rules of :mod:`memos.plaintext.notes.offline`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from memos.config import OFFLINE
from memos.llm.completion import Completer, Spent
from memos.plaintext.notes.attributes import Attributes
from memos.plaintext.notes.linking import Decision, decide
from memos.plaintext.notes.member import Draft
from memos.plaintext.notes.offline import construct


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What a model wants to say anew about an earlier memory: attributes by name."""

    cube_id: str
    attributes: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """The note of one draft, and what it means for earlier ones.

    ``rewrites`` is ``None`` where the rules decide what evolves. ``seen`` are the memories a model was shown when it
    wrote this. ``remark`` says why ``scribe`` is not who was asked.
    """

    attributes: Attributes
    decisions: Sequence[Decision]
    rewrites: Sequence[Rewrite] | None = None
    scribe: str = OFFLINE
    remark: str | None = None
    seen: tuple[str, ...] = ()


class Scribe(Protocol):
    """Writes the notes of up to ``batch`` drafts at a time, with a ``model`` or without."""

    @property
    def model(self) -> Completer | None:
        """The model that is asked."""

    @property
    def batch(self) -> int:
        """How many drafts it takes at once."""

    @property
    def spent(self) -> Spent:
        """What models have cost so far."""

    def write(self, drafts: Sequence[Draft]) -> list[Written]:
        """Return a note for each draft. It never fails: where a model does, the rules take its place."""

    def close(self) -> None:
        """Close what is open."""


class OfflineScribe:
    """The rules alone."""

    model: Completer | None = None
    batch = 128
    spent = Spent()

    def write(self, drafts: Sequence[Draft]) -> list[Written]:
        """Return a note for each draft."""
        return [by_rules(draft) for draft in drafts]

    def close(self) -> None:
        """There is nothing to close."""


def by_rules(draft: Draft, remark: str | None = None) -> Written:
    """Return what the rules write, with the reason why no model did."""
    cube = draft.member.cube
    reference = cube.time.event_time or cube.time.created_at
    attributes = construct(cube.text or "", cube.provenance.author, reference)
    return Written(attributes, decide(draft), remark=remark)

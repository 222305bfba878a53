"""The MemCube: one header for every memory, whichever tier holds its payload (design §3)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from memos.errors import IllegalTransition, InvalidInput

DEFAULT_TENANT = "default"
DEFAULT_USER = "default"
MAX_NAME_LENGTH = 256


class Kind(StrEnum):
    """The tier a cube's payload lives in."""

    PLAINTEXT = "plaintext"
    ACTIVATION = "activation"
    PARAMETRIC = "parametric"


class State(StrEnum):
    """Where a cube stands in its life."""

    GENERATED = "generated"
    ACTIVATED = "activated"
    MERGED = "merged"
    ARCHIVED = "archived"
    EXPIRED = "expired"
    QUARANTINED = "quarantined"


#: Every legal move. ``expired`` is final; ``merged`` and ``archived`` can be undone; a quarantined cube is either
#: cleared, put away or expired, never merged.
LEGAL_MOVES: dict[State, frozenset[State]] = {
    State.GENERATED: frozenset({State.ACTIVATED, State.ARCHIVED, State.EXPIRED, State.QUARANTINED}),
    State.ACTIVATED: frozenset({State.MERGED, State.ARCHIVED, State.EXPIRED, State.QUARANTINED}),
    State.MERGED: frozenset({State.ACTIVATED, State.ARCHIVED, State.EXPIRED, State.QUARANTINED}),
    State.ARCHIVED: frozenset({State.ACTIVATED, State.EXPIRED, State.QUARANTINED}),
    State.QUARANTINED: frozenset({State.ACTIVATED, State.ARCHIVED, State.EXPIRED}),
    State.EXPIRED: frozenset(),
}

#: The provenance source of a memory that was written from several others, which are its parents: it goes with any of
#: them. And how the remark begins of one that merely repeats others, whose ids follow.
FUSION, ECHO = "fusion", "repeats what was recalled: "

#: States whose cubes recall may return.
RECALLABLE = frozenset({State.GENERATED, State.ACTIVATED, State.MERGED})


def move(current: State, target: State) -> State:
    """Return ``target`` if the table allows the move, else raise :class:`IllegalTransition`."""
    if target not in LEGAL_MOVES[current]:
        allowed = ", ".join(sorted(LEGAL_MOVES[current])) or "nothing"
        raise IllegalTransition(f"a cube that is {current} cannot become {target}; it may become: {allowed}")
    return target


class Frozen(BaseModel):
    """Base of all value types here: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Scope(Frozen):
    """Whose memory: the tenant comes from the API key, the rest from the request.

    ``(tenant, user_id)`` is the *namespace*, the unit of isolation, indexing, quota and deletion. ``agent_id`` and
    ``run_id`` narrow within it.
    """

    tenant: str = DEFAULT_TENANT
    user_id: str = DEFAULT_USER
    agent_id: str | None = None
    run_id: str | None = None

    @property
    def whole(self) -> Scope:
        """The namespace that it narrows."""
        return Scope(tenant=self.tenant, user_id=self.user_id)

    def model_post_init(self, _context: object) -> None:
        """Refuse names that could not be stored or told apart."""
        for field in ("tenant", "user_id", "agent_id", "run_id"):
            check_name(getattr(self, field), field)


def check_name(value: object, field: str) -> None:
    """Raise :class:`InvalidInput` unless ``value`` is ``None`` or a usable identifier of at most 256 characters."""
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidInput(f"{field} must be a string, not {type(value).__name__}")
    if not value.strip() or value != value.strip():
        raise InvalidInput(f"{field} must not be empty or start or end with white space")
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidInput(f"{field} is longer than {MAX_NAME_LENGTH} characters")
    if any(character < " " or "\ud800" <= character <= "\udfff" for character in value):
        raise InvalidInput(f"{field} holds a control character or a lone surrogate")


class Descriptor(Frozen):
    """What the memory is about (A-MEM's note attributes)."""

    title: str | None = None
    keywords: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    context: str | None = None
    language: str | None = None
    entities: tuple[str, ...] = ()
    importance: float | None = None


class Times(Frozen):
    """When it was stored, when it happened, how long it holds. Aware UTC datetimes."""

    created_at: datetime
    updated_at: datetime
    event_time: datetime | None = None
    valid_from: datetime
    valid_to: datetime | None = None
    expires_at: datetime | None = None


class Parent(Frozen):
    """One exact version this cube was derived from."""

    cube_id: str
    version: int


class Provenance(Frozen):
    """Where it came from. ``infer`` records whether the writer asked for note construction.

    ``scribe`` wrote the note: ``offline`` or a model's name. ``remark`` says why a model's answer could not be used, or
    what a memory put aside repeats. ``parents`` of a note are the near-duplicates it stands for.
    """

    source: str = "api"
    author: str | None = None
    infer: bool = True
    scribe: str | None = None
    remark: str | None = None
    parents: tuple[Parent, ...] = ()


class Governance(Frozen):
    """Who may see it, and whether schedulers may touch it."""

    sensitivity: str = "normal"
    pinned: bool = False
    frozen: bool = False
    acl: tuple[str, ...] = ()


class Behaviour(Frozen):
    """How it has been used."""

    recall_count: int = 0
    last_recalled_at: datetime | None = None
    heat: float = 0.0


class MemCube(Frozen):
    """A memory: header plus, for the plaintext tier, its text.

    ``digest`` is the hex SHA-256 of the payload (UTF-8 text here). ``version`` counts from 1 and grows by one with
    every change of text, metadata or descriptor.
    """

    id: str
    scope: Scope
    kind: Kind = Kind.PLAINTEXT
    state: State
    version: int = Field(ge=1)
    digest: str
    text: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    descriptor: Descriptor = Descriptor()
    time: Times
    provenance: Provenance = Provenance()
    governance: Governance = Governance()
    behaviour: Behaviour = Behaviour()


class NewMemory(Frozen):
    """One memory as a caller hands it in, already checked by :mod:`memos.plaintext.intake`."""

    text: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    event_time: datetime | None = None
    expires_at: datetime | None = None
    agent_id: str | None = None
    run_id: str | None = None
    infer: bool = True
    source: str = "api"


class LinkType(StrEnum):
    """What two memories have to do with each other; the first four are said by the later one of the earlier one."""

    CONTRADICTS = "contradicts"
    REFINES = "refines"
    CAUSAL = "causal"
    TEMPORAL = "temporal"
    ENTITY = "entity"
    SEMANTIC = "semantic"
    SAME_SESSION = "same_session"


class Link(Frozen):
    """A typed edge between two cubes of one namespace, seen from ``source_id``.

    Both ends have it. ``reversed`` means that the target says it of the source: of "moved to Oslo" and "lives in Rome",
    the former contradicts the latter. ``author`` is ``offline`` or a model's name.
    """

    source_id: str
    target_id: str
    type: str
    score: float
    author: str
    source_version: int = 1
    target_version: int = 1
    reversed: bool = False
    created_at: datetime

    def seen_from(self, cube_id: str) -> Link:
        """Return the link with ``cube_id`` as its source."""
        if cube_id == self.source_id:
            return self
        turned = {
            "source_id": self.target_id,
            "target_id": self.source_id,
            "source_version": self.target_version,
            "target_version": self.source_version,
            "reversed": not self.reversed,
        }
        return self.model_copy(update=turned)


class CubeVersion(Frozen):
    """One entry of a memory's history, oldest first.

    ``changes`` are the attributes that evolution changed with this version, as ``{name: [before, after]}``.
    """

    cube_id: str
    version: int
    text: str
    metadata: dict[str, Any]
    digest: str
    descriptor: Descriptor = Descriptor()
    author: str | None
    reason: str | None
    changes: dict[str, Any] | None = None
    created_at: datetime
    valid_from: datetime

"""The export format, version 2: JSON Lines, a :class:`Header` and then one :class:`MemoryRecord` per line.

A record is a memory with its whole history, the links that start at it and the near-duplicates it stands for. Vectors
are not in it (any embedder can make them again), nor is how often it was recalled.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, StringConstraints

from memos.cube import Descriptor, Frozen, Governance, State, check_name
from memos.errors import InvalidInput
from memos.ids import is_id

FORMAT = "memos-export"
VERSION = 2
_INT = (1 << 31) - 1


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _identifier(text: str) -> str:
    if not is_id(text):
        raise ValueError(f"{text!r} is not the id of a memory")
    return text


def _name(text: str) -> str:
    try:
        check_name(text, "it")
    except InvalidInput as error:
        raise ValueError(error.message) from error
    return text


def _descriptor(value: Descriptor) -> Descriptor:
    texts = (value.title, value.context, value.language, *value.keywords, *value.tags, *value.entities)
    _storable("".join(text for text in texts if text))
    if len(value.language or "") > 16:
        raise ValueError("language is longer than 16 characters")
    return value


def _governance(value: Governance) -> Governance:
    _storable("".join((value.sensitivity, *value.acl)))
    if len(value.sensitivity) > 32:
        raise ValueError("sensitivity is longer than 32 characters")
    return value


Text = Annotated[str, AfterValidator(_storable)]
ShortText = Annotated[str, StringConstraints(max_length=256), AfterValidator(_storable)]
Name = Annotated[str, AfterValidator(_name)]
Identifier = Annotated[str, AfterValidator(_identifier)]
VersionNumber = Annotated[int, Field(ge=1, le=_INT)]


class Record(Frozen):
    """Base of what the file holds: exact types, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Header(Frozen):
    """The first line. ``memories`` tells a file that was cut short; fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["memos-export"] = "memos-export"
    version: int = VERSION
    created_at: AwareDatetime
    written_by: str = ""
    user_id: str
    agent_id: str | None = None
    run_id: str | None = None
    memories: int = Field(ge=0)


class VersionRecord(Record):
    """One version, as :class:`memos.cube.CubeVersion` and the descriptor and event time it had.

    ``influences`` are other memories that its note says something of: forgetting one takes that back.
    """

    version: VersionNumber
    text: str
    metadata: dict[str, Any]
    descriptor: Annotated[Descriptor, AfterValidator(_descriptor)] = Descriptor()
    event_time: AwareDatetime | None = None
    valid_from: AwareDatetime
    created_at: AwareDatetime
    author: ShortText | None = None
    reason: Text | None = None
    changes: dict[str, Any] | None = None
    influences: tuple[Identifier, ...] = ()


class SourceRecord(Record):
    """A near-duplicate that a memory stands for."""

    id: Identifier
    version: VersionNumber


class LinkRecord(Record):
    """A link from this memory to another one of the namespace."""

    target_id: Identifier
    type: Annotated[str, StringConstraints(min_length=1, max_length=32), AfterValidator(_storable)]
    score: float
    author: ShortText
    created_at: AwareDatetime
    source_version: VersionNumber
    target_version: VersionNumber


def _rising(versions: tuple[VersionRecord, ...]) -> tuple[VersionRecord, ...]:
    numbers = [version.version for version in versions]
    if not numbers or numbers != sorted(set(numbers)):
        raise ValueError("versions must be there and rise in number")
    return versions


class MemoryRecord(Record):
    """One memory; its current version is the last one."""

    id: Identifier
    state: State
    agent_id: Name | None = None
    run_id: Name | None = None
    source: Name
    author: ShortText | None = None
    infer: bool
    scribe: ShortText | None = None
    remark: Text | None = None
    governance: Annotated[Governance, AfterValidator(_governance)] = Governance()
    created_at: AwareDatetime
    updated_at: AwareDatetime
    valid_to: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    versions: Annotated[tuple[VersionRecord, ...], AfterValidator(_rising)]
    links: tuple[LinkRecord, ...] = ()
    sources: tuple[SourceRecord, ...] = ()

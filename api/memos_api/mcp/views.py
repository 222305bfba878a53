"""What the tools answer: as REST, less what costs a language model tokens and tells it nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from memos.wire import Payload

SCORE = "Compares the hits of one answer, and nothing else."


class View(BaseModel):
    """An answer: those fields of the engine's that are named here. Defaults are left out when it is sent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def of(cls, made: Any, payload: Payload) -> Self:
        """Return the view of what an operation made of a payload."""
        return cls.model_validate(made)


class Memory(View):
    """A memory: its text and what is known about it."""

    id: str
    text: str | None = None
    version: int
    state: str
    user_id: str
    agent_id: str | None = None
    run_id: str | None = None
    metadata: dict[str, Any] = {}
    keywords: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    context: str | None = None
    event_time: datetime | None = None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None

    @classmethod
    def of(cls, made: Any, payload: Payload) -> Self:
        """Return a cube with the fields of its header side by side."""
        return cls.model_validate({**made, **made["scope"], **made["descriptor"], **made["time"]})


class Hit(View):
    """A recalled memory."""

    id: str
    text: str
    score: Annotated[float, AfterValidator(lambda score: round(score, 4)), Field(description=SCORE)]
    version: int
    agent_id: str | None = None
    run_id: str | None = None
    metadata: dict[str, Any] = {}
    event_time: datetime


class Recalled(View):
    """Memories, best first."""

    hits: tuple[Hit, ...]


class Page(View):
    """Memories in the order they were stored."""

    memories: tuple[Memory, ...]
    next: Annotated[str | None, Field(description="The `after` of the following page; absent on the last.")] = None

    @classmethod
    def of(cls, made: Any, payload: Payload) -> Self:
        """Return a page, and where the next begins if there may be one."""
        memories = tuple(Memory.of(cube, payload) for cube in made)
        return cls(memories=memories, next=memories[-1].id if len(memories) == payload["limit"] else None)


class LinkView(View):
    """A link to another memory."""

    target_id: str
    type: str
    score: float
    reversed: Annotated[bool, Field(description="Whether the other memory says it of this one.")] = False


class Linked(View):
    """The links of a memory, strongest first."""

    links: tuple[LinkView, ...]

    @classmethod
    def of(cls, made: Any, payload: Payload) -> Self:
        """Return links under their name: an answer is an object."""
        return cls(links=made)


class Receipt(View):
    """What was removed, by place."""

    id: str
    cube_ids: tuple[str, ...]
    removed: dict[str, int]
    pending: Annotated[tuple[str, ...], Field(description="Places that will be emptied once they can be reached.")] = ()
    deleted_at: datetime

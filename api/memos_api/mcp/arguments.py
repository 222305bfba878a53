"""What the tools take: its form for the model that calls; values are checked by the engine alone, as for REST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field

from memos.errors import InvalidInput
from memos.wire import Payload
from memos_api.bodies import SHOWN, Body, Flag, Name, Object, Time

Id = Annotated[str, Field(description="The id of the memory, as store, recall or list returned it."), SHOWN]
User = Annotated[
    Name, Field(description="Whose memories, where you serve several people. Leave it out for the user `default`.")
]
Agent = Annotated[Name, Field(description="Only memories of this agent.")]
Run = Annotated[Name, Field(description="Only memories of this conversation or run.")]
Only = Annotated[Name, Field(description="Fail unless the memory is this user's. Usually left out.")]
Metadata = Annotated[Object, Field(description='A JSON object kept beside the text, such as {"topic": "travel"}.')]
WHEN = "ISO 8601, such as 2026-03-01T09:30:00Z; UTC if it has no offset"


class Arguments(Body):
    """The arguments of a call. An argument that is null counts as left out: models send both."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """Return the arguments of a call. Raises :class:`InvalidInput` where one is missing or unknown."""
        present = {name: value for name, value in given.items() if value is not None}
        for name in present:
            if name not in cls.model_fields:
                raise InvalidInput(f"unknown argument {name!r}; there are {', '.join(cls.model_fields)}")
        for name, field in cls.model_fields.items():
            if field.is_required() and name not in present:
                raise InvalidInput(f"{name} is needed")
        return cls(**present)


class Store(Arguments):
    """One memory to keep."""

    text: Annotated[
        str,
        Field(min_length=1, description="One fact or event, in a sentence that stands by itself."),
        SHOWN,
    ]
    metadata: Metadata = None
    event_time: Annotated[Time, Field(description=f"When it happened, if that is not now: {WHEN}.")] = None
    expires_at: Annotated[Time, Field(description=f"When it stops to hold and is no longer recalled: {WHEN}.")] = None
    infer: Annotated[
        Flag, Field(description="Whether a note (keywords, tags, links to related memories) is made from it.")
    ] = True
    user_id: User = None
    agent_id: Annotated[Name, Field(description="The agent that stores it.")] = None
    run_id: Annotated[Name, Field(description="The conversation or run that it comes from.")] = None
    idempotency_key: Annotated[
        Name, Field(description="Repeating a failed call with the same key stores the memory once.")
    ] = None

    def payload(self) -> Payload:
        """Return them as the engine takes them."""
        given = super().payload()
        names = ("text", "metadata", "event_time", "expires_at", "infer")
        return {"item": {name: given.pop(name) for name in names}, **given}


class Recall(Arguments):
    """A question to memories."""

    query: Annotated[
        str, Field(min_length=1, description="What you want to know, as a question or as key words."), SHOWN
    ]
    top_k: Annotated[int, Field(ge=1, le=1000, description="Most memories to return."), SHOWN] = 10
    filters: Annotated[
        Object,
        Field(
            description="Only memories that match, applied before ranking. Fields: metadata.NAME, agent_id, run_id, "
            "state, event_time, created_at, expires_at. Operators: $eq $ne $in $nin $gt $gte $lt $lte $contains, and "
            '$and $or $not of filters. Such as {"metadata.topic": "travel", "event_time": {"$gte": "2026-01-01"}}.'
        ),
    ] = None
    as_of: Annotated[Time, Field(description=f"Answer with what held at this time: {WHEN}.")] = None
    user_id: User = None
    agent_id: Agent = None
    run_id: Run = None

    def payload(self) -> Payload:
        """Return them as the engine takes them: without the text block for prompts, which says the hits again."""
        return {**super().payload(), "max_tokens": None, "explain": False}


class Get(Arguments):
    """Which memory."""

    id: Id
    user_id: Only = None


class Links(Get):
    """Which memory's links."""


class Forget(Get):
    """Which memory is to go."""


class Update(Arguments):
    """What of a memory is to be another."""

    id: Id
    text: Annotated[str | None, Field(min_length=1, description="The new text, whole."), SHOWN] = None
    metadata: Annotated[Object, Field(description="The new metadata, whole: it replaces the old.")] = None
    expected_version: Annotated[
        int | None,
        Field(ge=1, description="The version you read. Fails if it is no longer the current one."),
        SHOWN,
    ] = None
    user_id: Only = None


class List(Arguments):
    """Which page of memories."""

    user_id: User = None
    agent_id: Agent = None
    run_id: Run = None
    limit: Annotated[int, Field(ge=1, le=1000, description="Most memories of the page."), SHOWN] = 20
    after: Annotated[str | None, Field(description="The `next` of the page before."), SHOWN] = None

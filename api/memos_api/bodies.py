"""Bodies of requests: their form in the OpenAPI document; their values are checked by the engine alone.

One place decides what a memory, a filter or a time may be, whether it comes over HTTP or from Python, so that the same
mistake has the same error. A body is refused here only for a field that is missing or unknown.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema, core_schema


class Shown:
    """Marks an annotation as a description: the schema of the type is shown, any value is let through."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return a schema that accepts everything and is rendered as ``source``."""
        described = handler(source)
        return core_schema.any_schema(
            metadata={"pydantic_js_functions": [lambda _, render: render(described)]},
        )


SHOWN = Shown()
Name = Annotated[str | None, Field(min_length=1, max_length=256), SHOWN]
Time = Annotated[datetime | None, SHOWN]
Flag = Annotated[bool, SHOWN]
Object = Annotated[dict[str, Any] | None, SHOWN]
Ids = Annotated[list[str], SHOWN]


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def payload(self) -> dict[str, Any]:
        """Return the fields as they came, with the defaults of those that did not."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class Whose(Body):
    """Whose memory: the tenant comes from the API key. An omitted ``user_id`` means the namespace ``default``."""

    user_id: Name = None
    agent_id: Name = None
    run_id: Name = None


class StoreBody(Whose):
    """One memory."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Ann adopted a cat", "user_id": "u1"}]})

    text: Annotated[str, Field(min_length=1), SHOWN]
    metadata: Object = None
    event_time: Time = None
    expires_at: Time = None
    infer: Flag = True


class Item(Body):
    """One memory of several."""

    text: Annotated[str, Field(min_length=1), SHOWN]
    metadata: Object = None
    event_time: Time = None
    expires_at: Time = None
    agent_id: Name = None
    run_id: Name = None
    infer: Flag = True
    source: Name = None


class StoreManyBody(Whose):
    """Several memories of one user, stored all or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"memories": [{"text": "Ann: hi"}, {"text": "Bo: hello"}], "user_id": "u1", "run_id": "s1"}]
        }
    )

    memories: Annotated[list[Item], SHOWN]


def _form(body: Any) -> str:
    many = "memories" in body if isinstance(body, dict) else isinstance(body, StoreManyBody)
    return "many" if many else "one"


OneOrMany = Annotated[
    Annotated[StoreBody, Tag("one")] | Annotated[StoreManyBody, Tag("many")],
    Discriminator(_form),
]


class RecallBody(Whose):
    """A question to the memories of a user."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "which pet?", "user_id": "u1", "top_k": 5}]})

    query: Annotated[str, Field(min_length=1), SHOWN]
    top_k: Annotated[int, Field(ge=1), SHOWN] = 10
    filters: Object = None
    as_of: Time = None
    max_tokens: Annotated[int | None, Field(ge=1), SHOWN] = None
    explain: Flag = False


class UpdateBody(Body):
    """What of a memory is to be another; ``metadata`` replaces the old whole."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Ann has two cats", "expected_version": 1}]})

    text: Annotated[str | None, Field(min_length=1), SHOWN] = None
    metadata: Object = None
    expected_version: Annotated[int | None, Field(ge=1), SHOWN] = None
    user_id: Name = None


class RollbackBody(Body):
    """The version whose content becomes the newest."""

    version: Annotated[int, Field(ge=1), SHOWN]
    user_id: Name = None


class RefineBody(Body):
    """Whose notes are to be written again: those of ``ids``, or all that wait or fell back to rules."""

    ids: Annotated[list[str] | None, SHOWN] = None
    user_id: Name = None


class PromoteBody(Body):
    """How one memory is to be carried into a higher tier."""

    to: Annotated[Literal["activation", "parametric"], SHOWN]
    codec: Annotated[str | None, SHOWN] = None
    options: Object = None
    user_id: Name = None


class KVSettingsBody(Body):
    """How the KV files of a user are made and put together; what is null or missing is as the process is set."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"user_id": "u1", "codec": "snapkv:0.5+zipcache", "compose": "blend", "ratio": 0.2}]
        }
    )

    codec: Annotated[str | None, Field(max_length=256), SHOWN] = None
    compose: Annotated[str | None, SHOWN] = None
    ratio: Annotated[float | None, Field(ge=0, le=1), SHOWN] = None
    user_id: Name = None


class BundleBody(PromoteBody):
    """Memories of one user that are carried into a higher tier together."""

    ids: Ids


class FuseAdaptersBody(Body):
    """Adapters of one user that become one."""

    ids: Ids
    user_id: Name = None


class WhichBody(Body):
    """Confines a call by id to one user."""

    user_id: Name = None


class HoldBody(Body):
    """The memory that is to be held, or the user all of whose memories are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "u1", "reason": "case 17/2026"}]})

    id: Annotated[str | None, SHOWN] = None
    user_id: Name = None
    reason: Name = None


class RetentionBody(Body):
    """How many days memories of a user are kept; 0 is for good."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "u1", "days": 365}]})

    days: Annotated[int, Field(ge=0), SHOWN]
    user_id: Name = None


class ReceiptBody(Body):
    """A receipt as a deletion returned it."""

    receipt: Annotated[dict[str, Any], SHOWN]


class KeyBody(Body):
    """A new API key of the caller's tenant."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "agent", "scopes": ["read", "write"]}]})

    scopes: Annotated[list[Literal["read", "write", "admin"]], Field(min_length=1), SHOWN]
    name: Name = None
    expires_at: Time = None

"""A chat request as OpenAI clients send it, and what of it concerns memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from memos.errors import InvalidInput
from memos_api.bodies import SHOWN, Body, Flag, Name


class Extension(Body):
    """What concerns memory: whose, how much, and whether the new turns are stored."""

    user_id: Name = None
    agent_id: Name = None
    run_id: Name = None
    top_k: Annotated[int, Field(ge=0), SHOWN] = 10
    store: Flag = True
    reuse: Flag = True
    adapters: Annotated[list[str] | None, SHOWN] = None
    text: Flag = True
    compose: Name = None
    ratio: Annotated[float | None, SHOWN] = None
    retrieval: Name = None


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="allow")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class ChatBody(BaseModel):
    """A request for a chat completion. Fields that are not named here go to an upstream server as they are."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "memos",
                    "messages": [{"role": "user", "content": "Where does Ann live?"}],
                    "max_tokens": 32,
                    "memos": {"user_id": "u1", "run_id": "s2"},
                }
            ]
        },
    )

    model: str = "memos"
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=1)
    user: str | None = Field(None, description="OpenAI's name for the user; `memos.user_id` wins over it.")
    store: bool | None = Field(None, description="OpenAI's switch; `memos.store` false has the same effect.")
    memos: Extension = Extension()

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def whose(self) -> dict[str, Any]:
        """Whose memory, as operations take it."""
        given = self.memos
        user = given.user_id if given.user_id is not None else self.user
        return {"user_id": user, "agent_id": given.agent_id, "run_id": given.run_id}

    @property
    def keeps(self) -> bool:
        """Whether the new turns are stored."""
        return bool(self.memos.store) and self.store is not False


@dataclass(slots=True)
class Turn:
    """One exchange with memory: the question, and what came of it. ``problem`` says why it was not stored."""

    question: str
    answer: str = ""
    stored: list[str] = field(default_factory=list)
    problem: dict[str, Any] | None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        """The turn as memories."""
        said = (("user", self.question), ("assistant", self.answer))
        return [{"text": text, "metadata": {"role": role}, "source": "chat"} for role, text in said if text.strip()]


def plain_messages(body: ChatBody) -> list[dict[str, str]]:
    """Return the messages with their contents as text. Raises :class:`InvalidInput`."""
    return [{"role": one.role, "content": text_of(one)} for one in body.messages]


def text_of(message: ChatMessage) -> str:
    """Return the text of a message."""
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        raise InvalidInput(f"a message of the {message.role} has no content")
    return "\n".join(part.text for part in message.content)


def question_of(body: ChatBody) -> str:
    """Return the text of the user's last message: what memory is asked, and what is kept."""
    for message in reversed(body.messages):
        if message.role == "user" and message.content is not None:
            return text_of(message)
    raise InvalidInput("there is no message of the user to answer")

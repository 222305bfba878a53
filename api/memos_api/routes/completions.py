"""``/v1/chat/completions``, ``/v1/embeddings`` and ``/v1/models``, for any OpenAI client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from memos.access import Permission
from memos.errors import InvalidInput, MemosError, NotFound
from memos.wire import Wire
from memos_api.answers import EVENTS, Answer, EventStream, encoded
from memos_api.caller import Caller, CallerOf
from memos_api.completions import local, upstream
from memos_api.completions.form import Form
from memos_api.completions.keeping import keep
from memos_api.completions.request import ChatBody, Turn, question_of
from memos_api.edge import GONE
from memos_api.problems import problems
from memos_api.service import Service, ServiceOf

router = APIRouter(tags=["openai"])

FAILING = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503, 504, 507)
#: The name under which the local model always answers.
ALIAS = "memos"
#: Seconds between two looks whether a client still waits.
LOOK_S = 0.5


class Completion(BaseModel):
    """A chat completion; ``memos`` says which cubes it was made with and which memories were made of it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]
    memos: dict[str, Any]


class EmbeddingsBody(BaseModel):
    """Texts to be embedded by the model that embeds memories."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "memos", "input": ["a cat", "a dog"]}]})

    model: str = ALIAS
    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class Embeddings(BaseModel):
    """Unit vectors, one for each text; base64 is of little-endian float32."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, int]


class Models(BaseModel):
    """The models that can be named."""

    object: Literal["list"]
    data: list[dict[str, Any]]


@router.post(
    "/chat/completions",
    response_model=Completion,
    responses={
        200: {"content": EVENTS},
        **problems(*FAILING),
    },
    summary="Answer a chat with memory",
)
async def chat(body: ChatBody, request: Request, caller: CallerOf, service: ServiceOf) -> Response:
    """Answer the last message with what the user's memories say about it, and store the new turns.

    ``stream`` sends the answer as server-sent events.
    """
    if service.upstream is not None and body.model not in _local_names(service):
        return await _upstream(service, service.upstream, caller, body)
    if body.model not in _local_names(service):
        raise NotFound(f"there is no model {body.model!r} here; GET /v1/models lists those that are")
    answering, task = await local.begin(service, caller, body)
    if not body.stream:
        return await _whole(request, answering, task, body)
    first = await answering.pieces.get()
    if first is None:
        await task  # what is refused before the first piece is refused with its status
    return EventStream(local.stream(first, answering, task, body))


@router.post("/embeddings", response_model=Embeddings, responses=problems(*FAILING), summary="Embed texts")
async def embeddings(body: EmbeddingsBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Embed texts with the model that embeds memories."""
    texts = [body.input] if isinstance(body.input, str) else body.input

    def work(wire: Wire) -> bytes:
        vectors, tokens = wire.engine.embed(texts)
        if body.dimensions not in (None, vectors.shape[1]):
            raise InvalidInput(f"this model makes vectors of {vectors.shape[1]} elements, not {body.dimensions}")
        coded = body.encoding_format == "base64"
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() if coded else row.tolist() for row in vectors]
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return encoded({"object": "list", "data": data, "model": wire.engine.settings.embedder, "usage": usage})

    return Answer(await service.run(caller, Permission.READ, work))


@router.get("/models", response_model=Models, responses=problems(401, 403, 429, 503, 504), summary="List models")
async def models(caller: CallerOf, service: ServiceOf) -> Answer:
    """List the local model and those of the upstream server."""
    await service.run(caller, Permission.READ, lambda _: None)
    here = [{"id": name, "object": "model", "created": 0, "owned_by": "memos"} for name in _local_names(service)]
    there = await service.upstream.models() if service.upstream is not None else []
    return Answer(encoded({"object": "list", "data": [*here, *there]}))


# ------------------------------------------------------------ inside


def _local_names(service: Service) -> list[str]:
    ready = service.engine.models.ready
    loaded = [ready.loaded.name] if ready is not None else []
    return list(dict.fromkeys([ALIAS, service.engine.settings.model, *loaded]))


async def _whole(request: Request, answering: local.Answering, task: local.Replying, body: ChatBody) -> Answer:
    """Wait for the answer, as long as somebody else does."""
    while not task.done():
        await asyncio.wait({task}, timeout=LOOK_S)
        if not task.done() and await request.is_disconnected():
            answering.gone.set()
    try:
        reply, turn = task.result()
    except local.NobodyListens:
        return Answer(b"", GONE)
    return Answer(encoded(Form(body.model).completion(reply, turn)))


async def _upstream(service: Service, server: upstream.Upstream, caller: Caller, body: ChatBody) -> Response:
    turn = Turn(question_of(body))
    permission = Permission.WRITE if body.keeps else Permission.READ
    memories, recalled = await service.run(caller, permission, lambda wire: _memories(wire, body, turn.question))
    if not body.stream:
        answer = await server.complete(body, memories, turn)
        await _keep(service, caller, body, turn)
        return Answer(encoded({**answer, "memos": upstream.served(turn, recalled)}))
    response = await server.open(body, memories)

    async def events() -> AsyncIterator[bytes]:
        async for piece in upstream.relay(response, turn):
            yield piece
        await _keep(service, caller, body, turn)
        for piece in upstream.last(body, turn, recalled):
            yield piece

    return EventStream(events())


def _memories(wire: Wire, body: ChatBody, question: str) -> tuple[str, list[str]]:
    """Return the text of the memories for a prompt, and their ids."""
    if body.memos.top_k == 0:
        return "", []
    found = wire.call(
        "recall",
        {
            "query": question,
            **body.whose,
            "top_k": body.memos.top_k,
            "filters": None,
            "as_of": None,
            "max_tokens": wire.engine.settings.chat_memory_tokens,
            "explain": False,
        },
    )
    return found["context"], [hit["id"] for hit in found["hits"]]


async def _keep(service: Service, caller: Caller, body: ChatBody, turn: Turn) -> None:
    if not body.keeps:
        return
    try:
        await service.run(caller, Permission.WRITE, lambda wire: keep(wire, turn, body.whose), again=True)
    except MemosError as error:
        turn.problem = error.problem()

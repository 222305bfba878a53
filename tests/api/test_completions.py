"""Chats with memory for any OpenAI client: the official one, against the real model and an upstream server."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.runtime.host import ModelHost
from memos_sdk import AsyncMemory, Memory
from memos_sdk.errors import RetrievalRefused

pytestmark = pytest.mark.timeout(300)  # loads the bundled model
QUESTION = [{"role": "user", "content": "Where does Ann live?"}]


@pytest.fixture(scope="module")
def chatting(
    tmp_path_factory: pytest.TempPathFactory, embedder: Embedder, models: ModelHost, serve: Callable[..., Any]
) -> Iterator[Any]:
    """A service with the real model."""
    home = tmp_path_factory.mktemp("chat")
    with serve(lambda: MemoryOS(Settings(home=home, notes="off"), embedder, models)) as service:
        service.key()
        yield service


@pytest.fixture
def key(chatting: Any) -> str:
    """A key of a tenant of this test's own."""
    return str(chatting.key())


@pytest.fixture
def client(chatting: Any, key: str) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{chatting.url}/v1", api_key=key, max_retries=0, timeout=120) as opened:
        yield opened


@pytest.fixture
def memory(chatting: Any, key: str) -> Iterator[Memory]:
    """The same memories, as an agent sees them."""
    with Memory(chatting.url, api_key=key) as opened:
        opened.store("Ann lives in Tromsø.")
        yield opened


def create(client: openai.OpenAI, **asked: Any) -> Any:
    """Ask for a completion with whatever arguments, good or bad."""
    return client.chat.completions.create(**asked)


def test_answer_knows_memories_and_keeps_the_turns(client: openai.OpenAI, memory: Memory) -> None:
    told = create(client, model="memos", messages=QUESTION, max_tokens=12)
    assert "Troms" in told.choices[0].message.content
    assert told.choices[0].finish_reason in ("stop", "length")
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens
    extra = told.model_extra["memos"]
    assert extra["problem"] is None
    texts = [memory.get(cube_id).text for cube_id in extra["stored"]]
    assert texts == [QUESTION[0]["content"], told.choices[0].message.content]
    assert [one.metadata for one in memory.list()[1:]] == [{"role": "user"}, {"role": "assistant"}]


@pytest.mark.parametrize("how", [{"store": False}, {"extra_body": {"memos": {"store": False}}}])
def test_turns_are_not_kept_where_not_wanted(client: openai.OpenAI, memory: Memory, how: dict[str, Any]) -> None:
    create(client, model="memos", messages=QUESTION, max_tokens=2, **how)
    assert memory.stats().memories == 1


def test_users_are_apart(client: openai.OpenAI, memory: Memory) -> None:
    """OpenAI's ``user`` and ours name the same thing."""
    for named in ({"user": "bo"}, {"extra_body": {"memos": {"user_id": "bo"}}}):
        told = create(client, model="memos", messages=QUESTION, max_tokens=2, store=False, **named)
        assert told.model_extra["memos"]["tiers"] == {"plaintext": []}


def test_retrieval_is_taken_and_told(client: openai.OpenAI, memory: Memory) -> None:
    """What is not there, no file attends; what does not exist is refused over every way in, in one class."""
    extra = {"extra_body": {"memos": {"retrieval": "quest:0.25"}}}
    usage = create(client, model="memos", messages=QUESTION, max_tokens=2, store=False, **extra).usage
    assert (usage.retrieval, usage.attended) == (None, 1.0)
    assert memory.chat(QUESTION, max_tokens=2, retrieval="vq:0.5").usage.attended == 1.0
    with pytest.raises(openai.UnprocessableEntityError):
        create(client, model="memos", messages=QUESTION, extra_body={"memos": {"retrieval": "nearest:0.5"}})
    with pytest.raises(RetrievalRefused, match="nearest"):
        memory.chat(QUESTION, retrieval="nearest:0.5")


def test_stream_is_the_same_text(client: openai.OpenAI, memory: Memory) -> None:
    asked: dict[str, Any] = {"model": "memos", "messages": QUESTION, "max_tokens": 12, "store": False}
    whole = create(client, **asked)
    chunks = list(create(client, **asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 3
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0  # the prompt before is still there
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_client_of_ours_streams(chatting: Any, key: str, memory: Memory) -> None:
    with_memory = memory.chat(QUESTION, max_tokens=12)
    stream = memory.chat_stream(QUESTION, max_tokens=12)
    assert "".join(stream) == with_memory.text == stream.reply.text
    assert stream.reply.tiers == with_memory.tiers

    async def live() -> tuple[str, str]:
        async with AsyncMemory(chatting.url, api_key=key) as other:
            streamed = other.chat_stream(QUESTION, max_tokens=12)
            pieces = [piece async for piece in streamed]
            return "".join(pieces), (await streamed.reply()).text

    assert asyncio.run(live()) == (with_memory.text, with_memory.text)
    assert memory.stats().memories == 1  # as an embedded chat, it stores nothing


def test_embedded_client_streams(tmp_path: Path, embedder: Embedder) -> None:
    with Memory(path=tmp_path, embedder=embedder) as memory:
        stream = memory.chat_stream(QUESTION, max_tokens=6)
        assert "".join(stream) == stream.reply.text == memory.chat(QUESTION, max_tokens=6).text
        for _ in memory.chat_stream(QUESTION, max_tokens=200):
            break  # whoever stops listening ends the chat
        assert memory.stats().memories == 0


def test_listener_who_leaves_ends_the_answer(chatting: Any, client: openai.OpenAI, models: ModelHost) -> None:
    asked: dict[str, Any] = {"model": "memos", "messages": [{"role": "user", "content": "Count to 500: 1, 2, 3,"}]}
    stream = create(client, **asked, max_tokens=2_000, stream=True)
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        create(client.with_options(timeout=0.5), **asked, max_tokens=2_000)
    for _ in range(400):
        if models.serving().runtime.idle and not chatting.service.chats.taken:
            break
        time.sleep(0.05)
    assert models.serving().runtime.idle
    assert chatting.service.chats.taken == 0


def test_many_chats_at_once(client: openai.OpenAI, memory: Memory) -> None:
    answers: list[str] = []

    def ask() -> None:
        told = create(client, model="memos", messages=QUESTION, max_tokens=6, store=False)
        answers.append(told.choices[0].message.content)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError),
        ({"messages": []}, openai.UnprocessableEntityError),
        ({"messages": [{"role": "user", "content": None}]}, openai.UnprocessableEntityError),
        ({"messages": [{"role": "assistant", "content": "x"}]}, openai.UnprocessableEntityError),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, openai.UnprocessableEntityError),
        ({"messages": [{"role": "tool", "content": "x"}, QUESTION[0]]}, openai.UnprocessableEntityError),
        ({"temperature": -1}, openai.UnprocessableEntityError),
        ({"max_tokens": 0}, openai.UnprocessableEntityError),
        ({"n": 2}, openai.UnprocessableEntityError),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, openai.UnprocessableEntityError),
        ({"extra_body": {"memos": {"colour": 1}}}, openai.UnprocessableEntityError),
        ({"extra_body": {"memos": {"adapters": ["x"]}}}, openai.NotFoundError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(
    client: openai.OpenAI, body: dict[str, Any], kind: type[openai.APIStatusError], stream: bool
) -> None:
    asked: dict[str, Any] = {"model": "memos", "messages": QUESTION, "max_tokens": 4, "stream": stream, **body}
    with pytest.raises(kind) as caught:
        create(client, **asked)
    assert caught.value.response.headers["Content-Type"] == "application/problem+json"
    assert caught.value.body["code"]  # type: ignore[index]


def test_models_and_embeddings(client: openai.OpenAI, embedder: Embedder) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "memos"
    assert "bundled" in names
    told = client.embeddings.create(model="memos", input=["a cat", "a dog"])
    assert np.allclose([one.embedding for one in told.data], embedder.embed(["a cat", "a dog"]), atol=1e-6)
    plain = client.embeddings.create(model="memos", input="a cat", encoding_format="base64")
    coded: Any = plain.data[0].embedding
    assert np.allclose(np.frombuffer(base64.b64decode(coded), "<f4"), told.data[0].embedding)
    refused: list[dict[str, Any]] = [{"input": []}, {"input": ""}, {"input": "x", "dimensions": 7}]
    for wrong in refused:
        with pytest.raises(openai.UnprocessableEntityError):
            client.embeddings.create(model="memos", **wrong)


# ---------------------------------------------------------------- an upstream server


@pytest.fixture
def front(tmp_path: Path, embedder: Embedder, chatting: Any, key: str, serve: Callable[..., Any]) -> Iterator[Any]:
    """A service whose chats another OpenAI-compatible server answers: the one with the model."""
    upstream = {"upstream_url": f"{chatting.url}/v1", "upstream_key": key}
    with serve(lambda: MemoryOS(Settings(home=tmp_path, notes="off"), embedder), **upstream) as service:
        yield service


def test_upstream_that_refuses(front: Any) -> None:
    for stream in (False, True):
        asked = {"model": "no-such-model", "messages": QUESTION, "stream": stream}
        answer = httpx.post(f"{front.url}/v1/chat/completions", json=asked)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
        assert "answered 404" in answer.json()["detail"]


def test_upstream_answers(front: Any, chatting: Any) -> None:
    (name,) = {chatting.service.engine.models.serving().loaded.name} - {"memos"}
    listed = [one["id"] for one in httpx.get(f"{front.url}/v1/models").json()["data"]]
    assert name in listed
    httpx.post(f"{front.url}/v1/memories", json={"text": "Ann lives in Tromsø."})
    asked: dict[str, Any] = {"model": name, "messages": QUESTION, "max_tokens": 12}
    whole = httpx.post(f"{front.url}/v1/chat/completions", json=asked, timeout=60).json()
    assert "Troms" in whole["choices"][0]["message"]["content"]
    assert len(whole["memos"]["tiers"]["plaintext"]) == 1
    assert len(whole["memos"]["stored"]) == 2
    with httpx.stream("POST", f"{front.url}/v1/chat/completions", json={**asked, "stream": True}, timeout=60) as told:
        lines = [line for line in told.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert '"stored":["' in lines[-2]
    assert len(httpx.get(f"{front.url}/v1/memories").json()["memories"]) == 5


def test_upstream_that_is_down(tmp_path: Path, embedder: Embedder, serve: Callable[..., Any]) -> None:
    with serve(
        lambda: MemoryOS(Settings(home=tmp_path, notes="off"), embedder), upstream_url="http://127.0.0.1:9/v1"
    ) as service:
        for stream in (False, True):
            asked = {"model": "x", "messages": QUESTION, "stream": stream}
            answer = httpx.post(f"{service.url}/v1/chat/completions", json=asked)
            assert (answer.status_code, answer.json()["code"]) == (503, "model-unavailable")
        assert httpx.get(f"{service.url}/v1/stats").json()["memories"] == 0

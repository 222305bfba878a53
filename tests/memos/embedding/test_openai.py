"""The OpenAI-compatible embedder against applications in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from memos.embedding.openai import OpenAIEmbedder
from memos.errors import EmbedderUnavailable

Handler = Callable[[httpx.Request], httpx.Response]


def vector(text: str) -> list[float]:
    return [float(len(text)), 1.0, -2.0]


def answer(texts: list[str], **change: Any) -> httpx.Response:
    data = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
    return httpx.Response(200, json={"data": data, "model": "m", **change})


class Application:
    """Answers like an endpoint and remembers what it was asked; ``first`` responses come before that."""

    def __init__(self, *first: httpx.Response | Exception) -> None:
        self.first = list(first)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.first:
            response = self.first.pop(0)
            if isinstance(response, Exception):
                raise response
            return response
        return answer(self.texts(-1))

    def texts(self, number: int) -> list[str]:
        found: list[str] = json.loads(self.requests[number].content)["input"]
        return found


def embedder(handler: Handler, **options: Any) -> OpenAIEmbedder:
    transport = httpx.MockTransport(handler)
    return OpenAIEmbedder("m", "http://host:1/v1/", "key", transport=transport, backoff_s=0, **options)


def test_vectors_are_unit_rows_in_order() -> None:
    vectors = embedder(Application()).embed(["a", "abc"])
    expected = np.array([vector("a"), vector("abc")])
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_request_form() -> None:
    application = Application()
    embedder(application).embed(["é"])
    request = application.requests[0]
    assert str(request.url) == "http://host:1/v1/embeddings"
    assert request.headers["Authorization"] == "Bearer key"
    assert json.loads(request.content) == {"model": "m", "input": ["é"], "encoding_format": "float"}


def test_no_key_no_header() -> None:
    application = Application()
    OpenAIEmbedder("m", "http://host/v1", "", transport=httpx.MockTransport(application)).embed(["a"])
    assert "Authorization" not in application.requests[0].headers


def test_batches() -> None:
    application = Application()
    texts = [f"text {'x' * n}" for n in range(10)]
    vectors = embedder(application, batch=4).embed(texts)
    assert [len(application.texts(n)) for n in range(3)] == [4, 4, 2]
    assert vectors == pytest.approx(embedder(Application()).embed(texts))


def test_no_texts() -> None:
    assert embedder(Application()).embed([]).shape == (0, 3)


def test_answers_out_of_order_are_sorted() -> None:
    data = [{"index": 1, "embedding": [0.0, 1.0]}, {"index": 0, "embedding": [1.0, 0.0]}]
    vectors = embedder(lambda _: httpx.Response(200, json={"data": data})).embed(["a", "b"])
    assert vectors.tolist() == [[1, 0], [0, 1]]


def test_dimension_is_learnt_once() -> None:
    application = Application()
    made = embedder(application)
    assert (made.dimension, made.dimension, len(application.requests)) == (3, 3, 1)


def test_identity_names_model_and_host() -> None:
    assert embedder(Application()).identity == "openai:m@host"


def test_tokens_are_overestimated() -> None:
    made = embedder(Application())
    assert made.count_tokens("one two three") >= 3
    assert made.count_tokens("猫" * 100) >= 100


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retries_then_succeeds(status: int) -> None:
    application = Application(httpx.Response(status), httpx.Response(status))
    assert embedder(application).embed(["a"]).shape == (1, 3)
    assert len(application.requests) == 3


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (401, 1), (404, 1), (429, 3), (500, 3)])
def test_gives_up(status: int, attempts: int) -> None:
    application = Application(*[httpx.Response(status, text="no such luck") for _ in range(9)])
    with pytest.raises(EmbedderUnavailable, match=f"answered {status}: no such luck"):
        embedder(application).embed(["a"])
    assert len(application.requests) == attempts


@pytest.mark.parametrize(
    "failure",
    [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut")],
)
def test_no_answer(failure: Exception) -> None:
    with pytest.raises(EmbedderUnavailable, match="does not answer"):
        embedder(Application(*[failure] * 9)).embed(["a"])


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "[]",
        "{}",
        '{"data": null}',
        '{"data": [{"index": 0}]}',
        '{"data": [{"embedding": [1]}]}',
        '{"data": [{"index": 0, "embedding": "AAAA"}]}',
        '{"data": [{"index": 0, "embedding": null}]}',
        '{"data": [{"index": 0, "embedding": [1, "x"]}]}',
        '{"data": [{"index": 0, "embedding": []}]}',
        '{"data": [{"index": 0, "embedding": 5}]}',
        '{"data": ["x"]}',
    ],
)
def test_strange_answers(body: str) -> None:
    with pytest.raises(EmbedderUnavailable):
        embedder(lambda _: httpx.Response(200, text=body)).embed(["a"])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_count(count: int) -> None:
    with pytest.raises(EmbedderUnavailable, match=f"{count} vectors for 2 texts"):
        embedder(lambda _: answer(["x"] * count)).embed(["a", "b"])


@pytest.mark.parametrize("rows", [[[0, 0]], [[float("nan"), 1]], [[float("inf"), 1]]])
def test_unusable_vectors(rows: list[list[float]]) -> None:
    data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    body = json.dumps({"data": data})
    with pytest.raises(EmbedderUnavailable, match="zero or non-finite"):
        embedder(lambda _: httpx.Response(200, text=body)).embed(["a"])


def test_ragged_widths_within_an_answer() -> None:
    data = [{"index": 0, "embedding": [1.0, 2.0]}, {"index": 1, "embedding": [1.0]}]
    with pytest.raises(EmbedderUnavailable):
        embedder(lambda _: httpx.Response(200, json={"data": data})).embed(["a", "b"])


def test_width_changes_between_batches() -> None:
    widths = iter([2, 3])

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0] * next(widths)}]})

    with pytest.raises(EmbedderUnavailable, match="3 elements, before of 2"):
        embedder(handler, batch=1).embed(["a", "b"])


def test_width_changes_between_calls() -> None:
    """A vector of another width than the model's must not reach the store."""
    widths = iter([2, 3])

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0] * next(widths)}]})

    made = embedder(handler)
    assert made.dimension == 2
    with pytest.raises(EmbedderUnavailable, match="3 elements, before of 2"):
        made.embed(["a"])

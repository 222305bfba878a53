"""What arrives at the edge: bodies that cannot be read, clients that stall or leave, more work than there is room."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS


@pytest.fixture
def small(tmp_path: Path, embedder: Embedder, serve: Callable[..., Any]) -> Any:
    """A service with little room and little patience."""
    limits = {"max_body_bytes": 10_000, "stall_s": 0.5, "threads": 1, "waiting": 1, "timeout_s": 1.0}
    return lambda **more: serve(lambda: MemoryOS(Settings(home=tmp_path), embedder), **{**limits, **more})


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"text": "x"', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"text": "x"}', "text/plain", 415),
        (b'{"text": "x"}', "application/x-www-form-urlencoded", 415),
        (b"[]", "application/json", 422),
        (b'"x"', "application/json", 422),
        (b"5", "application/json", 422),
        (b"null", "application/json", 422),
        (b"{}", "application/json", 422),
        (b'{"text": "x", "colour": 1}', "application/json", 422),
        (b'{"text": 5}', "application/json", 422),
        (b"[" * 100_000, "application/json", 400),
        (b'{"text": ' + b"9" * 5_000 + b"}", "application/json", 400),
    ],
)
def test_bodies_that_cannot_be_used(client: httpx.Client, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/v1/memories", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (status, f"urn:memos:problem:{problem['code']}")
    assert client.get("/v1/stats").json()["memories"] == 0


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    for path in ("/", "/v1", "/v1/memories/", "/v2/memories", "/v1/%00", "/v1/memories/%2e%2e/keys"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), path
    answer = client.put("/v1/recall", json={})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_trailing_slash_never_means_the_collection(client: httpx.Client) -> None:
    """``DELETE /v1/memories/`` is an id that got lost, not a wish to forget everything."""
    client.post("/v1/memories", json={"text": "x"})
    assert client.delete("/v1/memories/").status_code == 404
    assert client.get("/v1/stats").json()["memories"] == 1


@pytest.mark.parametrize("tag", ["3", '"x"', '""', '"-1"', 'W/"1"', '"1", "2"'])
def test_bad_if_match(client: httpx.Client, tag: str) -> None:
    made = client.post("/v1/memories", json={"text": "x"}).json()
    answer = client.patch(f"/v1/memories/{made['id']}", json={"text": "y"}, headers={"If-Match": tag})
    assert answer.status_code in (400, 412), answer.text
    assert client.get(f"/v1/memories/{made['id']}").json()["version"] == 1


def test_if_match(client: httpx.Client) -> None:
    made = client.post("/v1/memories", json={"text": "x"})
    path = made.headers["Location"]
    assert made.headers["ETag"] == client.get(path).headers["ETag"] == '"1"'
    changed = client.patch(path, json={"text": "y"}, headers={"If-Match": '"1"'})
    assert changed.headers["ETag"] == '"2"'
    stale = client.patch(path, json={"text": "z"}, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["current_version"]) == (412, 2)
    told = client.patch(path, json={"text": "z", "expected_version": 1})
    assert (told.status_code, told.json()["code"], told.json()["current_version"]) == (409, "version-conflict", 2)
    assert client.patch(path, json={"text": "z"}, headers={"If-Match": "*"}).status_code == 200


def test_request_id(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    for odd in ("", "x" * 200, 'a"b'):
        assert client.get("/healthz", headers={"X-Request-ID": odd}).headers["X-Request-ID"] not in ("", odd)


@pytest.mark.parametrize("announced", [True, False])
def test_body_over_the_limit(small: Any, announced: bool) -> None:
    body = json.dumps({"text": "x" * 20_000}).encode()
    content = body if announced else iter([body[:9_000], body[9_000:]])
    with small() as service:
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{service.url}/v1/memories", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
        assert httpx.get(f"{service.url}/v1/stats").json()["memories"] == 0


def test_client_that_stalls_is_let_go(small: Any) -> None:
    with small() as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            head = f"POST /v1/memories HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 90"
            line.sendall(f'{head}\r\n\r\n{{"text":'.encode())
            line.settimeout(5)
            assert b" 400 " in line.recv(65_536)
        assert httpx.get(f"{service.url}/v1/stats").status_code == 200


def test_client_that_leaves_in_mid_body_harms_nobody(small: Any) -> None:
    with small() as service:
        host, port = service.url.removeprefix("http://").split(":")
        for _ in range(20):
            with socket.create_connection((host, int(port))) as line:
                line.sendall(b'POST /v1/memories HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{"text":')
        assert httpx.get(f"{service.url}/v1/stats").json()["memories"] == 0


def test_more_work_than_room(small: Any) -> None:
    with small(timeout_s=10.0) as service:
        release = blocked(service)
        try:
            statuses: list[tuple[int, str | None]] = []

            def ask() -> None:
                answer = httpx.get(f"{service.url}/v1/stats", timeout=20)
                statuses.append((answer.status_code, answer.headers.get("Retry-After")))

            threads = [threading.Thread(target=ask) for _ in range(5)]
            for thread in threads:
                thread.start()
            while len(statuses) < 3:
                time.sleep(0.01)
            assert set(statuses) == {(503, "1")}
            assert httpx.get(f"{service.url}/healthz").status_code == 200
        finally:
            release.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses)[:2] == [(200, None), (200, None)]


def test_answer_that_takes_too_long(small: Any) -> None:
    with small(timeout_s=0.2) as service:
        release = blocked(service)
        try:
            answer = httpx.get(f"{service.url}/v1/stats")
            assert (answer.status_code, answer.json()["code"]) == (504, "timed-out")
        finally:
            release.set()


def blocked(service: Any) -> threading.Event:
    """Keep the one thread of a small service busy until the event is set."""
    release, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait(30)

    service.service.calls._executor.submit(work)
    begun.wait(5)
    return release


def test_too_often(tmp_path: Path, embedder: Embedder, serve: Callable[..., Any]) -> None:
    with serve(lambda: MemoryOS(Settings(home=tmp_path), embedder), rate=0.5, burst=3) as service:
        answers = [httpx.get(f"{service.url}/v1/stats") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["code"] == "limit-reached"
        assert int(answers[-1].headers["Retry-After"]) >= 1


def test_quotas(tmp_path: Path, embedder: Embedder, serve: Callable[..., Any]) -> None:
    settings = Settings(home=tmp_path, quota_memories=2, quota_characters=100, quota_jobs=1)
    with serve(lambda: MemoryOS(settings, embedder)) as service:
        store = f"{service.url}/v1/memories"
        made = httpx.post(store, json={"memories": [{"text": "a"}, {"text": "b"}]})
        assert made.status_code == 201
        full = httpx.post(store, json={"text": "c"})
        assert (full.status_code, full.json()["code"], full.json()["quota"]) == (507, "quota-reached", 2)
        assert httpx.post(store, json={"text": "c", "user_id": "other"}).status_code == 201
        path = f"{store}/{made.json()['memories'][0]['id']}"
        assert httpx.patch(path, json={"text": "x" * 100}).status_code == 507
        assert httpx.patch(path, json={"text": "x" * 99}).status_code == 200
        assert httpx.patch(path, json={"text": "x"}).status_code == 200
        other = httpx.post(store, json={"text": "y" * 50, "user_id": "other"})
        assert other.status_code == 201
        assert httpx.post(f"{path}/rollback", json={"version": 2}).status_code == 200
        assert httpx.post(store, json={"text": "c"}).status_code == 507
        assert httpx.delete(path).status_code == 200
        assert httpx.post(store, json={"text": "c"}).status_code == 201


def test_mistake_of_ours_is_a_problem_too(
    tmp_path: Path, embedder: Embedder, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a secret of the code")

    with serve(lambda: MemoryOS(Settings(home=tmp_path), embedder)) as service:
        monkeypatch.setattr(service.service.engine, "stats", mistake)
        answer = httpx.get(f"{service.url}/v1/stats", headers={"X-Request-ID": "abc"})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
        assert answer.headers["X-Request-ID"] == "abc"
        assert "secret" not in answer.text
        counted = httpx.get(f"{service.url}/metrics").text
        assert 'memos_requests_total{method="GET",route="/v1/stats",status="500"} 1.0' in counted


def test_loop_stays_free_under_load(running: Any, client: httpx.Client) -> None:
    """While the engine works, the event loop answers: its lag is far below the time of the work."""
    lags: list[float] = []

    async def watch() -> None:
        while time.monotonic() < end:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            lags.append(time.monotonic() - before - 0.005)

    loop = running.service.loop
    end = time.monotonic() + 1.5
    watching = asyncio.run_coroutine_threadsafe(watch(), loop)
    client.post("/v1/memories", json={"memories": [{"text": f"memory {n} " + "x" * 200} for n in range(3_000)]})
    for _ in range(5):
        client.post("/v1/recall", json={"query": "memory 7"})
    watching.result(10)
    assert sorted(lags)[len(lags) // 2] < 0.05

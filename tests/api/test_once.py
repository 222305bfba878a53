"""Writes under an idempotency key: carried out once, answered again, whatever happens between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.store.once import AlreadyDone, Once, once
from memos.wire import Wire


def key(name: str = "k") -> dict[str, str]:
    return {"Idempotency-Key": name}


@pytest.fixture
def memory_id(client: httpx.Client) -> str:
    return str(client.post("/v1/memories", json={"text": "Ann adopted a cat"}).json()["id"])


WRITES: dict[str, Callable[[str], tuple[str, str, Any]]] = {
    "store": lambda _: ("POST", "/v1/memories", {"text": "Bo too"}),
    "store_many": lambda _: ("POST", "/v1/memories", {"memories": [{"text": "Bo too"}, {"text": "Cy as well"}]}),
    "update": lambda cube_id: ("PATCH", f"/v1/memories/{cube_id}", {"text": "Ann adopted a dog"}),
    "update of a version": lambda cube_id: (
        "PATCH",
        f"/v1/memories/{cube_id}",
        {"text": "a dog", "expected_version": 1},
    ),
    "forget": lambda cube_id: ("DELETE", f"/v1/memories/{cube_id}", None),
    "forget_all": lambda _: ("DELETE", "/v1/memories", None),
    "promote": lambda cube_id: ("POST", "/v1/bundles", {"ids": [cube_id], "to": "activation"}),
    "import": lambda _: ("POST", "/v1/import", '{"text": "Bo too"}\n{"text": "Cy as well"}\n'),
}


def send(client: httpx.Client, request: tuple[str, str, Any], **headers: str) -> httpx.Response:
    method, path, body = request
    if isinstance(body, str):
        return client.request(method, path, content=body, headers=headers)
    return client.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_repetition_is_answered_alike_and_does_nothing(
    client: httpx.Client, memory_id: str, write: Callable[[str], tuple[str, str, Any]]
) -> None:
    first = send(client, write(memory_id), **key())
    assert first.is_success, first.text
    before = client.get("/v1/stats").json()
    again = send(client, write(memory_id), **key())
    assert again.status_code == first.status_code
    assert stable(again.json()) == stable(first.json())
    assert client.get("/v1/stats").json() == before


def stable(answer: Any) -> Any:
    """What of an answer does not tell how a job goes on."""
    return answer["id"] if isinstance(answer, dict) and "task" in answer else answer


def test_key_of_another_request_is_refused(client: httpx.Client, memory_id: str) -> None:
    client.patch(f"/v1/memories/{memory_id}", json={"text": "x"}, headers=key())
    for request in (WRITES["store"](memory_id), WRITES["update"](memory_id)):
        answer = send(client, request, **key())
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency-conflict")
    assert client.get(f"/v1/memories/{memory_id}").json()["text"] == "x"


def test_keys_of_tenants_and_users_are_their_own(client_of: Callable[..., httpx.Client]) -> None:
    one, other = client_of(), client_of()
    ids = {
        client.post("/v1/memories", json={"text": "x", "user_id": user}, headers=key()).json()["id"]
        for client in (one, other)
        for user in ("a", "b")
    }
    assert len(ids) == 4


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_bad_key(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/memories", json={"text": "x"}, headers=key(name))
    assert answer.status_code == 422
    assert client.get("/v1/stats").json()["memories"] == 0


def test_refused_write_leaves_the_key_free(client: httpx.Client, memory_id: str) -> None:
    stale = {"text": "x", "expected_version": 9}
    assert client.patch(f"/v1/memories/{memory_id}", json=stale, headers=key()).status_code == 409
    assert client.patch(f"/v1/memories/{memory_id}", json={"text": "x"}, headers=key()).status_code == 200


def test_many_at_once_are_one(client: httpx.Client, memory_id: str) -> None:
    answers: list[httpx.Response] = []
    body = {"text": "Ann adopted a dog"}

    def change() -> None:
        answers.append(client.patch(f"/v1/memories/{memory_id}", json=body, headers=key()))

    threads = [threading.Thread(target=change) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len(client.get(f"/v1/memories/{memory_id}/history").json()["versions"]) == 2


def test_crash_leaves_write_and_key_or_neither(engine: MemoryOS, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is part of the transaction: what fails after it takes it back."""
    (cube,) = engine.store_many(Scope(), [{"text": "x"}])
    payload = {"id": cube.id, "user_id": None, "idempotency_key": "k"}

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    wire = Wire(engine)
    with monkeypatch.context() as patched:
        patched.setattr("memos.plaintext.forgetting.Forgetter._follow", crash)  # just after the commit
        with pytest.raises(KeyboardInterrupt):
            wire.call("forget", payload)
    assert engine.list(Scope()) == []
    assert wire.call("forget", payload)["cube_ids"] == (cube.id,)
    with monkeypatch.context() as patched:
        (cube,) = engine.store_many(Scope(), [{"text": "x"}])
        patched.setattr("memos.plaintext.forgetting.Forgetter._receipt", crash)  # just before it
        with pytest.raises(KeyboardInterrupt):
            wire.call("forget", {**payload, "id": cube.id, "idempotency_key": "l"})
    assert len(engine.list(Scope())) == 1
    assert wire.call("forget", {**payload, "id": cube.id, "idempotency_key": "l"})["cube_ids"] == (cube.id,)


def test_key_is_forgotten_in_time(data_folder: Any, embedder: Embedder) -> None:
    with MemoryOS(Settings(home=data_folder, idempotency_hours=1), embedder) as engine:
        request = Once.of("default", "k", "a request", 1)
        assert request.answer is not None
        request.expires_at = 0
        (cube,) = engine.store_many(Scope(), [{"text": "x"}])
        with once(request):
            engine.update("default", cube.id, text="y")
        with once(Once.of("default", "k", "another", 1)):
            engine.update("default", cube.id, text="z")
        with pytest.raises(AlreadyDone), once(Once.of("default", "k", "another", 1)):
            engine.update("default", cube.id, text="w")
        assert engine.get("default", cube.id).text == "z"

"""KV files and their settings over REST: whose they are, who may set them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

Client = Callable[..., httpx.Client]
CHOSEN = {"codec": "snapkv:0.5+zipcache", "compose": "blend", "ratio": 0.25}
NOTHING = {"codec": None, "compose": None, "ratio": None}


def test_settings_are_put_and_got(client: httpx.Client) -> None:
    assert client.get("/v1/kv/settings").json() == {"user_id": "default", **NOTHING}
    put = client.put("/v1/kv/settings", json={**CHOSEN, "user_id": "u1"})
    assert (put.status_code, put.json()) == (200, {"user_id": "u1", **CHOSEN})
    assert client.get("/v1/kv/settings", params={"user_id": "u1"}).json() == put.json()
    assert client.get("/v1/kv/settings").json() == {"user_id": "default", **NOTHING}
    assert client.put("/v1/kv/settings", json={"user_id": "u1"}).json() == {"user_id": "u1", **NOTHING}
    assert client.get("/v1/kv").json() == {"files": []}


def test_repetition_is_answered_alike(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.put("/v1/kv/settings", json=CHOSEN, headers=headers)
    client.put("/v1/kv/settings", json={})
    again = client.put("/v1/kv/settings", json=CHOSEN, headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert client.get("/v1/kv/settings").json()["codec"] is None


def test_reader_may_not_set(client_of: Client) -> None:
    client_of("kv-scopes").put("/v1/kv/settings", json=CHOSEN)
    reader = client_of("kv-scopes", scopes=["read"])
    assert reader.get("/v1/kv/settings").json() == {"user_id": "default", **CHOSEN}
    refused = reader.put("/v1/kv/settings", json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert reader.get("/v1/kv/settings").json() == {"user_id": "default", **CHOSEN}


def test_key_of_another_tenant_neither_reads_nor_writes(client_of: Client) -> None:
    owner, thief = client_of(), client_of()
    owner.put("/v1/kv/settings", json={**CHOSEN, "user_id": "u1"})
    assert thief.get("/v1/kv/settings", params={"user_id": "u1"}).json() == {"user_id": "u1", **NOTHING}
    assert thief.put("/v1/kv/settings", json={"user_id": "u1", "codec": "raw"}).json()["codec"] == "raw"
    assert thief.request("DELETE", "/v1/memories", params={"user_id": "u1"}).is_success
    assert owner.get("/v1/kv/settings", params={"user_id": "u1"}).json() == {"user_id": "u1", **CHOSEN}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"codec": "zip"}, "invalid-input"),
        ({"codec": 4}, "invalid-input"),
        ({"compose": "mix"}, "composition-refused"),
        ({"compose": ["blend"]}, "composition-refused"),
        ({"ratio": 1.5}, "composition-refused"),
        ({"ratio": "0.5"}, "invalid-input"),
        ({"user_id": 7}, "invalid-input"),
        ({"quality": 1}, "invalid-input"),
    ],
)
def test_what_cannot_be_used_is_refused(client: httpx.Client, body: dict[str, Any], code: str) -> None:
    client.put("/v1/kv/settings", json=CHOSEN)
    refused = client.put("/v1/kv/settings", json={**CHOSEN, **body})
    assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert client.get("/v1/kv/settings").json() == {"user_id": "default", **CHOSEN}

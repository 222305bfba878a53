"""Holds and retention are set with the ``admin`` scope; every answer is a problem or what the document says."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

Client = Callable[..., httpx.Client]


def test_scopes(client_of: Client) -> None:
    admin = client_of("keeping")
    made = admin.post("/v1/memories", json={"text": "x"}).json()
    hold = admin.post("/v1/holds", json={"id": made["id"]})
    assert hold.status_code == 201
    writer = client_of("keeping", scopes=["read", "write"])
    refused = (
        writer.post("/v1/holds", json={}),
        writer.get("/v1/holds"),
        writer.delete(f"/v1/holds/{hold.json()['id']}"),
        writer.put("/v1/retention", json={"days": 1}),
    )
    assert [answer.json()["code"] for answer in refused] == ["forbidden"] * 4
    assert writer.get("/v1/retention").json() == {"user_id": "default", "days": None}
    held = writer.delete(f"/v1/memories/{made['id']}")
    assert (held.status_code, held.json()["code"], held.json()["holds"]) == (409, "legal-hold", [hold.json()["id"]])
    assert admin.delete(f"/v1/holds/{hold.json()['id']}").json() == hold.json()
    receipt = writer.delete(f"/v1/memories/{made['id']}").json()
    reader = client_of("keeping", scopes=["read"])
    assert reader.post("/v1/receipts/verify", json={"receipt": receipt}).json()["valid"]


def test_repetitions_are_answered_alike(client: httpx.Client) -> None:
    made = client.post("/v1/memories", json={"text": "x"}).json()
    for number, (method, path, body) in enumerate(
        (
            ("POST", "/v1/holds", {"id": made["id"]}),
            ("PUT", "/v1/retention", {"days": 7}),
            ("DELETE", f"/v1/memories/{made['id']}", None),
        )
    ):
        if method == "DELETE":
            hold = client.get("/v1/holds").json()["holds"][0]["id"]
            released = [client.delete(f"/v1/holds/{hold}", headers={"Idempotency-Key": "r"}) for _ in range(2)]
            assert released[0].json() == released[1].json()
        headers = {"Idempotency-Key": str(number)}
        first, again = (client.request(method, path, json=body, headers=headers) for _ in range(2))
        assert first.is_success, first.text
        assert (again.status_code, again.json()) == (first.status_code, first.json())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/retention", {}),
        ("/v1/retention", {"days": None}),
        ("/v1/retention", {"days": "x"}),
        ("/v1/receipts/verify", {}),
        ("/v1/receipts/verify", {"receipt": "x"}),
        ("/v1/receipts/verify", {"receipt": {"id": "x"}}),
        ("/v1/holds", {"reason": 7}),
        ("/v1/holds", {"user_id": 7}),
    ],
)
def test_bodies_that_are_none(client: httpx.Client, path: str, body: object) -> None:
    answer = client.request("PUT" if path == "/v1/retention" else "POST", path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")


def test_lines_of_the_log_hold_no_memory(
    client: httpx.Client, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    made = client.post("/v1/memories", json={"text": "the canary sings", "metadata": {"canary": "canary"}}).json()
    hold = client.post("/v1/holds", json={"id": made["id"], "reason": "a canary"}).json()
    client.delete(f"/v1/memories/{made['id']}")
    client.delete(f"/v1/holds/{hold['id']}")
    client.delete(f"/v1/memories/{made['id']}")
    assert "canary" not in caplog.text + json.dumps(capfd.readouterr())

"""Jobs over plain HTTP: pages, what others' ids come to, repeated requests, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from memos.cube import Scope
from memos.store import namespaces
from memos.store.jobs import JobRepository


@pytest.fixture
def tenant() -> str:
    return "tenant-of-jobs"


@pytest.fixture
def queued(running: Any, tenant: str) -> list[str]:
    """Three jobs of a task that no process knows."""
    with running.service.engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope(tenant=tenant, user_id="u"))
        jobs = JobRepository(connection, namespace.id)
        jobs.clear()
        return [jobs.add("unknown", {}) for _ in range(3)]


def test_pages(client_of: Callable[..., httpx.Client], tenant: str, queued: list[str]) -> None:
    client = client_of(tenant)
    page = client.get("/v1/jobs", params={"user_id": "u", "limit": 2}).json()
    assert [job["id"] for job in page["jobs"]] == [queued[2], queued[1]]
    last = client.get("/v1/jobs", params={"user_id": "u", "limit": 2, "after": page["next"]}).json()
    assert ([job["id"] for job in last["jobs"]], last["next"]) == ([queued[0]], None)
    assert client.get("/v1/jobs", params={"state": "dead"}).status_code == 422


def test_jobs_of_others_are_not_there(client_of: Callable[..., httpx.Client], tenant: str, queued: list[str]) -> None:
    stranger = client_of()
    assert stranger.get("/v1/jobs", params={"user_id": "u"}).json() == {"jobs": [], "next": None}
    for what in ("cancel", "retry"):
        assert stranger.post(f"/v1/jobs/{queued[0]}/{what}").status_code == 404
    assert client_of(tenant, scopes=("read",)).post(f"/v1/jobs/{queued[0]}/cancel").status_code == 403
    assert client_of(tenant).get(f"/v1/jobs/{queued[0]}").json()["state"] == "queued"


def test_repeated_request_does_nothing(client_of: Callable[..., httpx.Client], tenant: str, queued: list[str]) -> None:
    client, key = client_of(tenant), {"Idempotency-Key": queued[0]}
    assert client.post(f"/v1/jobs/{queued[0]}/cancel", headers=key).json()["state"] == "cancelled"
    assert client.post(f"/v1/jobs/{queued[0]}/retry").json()["state"] == "queued"
    assert client.post(f"/v1/jobs/{queued[0]}/cancel", headers=key).json()["state"] == "queued", "it was answered again"


def test_metrics_tell_what_waits_and_what_ended(
    running: Any, client_of: Callable[..., httpx.Client], tenant: str, queued: list[str]
) -> None:
    def told(name: str) -> float:
        lines = httpx.get(f"{running.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    ended = 'memos_jobs_ended_total{state="cancelled",task="unknown"}'
    waiting, before = told('memos_jobs_queued{task="unknown"}'), told(ended)
    assert waiting >= 3
    client_of(tenant).post(f"/v1/jobs/{queued[0]}/cancel")
    assert (told('memos_jobs_queued{task="unknown"}'), told(ended)) == (waiting - 1, before + 1)

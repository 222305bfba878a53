"""Attempts of one tenant on another's memories: every operation of the OpenAPI document, with what it may have guessed.

Used by the tests, by the thousand, and by benchmarks/service.py, by the hundred thousand.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

#: Users of the victim; a thief may name them.
USERS = ("default", "u1", "u2")
#: States of a job that stay.
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of somebody who should not see what it asks for."""

    method: str
    path: str
    url: str
    request: dict[str, Any]


@dataclass(slots=True)
class Victim:
    """A tenant whose every text holds ``canary``."""

    client: httpx.Client
    canary: str
    ids: list[str] = field(default_factory=list)
    tenant: str = ""
    receipt: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def settle(cls, client: httpx.Client) -> Victim:
        """Store memories of several users, change one, queue a job."""
        made = cls(client, f"canary{secrets.token_hex(8)}")
        for user in USERS:
            items = [{"text": f"{made.canary} has secret {n}", "metadata": {"word": made.canary}} for n in range(3)]
            body = {"memories": items, "user_id": user, "run_id": made.canary}
            made.ids += [one["id"] for one in client.post("/v1/memories", json=body).json()["memories"]]
        client.patch(f"/v1/memories/{made.ids[0]}", json={"text": f"{made.canary} has another secret"})
        made.receipt = client.delete(f"/v1/memories/{made.ids.pop()}").json()
        job = client.post("/v1/bundles", json={"ids": made.ids[:1], "to": "activation"}).json()
        made.ids.append(job["id"])
        made.ids.append(client.post("/v1/holds", json={"user_id": USERS[1], "reason": made.canary}).json()["id"])
        for work in (job, *(client.post("/v1/memories/refine", json={"user_id": user}).json() for user in USERS)):
            made._wait(work.get("id"))
        client.put("/v1/kv/settings", json={"user_id": USERS[1], "codec": "int8", "ratio": 0.25})
        made.tenant = client.get(f"/v1/memories/{made.ids[0]}").json()["scope"]["tenant"]
        return made

    def _wait(self, job_id: str | None) -> None:
        """Wait until a job is over, which might change what is here; notes may be off, then there is none."""
        while job_id and self.client.get(f"/v1/jobs/{job_id}").json()["state"] not in ENDED:
            time.sleep(0.1)

    def state(self) -> list[Any]:
        """Return everything that must stay as it is."""
        listed = [self.client.get("/v1/memories", params={"user_id": user}).json() for user in USERS]
        held = self.client.get("/v1/holds", params={"user_id": USERS[1]}).json()
        chosen = self.client.get("/v1/kv/settings", params={"user_id": USERS[1]}).json()
        return [*listed, held, chosen, self.client.get(f"/v1/memories/{self.ids[0]}/history").json()]


class Attempts:
    """Requests made up from the document: any operation, any id of the victim, its users and words."""

    def __init__(self, document: dict[str, Any], victim: Victim, chance: random.Random) -> None:
        self.operations = [
            (method.upper(), path)
            for path, item in document["paths"].items()
            if path.startswith("/v1")
            for method in item
        ]
        self._victim = victim
        self._chance = chance

    def take(self, count: int) -> Iterator[Attempt]:
        """Yield ``count`` attempts; every operation is among as many as there are of them."""
        for number in range(count):
            method, path = self.operations[number % len(self.operations)]
            yield self._attempt(method, path)

    def _attempt(self, method: str, path: str) -> Attempt:
        victim, choice = self._victim, self._chance.choice
        url = path
        for name in ("cube_id", "job_id", "key_id", "hold_id"):
            url = url.replace(f"{{{name}}}", choice(victim.ids))
        params = {"user_id": choice(USERS)} if self._chance.random() < 0.7 else {}
        headers = {"Idempotency-Key": secrets.token_hex(4)} if self._chance.random() < 0.3 else {}
        request: dict[str, Any] = {"headers": headers}
        if path.endswith("/import"):
            request |= {"content": b'{"text": "mine"}', "params": params}
        elif method in ("POST", "PATCH", "PUT"):
            request["json"] = self._body(path) | ({} if _openai(path) else params)
        elif method in ("GET", "DELETE") and not path.startswith(("/v1/keys", "/v1/models")):
            request["params"] = params | self._paging(path)
        return Attempt(method, path, url, request)

    def _paging(self, path: str) -> dict[str, Any]:
        if path != "/v1/memories":
            return {}
        return {"after": self._chance.choice(self._victim.ids[:-1]), "run_id": self._victim.canary}

    def _body(self, path: str) -> dict[str, Any]:
        one, user = self._chance.choice(self._victim.ids), self._chance.choice(USERS)
        return {
            "/v1/memories": {"text": "mine"},
            "/v1/memories/{cube_id}": {"text": "mine"},
            "/v1/memories/{cube_id}/rollback": {"version": 1},
            "/v1/memories/refine": {"ids": [one]},
            "/v1/recall": {"query": "who has a secret?", "filters": {"metadata.word": {"$ne": "x"}}, "explain": True},
            "/v1/bundles": {"ids": [one], "to": self._chance.choice(["activation", "parametric"])},
            "/v1/cubes/{cube_id}/promote": {"to": "activation"},
            "/v1/keys": {"scopes": ["read"]},
            "/v1/holds": {"id": one},
            "/v1/retention": {"days": 1},
            "/v1/kv/settings": {"codec": "raw", "compose": "concat"},
            "/v1/receipts/verify": {"receipt": self._victim.receipt},
            "/v1/embeddings": {"input": "mine"},
            "/v1/chat/completions": {
                "model": "none",
                "messages": [{"role": "user", "content": "who has a secret?"}],
                "memos": {"user_id": user, "adapters": [one]},
            },
        }.get(path, {})


def _openai(path: str) -> bool:
    return path in ("/v1/chat/completions", "/v1/embeddings", "/v1/keys", "/v1/compose") or path.startswith("/v1/keys")

"""Clients that store, change, promote, demote, plan, recall, export and forget, while processes die under them."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from tests.integration.crashes.ledger import Ledger, Promise, marks, new_text, told_again

USERS = ("ann", "ben", "cleo")
#: What a client does next, by weight: one line for each operation of the mix.
MIX: Mapping[str, int] = {
    "store": 6,
    "update": 4,
    "recall": 4,
    "promote": 4,
    "demote": 2,
    "plan": 1,
    "fuse": 2,
    "export": 1,
    "forget": 4,
}
#: How long a client repeats a request that is not answered, and how often it does not repeat it at all.
PATIENCE_S, GIVING_UP = 120.0, 0.3
AGAIN_S, PAUSE_S = 0.05, 0.05
#: How often something is told twice, so that there is something to fuse.
AGAIN = 0.5
#: What the service, or nobody in its place, says while something is away: whether the request was carried out is open.
AWAY = frozenset({502, 503, 504})
#: What a write may be refused with, since others write at the same time.
REFUSED = frozenset({404, 409})


class Api:
    """The service over HTTP, with what clients do about lost answers."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Return the answer to what is right to ask, however often that must be asked."""
        response = self.send(method, path, **request)
        assert response is not None, f"no answer to {method} {path}"
        assert response.is_success, (method, path, response.status_code, response.text)
        return response

    def send(self, method: str, path: str, *, patience_s: float = PATIENCE_S, **request: Any) -> httpx.Response | None:
        """Return an answer; ``None`` where there was none, so that nobody knows what was done."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                response = self._http.request(method, f"/v1/{path}", **request)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code not in AWAY:
                assert response.status_code < 500, (method, path, response.status_code, response.text)
                return response
            if time.monotonic() >= deadline:
                return None
            time.sleep(AGAIN_S)

    def write(self, dice: random.Random, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Send a write under a key of its own, again and again or, at times, just once."""
        patience_s = 0.0 if dice.random() < GIVING_UP else PATIENCE_S
        headers = {"Idempotency-Key": str(uuid.UUID(int=dice.getrandbits(128), version=4))}
        return self.send(method, path, patience_s=patience_s, headers=headers, **request)


class Client:
    """One of several clients of the same users. Each method is an operation; it returns whether it was answered."""

    def __init__(self, api: Api, ledger: Ledger, seed: str) -> None:
        self._api = api
        self._ledger = ledger
        self._dice = random.Random(seed)
        self._operations: dict[str, Callable[[str], bool]] = {name: getattr(self, name) for name in MIX}

    def step(self) -> None:
        """Do one operation."""
        name = self._dice.choices([*MIX], [*MIX.values()])[0]
        answered = self._operations[name](self._dice.choice(USERS))
        self._ledger.count(name, answered=answered)

    def store(self, user: str) -> bool:
        """Store some memories, all or none."""
        texts = [new_text(self._dice) for _ in range(self._dice.randint(1, 3))]
        texts += [told_again(self._dice, texts[0])] if self._dice.random() < AGAIN else []
        body = {"memories": [{"text": text} for text in texts], "user_id": user}
        answer = self._api.write(self._dice, "POST", "memories", json=body)
        if answer is None:
            self._ledger.open.append((user, frozenset(texts)))
            return False
        assert answer.status_code == 201, answer.text
        cubes = answer.json()["memories"]
        assert [cube["text"] for cube in cubes] == texts
        self._ledger.keep(Promise(cube["id"], user, {cube["text"]}) for cube in cubes)
        return True

    def update(self, _: str) -> bool:
        """Let a memory say something else."""
        with self._ledger.borrowed(self._dice) as one:
            if one is None:
                return True
            text = new_text(self._dice)
            answer = self._api.write(self._dice, "PATCH", f"memories/{one.id}", json={"text": text})
            if answer is None:
                one.changes(text, surely=False)
                return False
            assert answer.status_code in (200, 409), answer.text  # 409: its note was written at the same moment
            if answer.status_code == 200:
                assert answer.json()["text"] == text
                one.changes(text, surely=True)
            return True

    def forget(self, _: str) -> bool:
        """Forget a memory."""
        with self._ledger.borrowed(self._dice) as one:
            if one is None:
                return True
            answer = self._api.write(self._dice, "DELETE", f"memories/{one.id}")
            if answer is None:
                self._ledger.doubt(one)
                return False
            assert answer.status_code == 200, answer.text
            gone = set(answer.json()["cube_ids"])
            assert one.id in gone
            assert not self._ledger.kept.keys() & gone, "more was forgotten than one memory and what was fused from it"
            self._ledger.bury(one, answer.json())
            return True

    def recall(self, _: str) -> bool:
        """Ask for a memory by its words: it is found, whatever is away, and what was forgotten before is not."""
        with self._ledger.borrowed(self._dice) as one:
            if one is None:
                return True
            before, text = self._ledger.forgotten(), self._dice.choice(sorted(one.texts))
            answer = self._api.ask("POST", "recall", json={"query": text, "user_id": one.user})
            assert not before & marks(answer.text), "a forgotten memory was recalled"
            if len(one.texts) == 1:
                assert marks(text) <= marks(answer.text), f"{one.id} is not recalled by its own words"
            return True

    def promote(self, user: str) -> bool:
        """Have a KV file made of some memories."""
        ids = self._ledger.some(self._dice, user, 3)
        if not ids:
            return True
        body = {"ids": ids, "to": "activation", "user_id": user}
        answer = self._api.write(self._dice, "POST", "bundles", json=body)
        if answer is None:
            return False
        assert answer.status_code in {202, *REFUSED}, answer.text
        if answer.status_code == 202:
            self._ledger.jobs[answer.json()["id"]] = user
        return True

    def demote(self, user: str) -> bool:
        """Give up a KV file."""
        jobs = self._api.ask("GET", "jobs", params={"user_id": user, "state": "done", "limit": 50})
        done = [job for job in jobs.json()["jobs"] if job["task"] == "promote" and job["result"]]
        made = [job["result"]["cube_id"] for job in done]
        if not made:
            return True
        path = f"cubes/{self._dice.choice(made)}/demote"
        answer = self._api.write(self._dice, "POST", path, json={"user_id": user})
        if answer is None:
            return False
        assert answer.status_code in {200, *REFUSED}, answer.text
        if answer.status_code == 200:
            self._ledger.receipts.append(answer.json())
        return True

    def plan(self, user: str) -> bool:
        """Have moved what is worth moving."""
        answer = self._api.send("POST", "plan", patience_s=0.0, json={"user_id": user})
        assert answer is None or answer.status_code in {200, *REFUSED}, answer.text
        return answer is not None

    def fuse(self, user: str) -> bool:
        """Let memories that say nearly the same become one."""
        answer = self._api.write(self._dice, "POST", "fuse", json={"user_id": user})
        assert answer is None or answer.status_code in {200, 202, *REFUSED}, answer.text
        return answer is not None

    def export(self, user: str) -> bool:
        """Take a user's memories out: none of them was forgotten before."""
        before = self._ledger.forgotten()
        answer = self._api.ask("GET", "export", params={"user_id": user})
        assert not before & marks(answer.text), "a forgotten memory was exported"
        return True


@contextmanager
def traffic(api: Api, ledger: Ledger, seed: int, clients: int) -> Iterator[None]:
    """Let clients work until the block ends; what one of them found wrong is raised then."""
    ended = threading.Event()

    def work(number: int) -> None:
        client = Client(api, ledger, f"{seed}/{number}")
        try:
            while not ended.is_set():
                client.step()
                time.sleep(PAUSE_S)
        finally:
            ended.set()  # one that failed ends the others

    with ThreadPoolExecutor(clients, "test-client") as pool:
        running = [pool.submit(work, number) for number in range(clients)]
        try:
            yield
        finally:
            ended.set()
    for one in running:
        one.result()

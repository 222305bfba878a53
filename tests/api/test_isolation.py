"""No request of one tenant reaches another's: every operation, with ids that somebody else holds."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest


@pytest.fixture(scope="module")
def attempts(repository: Path) -> ModuleType:
    """What benchmarks/service.py does by the hundred thousand."""
    spec = importlib.util.spec_from_file_location("attempts", repository / "benchmarks" / "attempts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attempts"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def victim(attempts: ModuleType, client_of: Callable[..., httpx.Client]) -> Any:
    """A tenant with memories and jobs, every text of which holds a word that nobody else knows."""
    return attempts.Victim.settle(client_of())


def test_no_operation_reaches_another_tenant(
    running: Any, client_of: Callable[..., httpx.Client], attempts: ModuleType, victim: Any
) -> None:
    document = httpx.get(f"{running.url}/openapi.json").json()
    made = attempts.Attempts(document, victim, random.Random(7))
    before = victim.state()
    thief = client_of()
    seen = set()
    for attempt in made.take(400):
        answer = thief.request(attempt.method, attempt.url, **attempt.request)
        seen.add((attempt.method, attempt.path))
        assert victim.canary not in answer.text, attempt
        assert answer.status_code < 500 or answer.status_code == 501, (attempt, answer.text)
    assert seen == set(made.operations)
    assert victim.state() == before


def test_ids_of_others_read_like_unknown_ones(client_of: Callable[..., httpx.Client], victim: Any) -> None:
    thief = client_of()
    unknown = "01900000-0000-7000-8000-000000000000"
    for path in ("memories/{}", "memories/{}/history", "memories/{}/links", "adapters/{}", "jobs/{}"):
        told = [thief.get(f"/v1/{path.format(one)}") for one in (victim.ids[0], unknown)]
        assert [answer.status_code for answer in told] == [404, 404]
        assert told[0].text.replace(victim.ids[0], unknown) == told[1].text


def test_metrics_and_lists_name_nobody(running: Any, client_of: Callable[..., httpx.Client], victim: Any) -> None:
    texts = [httpx.get(f"{running.url}/metrics").text, client_of().get("/v1/memories").text]
    assert not any(victim.canary in text or victim.tenant in text for text in texts)


def test_lines_of_the_log_hold_no_memory(
    client: httpx.Client, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    client.post("/v1/memories", json={"text": "the canary sings"})
    client.post("/v1/recall", json={"query": "the canary sings", "filters": {"canary": 1}})
    client.get("/v1/memories/canary")
    assert "canary" not in caplog.text + json.dumps(capfd.readouterr())

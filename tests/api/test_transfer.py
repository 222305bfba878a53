"""Files in and out, jobs as they go on, adapters: through the client and as plain HTTP."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memos import errors
from memos.activation.tier import ActivationTier
from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos_api.upload import passing, swept
from memos_sdk import Memory
from memos_sdk.errors import Conflict, ImportRefused, InvalidInput, NotFound


@pytest.fixture
def memory(running: Any) -> Iterator[Memory]:
    """A tenant's memories through the client."""
    with Memory(running.url, api_key=running.key()) as opened:
        yield opened


def test_export_and_import(memory: Memory, tmp_path: Path, running: Any) -> None:
    cubes = memory.store_many([{"text": f"memory {n}", "metadata": {"n": n}} for n in range(30)], user_id="u")
    target = tmp_path / "out.jsonl"
    assert memory.export(target, user_id="u") == 30
    assert not [path for path in tmp_path.iterdir() if path != target]
    with Memory(running.url, api_key=running.key()) as other:
        report = other.import_(target, user_id="v")
        assert (report.imported, report.skipped, report.rejected) == (30, 0, ())
        assert [one.text for one in other.list(user_id="v")] == [one.text for one in cubes]
        assert other.import_(target, user_id="v").skipped == 30


def test_import_of_bad_lines(memory: Memory, tmp_path: Path) -> None:
    source = tmp_path / "notes.jsonl"
    source.write_text('{"text": "good"}\n{"text": ""}\n{"text": "fine"}\n')
    report = memory.import_(source)
    assert (report.imported, [line.line for line in report.rejected]) == (2, [2])
    with pytest.raises(ImportRefused):
        memory.import_(source, strict=True)
    with pytest.raises(InvalidInput, match="no file"):
        memory.import_(tmp_path / "none")
    (tmp_path / "empty").write_text("")
    with pytest.raises(InvalidInput, match=r"^empty is empty"):  # the file's own name, not where the server kept it
        memory.import_(tmp_path / "empty")


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "a\0b"])
def test_name_that_no_file_can_have(running: Any, name: str) -> None:
    headers = {"Authorization": f"Bearer {running.key()}"}
    answer = httpx.post(
        f"{running.url}/v1/import", params={"name": name}, content=b'{"text": "x"}', headers=headers, timeout=30
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")


def test_export_to_nowhere(memory: Memory, tmp_path: Path) -> None:
    memory.store("x")
    for target in (tmp_path / "none" / "file", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be written"):
            memory.export(target)
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_on_its_way(memory: Memory, tmp_path: Path, running: Any) -> None:
    memory.store("x")
    memory.export(tmp_path / "out.jsonl")
    memory.import_(tmp_path / "out.jsonl")
    with pytest.raises(NotFound):
        memory.export_adapter("01900000-0000-7000-8000-000000000000", path=tmp_path / "adapter")
    with httpx.stream("GET", f"{running.url}/v1/export", headers={"Authorization": f"Bearer {running.key()}"}):
        pass  # a client that leaves before it has read anything
    assert list(running.service.passage.glob("*/")) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path, embedder: Embedder, serve: Callable[..., Any]) -> None:
    left = tmp_path / "transfer" / "tmpabc"
    left.mkdir(parents=True)
    (left / "memories.jsonl").write_text("what was forgotten since")
    with serve(lambda: MemoryOS(Settings(home=tmp_path), embedder)):
        assert not left.exists()


def test_what_is_on_its_way_is_not_swept(tmp_path: Path) -> None:
    with passing(tmp_path) as folder:
        (folder / "memories.jsonl").write_text("of another process")
        assert swept(tmp_path) == tmp_path
        assert (folder / "memories.jsonl").exists()
    assert list(tmp_path.glob("*/")) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        b"PK\x03\x04" + b"x" * 100,
        "empty",
        "strangers",
        "above",
    ],
)
def test_adapter_archives_that_are_none(client: httpx.Client, content: bytes | str) -> None:
    names = {
        "strangers": ["adapter_config.json", "evil.sh"],
        "above": ["../adapter_config.json", "../../x"],
        "empty": [],
    }
    if isinstance(content, str):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names[content]:
                archive.writestr(name, "{}")
        content = packed.getvalue()
    answer = client.post("/v1/adapters/import", content=content)
    assert answer.status_code == 422, answer.text
    assert client.get("/v1/adapters").json() == {"adapters": []}


def test_job_is_watched_to_its_end(client: httpx.Client) -> None:
    """Too small a bundle fails, and the stream of events ends with that."""
    made = client.post("/v1/memories", json={"text": "x"}).json()
    job = client.post(f"/v1/cubes/{made['id']}/promote", json={"to": "activation"})
    assert job.status_code == 202
    with client.stream("GET", f"/v1/jobs/{job.json()['id']}/events") as events:
        assert events.headers["Content-Type"].startswith("text/event-stream")
        told = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
    assert told[-1]["state"] == "failed"
    assert "bundle-refused" in told[-1]["error"]
    assert client.get(f"/v1/jobs/{job.json()['id']}").json() == told[-1]


def slow_failure(*_: Any) -> dict[str, Any]:
    time.sleep(1.5)
    raise errors.InvalidInput("there is nothing to promote")


def test_watching_a_job_is_one_request(
    tmp_path: Path, embedder: Embedder, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, whatever the rate of the key, and longer than a client may stall with its own body."""
    monkeypatch.setattr(ActivationTier, "run_promotion", slow_failure)
    with serve(lambda: MemoryOS(Settings(home=tmp_path), embedder), rate=0.01, burst=3, stall_s=0.3) as service:
        made = httpx.post(f"{service.url}/v1/memories", json={"text": "x"}).json()
        job = httpx.post(f"{service.url}/v1/cubes/{made['id']}/promote", json={"to": "activation"}).json()
        told = httpx.get(f"{service.url}/v1/jobs/{job['id']}/events", timeout=60)
        assert told.headers["X-Accel-Buffering"] == "no"
        assert '"state":"failed"' in told.text
        assert "event: problem" not in told.text


def test_demoting_a_memory_is_refused(client: httpx.Client, memory: Memory) -> None:
    cube = memory.store("x")
    with pytest.raises(InvalidInput, match="forget it"):
        memory.demote(cube.id)
    answer = client.post(f"/v1/cubes/{cube.id}/demote", json={})
    assert answer.status_code == 404


def test_update_with_a_stale_version(memory: Memory) -> None:
    cube = memory.store("x")
    memory.update(cube.id, text="y", expected_version=1)
    with pytest.raises(Conflict) as caught:
        memory.update(cube.id, text="z", expected_version=1)
    assert (caught.value.code, caught.value.status, caught.value.problem["current_version"]) == (
        "version-conflict",
        409,
        2,
    )


def test_moves_of_a_store_that_was_never_asked(client: httpx.Client) -> None:
    client.post("/v1/memories", json={"text": "x"})
    planned = [(method, f"/v1/{path}") for method in ("GET", "POST") for path in ("plan", "fuse")]
    for method, path in (*planned, ("GET", "/v1/moves")):
        answer = client.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()) == (200, {"moves": []})
    assert client.post("/v1/moves/nothing/undo", json={}).status_code == 404


def test_later_parts_say_so(client: httpx.Client) -> None:
    answer = client.post("/v1/compose", json={})
    assert (answer.status_code, answer.json()["code"]) == (501, "not-implemented")


def test_pages(client: httpx.Client) -> None:
    client.post("/v1/memories", json={"memories": [{"text": str(n)} for n in range(7)]})
    seen: list[str] = []
    after = None
    while True:
        page = client.get("/v1/memories", params={"limit": 3, **({"after": after} if after else {})}).json()
        seen += [one["text"] for one in page["memories"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [str(n) for n in range(7)]


def test_only_this_agent_or_run(client_of: Callable[..., httpx.Client]) -> None:
    client = client_of()
    for agent in ("a", "b"):
        client.post("/v1/memories", json={"text": f"of {agent}", "agent_id": agent, "run_id": f"r{agent}"})
    assert [one["text"] for one in client.get("/v1/memories?agent_id=a").json()["memories"]] == ["of a"]
    assert len(client.delete("/v1/memories?run_id=rb").json()["cube_ids"]) == 1
    assert client.get("/v1/stats").json()["memories"] == 1

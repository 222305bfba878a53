"""What an export holds, and that it is written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from memos.cube import Scope, State
from memos.engine import MemoryOS
from memos.errors import InvalidInput, StoreFull
from memos.transfer.record import VERSION


@pytest.fixture
def filled(engine: MemoryOS, scope: Scope) -> MemoryOS:
    engine.store_many(
        scope,
        [
            {"text": "Ann lives in Leeds", "metadata": {"topic": "home"}, "run_id": "s1"},
            {"text": "Ann has a cat", "event_time": "2025-01-09T19:42:00Z", "infer": False},
        ],
    )
    engine.store_many(Scope(user_id="bob"), [{"text": "Bob's secret"}])
    return engine


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_export_begins_with_header(filled: MemoryOS, scope: Scope, tmp_path: Path) -> None:
    assert filled.export(scope, tmp_path / "out.jsonl") == 2
    header, *memories = lines(tmp_path / "out.jsonl")
    assert {name: header[name] for name in ("format", "version", "user_id", "memories")} == {
        "format": "memos-export",
        "version": VERSION,
        "user_id": "ann",
        "memories": 2,
    }
    assert [memory["versions"][0]["text"] for memory in memories] == [
        "Ann lives in Leeds",
        "Ann has a cat",
    ]


def test_export_holds_history_and_state(filled: MemoryOS, scope: Scope, tmp_path: Path) -> None:
    first, second = filled.list(scope)
    filled.update("default", first.id, text="Ann lives in Bath")
    filled.move("default", second.id, State.ARCHIVED)
    filled.export(scope, tmp_path / "out.jsonl")
    _, changed, archived = lines(tmp_path / "out.jsonl")
    texts = [(version["text"], version["reason"]) for version in changed["versions"]]
    assert texts == [("Ann lives in Leeds", None), ("Ann lives in Bath", "update")]
    assert (archived["state"], archived["versions"][0]["event_time"]) == (
        "archived",
        "2025-01-09T19:42:00Z",
    )


def test_export_holds_no_vectors_and_nobody_else(filled: MemoryOS, scope: Scope, tmp_path: Path) -> None:
    filled.export(scope, tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text()
    assert "vector" not in text
    assert "Bob" not in text


def test_export_narrows_to_run(filled: MemoryOS, tmp_path: Path) -> None:
    assert filled.export(Scope(user_id="ann", run_id="s1"), tmp_path / "out.jsonl") == 1


def test_export_of_nobody_is_a_header(engine: MemoryOS, tmp_path: Path) -> None:
    assert engine.export(Scope(user_id="nobody"), tmp_path / "out.jsonl") == 0
    assert len(lines(tmp_path / "out.jsonl")) == 1


def test_export_reports_progress(filled: MemoryOS, scope: Scope, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    filled.export(scope, tmp_path / "out.jsonl", lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2)]


def test_export_is_private(filled: MemoryOS, scope: Scope, tmp_path: Path) -> None:
    filled.export(scope, tmp_path / "out.jsonl")
    assert stat.S_IMODE((tmp_path / "out.jsonl").stat().st_mode) == 0o600


def test_export_replaces_file_behind_link(filled: MemoryOS, scope: Scope, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    filled.export(scope, tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(lines(tmp_path / "real.jsonl")) == 3


@pytest.mark.parametrize("name", ["", "missing/out.jsonl", "data/memos.db", "data/chroma/x"])
def test_export_refuses_place(filled: MemoryOS, scope: Scope, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        filled.export(scope, tmp_path / name)
    assert filled.stats(scope).memories == 2


@pytest.mark.parametrize("existing", [None, "what was there"])
def test_export_on_full_disk_leaves_all_as_it_was(
    filled: MemoryOS,
    scope: Scope,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    existing: str | None,
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    if existing is not None:
        (folder / "out.jsonl").write_text(existing)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull):
        filled.export(scope, folder / "out.jsonl")
    assert {path.name: path.read_text() for path in folder.iterdir()} == (
        {} if existing is None else {"out.jsonl": existing}
    )


def test_export_sees_one_moment(filled: MemoryOS, scope: Scope, tmp_path: Path) -> None:
    def meddle(done: int, total: int) -> None:
        filled.store_many(scope, [{"text": "too late"}])

    filled.export(scope, tmp_path / "out.jsonl", meddle)
    assert len(lines(tmp_path / "out.jsonl")) == 3
    assert filled.stats(scope).memories == 3

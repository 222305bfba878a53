"""Backups are of the machine of the store: the embedded client makes them, the other says where to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memos_sdk import Memory
from memos_sdk.errors import Conflict, InvalidInput, NotBuilt


def test_backup_and_restore(memory: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cube = memory.store("Ann paints", user_id="ann")
    with pytest.raises(InvalidInput):
        memory.backup(tmp_path / "b.tar", user_id="ann", all_users=True)
    if "http" in request.node.name:
        with pytest.raises(NotBuilt, match="memos backup"):
            memory.backup(tmp_path / "b.tar", user_id="ann")
        with pytest.raises(NotBuilt, match="memos restore"):
            memory.restore(tmp_path / "b.tar")
        return
    assert memory.backup(tmp_path / "b.tar", user_id="ann").memories == 1
    assert memory.backup(tmp_path / "all", all_users=True).namespaces == 1
    with pytest.raises(Conflict):
        memory.restore(tmp_path / "b.tar")
    assert memory.restore(tmp_path / "b.tar", replace=True).replaced == 1
    assert memory.get(cube.id).text == "Ann paints"


def test_another_store(tmp_path: Path, embedder: Any) -> None:
    with Memory(path=tmp_path / "one", embedder=embedder) as one:
        cube = one.store("Ann paints")
        one.backup(tmp_path / "b.tar.zst")
    with Memory(path=tmp_path / "other", embedder=embedder) as other:
        assert other.restore(tmp_path / "b.tar.zst").memories == 1
        assert other.history(cube.id)[0].text == "Ann paints"

"""``memos jobs``: what waits, what failed, and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.store import namespaces
from memos.store.database import Database
from memos.store.jobs import JobRepository

Memos = Callable[..., Any]


@pytest.fixture
def job_id(memos: Memos, data_folder: Path, embedder: Embedder) -> str:
    """A job of a task that this version does not know, so that it waits."""
    memos("store", "x", "--user", "u")
    database = Database(f"sqlite:///{data_folder / 'memos.db'}")
    with database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope(user_id="u"))
        made = JobRepository(connection, namespace.id).add("unknown", {})
    database.close()
    return made


def test_jobs_are_listed_shown_cancelled_and_tried_again(memos: Memos, job_id: str) -> None:
    assert [job["id"] for job in memos("jobs", "ls", "--user", "u", "--json").data] == [job_id]
    assert memos("jobs", "ls", "--user", "u", "--state", "failed", "--json").data == []
    assert "unknown" in memos("jobs", "ls", "--user", "u").out
    assert memos("jobs", "ls", "--state", "dead").code == 2
    assert "queued" in memos("jobs", "show", job_id).out
    assert memos("jobs", "cancel", job_id, "--json").data["state"] == "cancelled"
    assert "queued" in memos("jobs", "retry", job_id).out
    assert memos("jobs", "show", "01900000-0000-7000-8000-000000000000").code == 3

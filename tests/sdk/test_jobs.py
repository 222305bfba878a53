"""Jobs as the client sees them, through every kind of client."""

from __future__ import annotations

from typing import Any

import pytest

from memos.cube import Scope
from memos.store import namespaces
from memos.store.jobs import Job, JobRepository, JobState
from memos.store.leases import LeaseRepository
from memos_sdk import Memory, errors, types

NOBODY = "01900000-0000-7000-8000-000000000000"


def engine_of(memory: Any, running: Any) -> tuple[Any, str]:
    """Return the engine behind a client, and the client's tenant."""
    transport = getattr(memory, "_memory", memory)._transport
    wire = getattr(getattr(transport, "_transport", transport), "_wire", None)
    if wire is not None:
        return wire.engine, "default"
    secret = transport._client.headers["Authorization"].split()[1]
    service = running.service
    return service.engine, service.access.admit(secret, "read", local=False).tenant


@pytest.fixture
def queued(memory: Memory, running: Any) -> list[str]:
    """Four jobs of a task that nobody here knows, so that they wait; the last one has failed."""
    memory.stats()  # opens an asynchronous one
    engine, tenant = engine_of(memory, running)
    with engine.database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope(tenant=tenant, user_id="u"))
        jobs, leases = JobRepository(connection, namespace.id), LeaseRepository(connection, namespace.id)
        ids = [jobs.add("unknown", {}) for _ in range(4)]
        lease = leases.take(Scope(tenant=tenant, user_id="u"), ids[3])
        assert lease is not None
        leases.end(lease, JobState.FAILED, error="not-found: gone")
    return ids


def test_fields_are_those_of_the_engine() -> None:
    assert types.Job.model_fields.keys() == Job.model_fields.keys()


def test_jobs_are_listed_newest_first(memory: Memory, queued: list[str]) -> None:
    assert [job.id for job in memory.jobs(user_id="u")] == queued[::-1]
    (first, second) = memory.jobs(user_id="u", state="queued", limit=2)
    assert [job.id for job in memory.jobs(user_id="u", state="queued", after=second.id)] == [queued[0]]
    (failed,) = memory.jobs(user_id="u", state="failed")
    assert (failed.id, failed.error, failed.over) == (queued[3], "not-found: gone", True)
    assert memory.job(first.id) == first
    assert memory.jobs() == []
    wrong: tuple[dict[str, Any], ...] = ({"state": "dead"}, {"limit": 0}, {"after": "x"}, {"user_id": " "})
    for bad in wrong:
        with pytest.raises(errors.InvalidInput):
            memory.jobs(**bad)


def test_waiting_job_is_cancelled_and_failed_one_tried_again(memory: Memory, queued: list[str]) -> None:
    assert memory.cancel(queued[0]).state == "cancelled"
    assert memory.cancel(memory.job(queued[0])).state == "cancelled"
    again = memory.retry(queued[3])
    assert (again.state, again.attempts, again.error) == ("queued", 0, None)
    assert memory.retry(again).state == "queued"
    assert memory.cancel(again).state == "cancelled"
    assert memory.retry(again).state == "queued"


def test_what_is_over_cannot_be_cancelled(memory: Memory, queued: list[str]) -> None:
    with pytest.raises(errors.Conflict, match="is failed"):
        memory.cancel(queued[3])
    for call in (memory.job, memory.cancel, memory.retry):
        with pytest.raises(errors.NotFound, match="no job"):
            call(NOBODY)
        with pytest.raises(errors.NotFound, match="no job"):
            call("x")

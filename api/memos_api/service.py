"""What routes share: the engine, who may use it, and the pools its work runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from memos.access import Access, Permission, Principal
from memos.engine import MemoryOS
from memos.store.job_totals import ended_jobs
from memos.store.jobs import JobState
from memos.store.scoped import queued_jobs, totals
from memos.wire import Payload, Wire
from memos_api.answers import Answer, encoded, tag
from memos_api.caller import Caller
from memos_api.completions.upstream import Upstream
from memos_api.limits import RateLimit
from memos_api.metrics import Metrics
from memos_api.pools import Pool
from memos_api.settings import ServiceSettings
from memos_api.upload import swept

T = TypeVar("T")


class Service:
    """One process of the service.

    The engine is reached through :meth:`run` alone, which admits the caller first and hands out a
    :class:`~memos.wire.Wire` of that caller's tenant: no route can name another one.
    """

    def __init__(self, settings: ServiceSettings, engine: MemoryOS, metrics: Metrics) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        engine.on_recall.append(metrics.recall)
        self.access = Access(engine.database)
        self._limit = RateLimit(settings.rate, settings.burst)
        slow = settings.slow_timeout_s
        self.calls = Pool("engine", settings.threads, settings.waiting, settings.timeout_s)
        #: Reads of one memory are over before another thread has taken its turn at the interpreter: one is the fastest,
        #: unless it waits for a server.
        self.reads = Pool(
            "read", 1 if engine.database.is_sqlite else settings.threads, settings.waiting, settings.timeout_s
        )
        self.chats = Pool("chat", settings.chats, settings.waiting, slow)
        self.files = Pool("file", settings.files, settings.waiting, slow)
        self.probes = Pool("probe", 4, 16, settings.timeout_s)
        self.upstream = Upstream(settings) if settings.upstream_url else None
        #: Where files are on their way in and out.
        self.passage = swept(engine.settings.home.expanduser() / "transfer")
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()

    async def run(
        self,
        caller: Caller,
        permission: Permission,
        work: Callable[[Wire], T],
        pool: Pool | None = None,
        *,
        again: bool = False,
    ) -> T:
        """Return what ``work`` makes of the caller's tenant. Raises :class:`memos.errors.MemosError`.

        ``again`` is for further work of a request: the key must still hold, and its rate is not charged once more.
        """

        def admitted() -> T:
            admit = self._known if again else self.admit
            return work(Wire(self.engine, admit(caller, permission).tenant))

        return await (pool or self.calls).run(admitted)

    def admit(self, caller: Caller, permission: Permission) -> Principal:
        """Return who the caller is, if the key and its rate allow it. Blocks: for threads of a pool."""
        principal = self._known(caller, permission)
        self._limit.take(principal.key_id or "")
        return principal

    def _known(self, caller: Caller, permission: Permission) -> Principal:
        return self.access.admit(caller.token, permission, local=caller.local)

    def measured(self) -> bytes:
        """Return the metrics, with what the store and the pools hold now. Blocks: for threads of a pool."""
        for pool in (self.calls, self.reads, self.chats, self.files):
            self.metrics.waiting.labels(pool.name).set(pool.taken)
        with self.engine.database.read() as connection:
            held, jobs = totals(connection)
            queued = queued_jobs(connection)
            ended = ended_jobs(connection)
        for what, count in held.items():
            self.metrics.held.labels(what).set(count)
        for state in JobState:
            self.metrics.jobs.labels(state.value).set(jobs.get(state.value, 0))
        self.metrics.jobs_ended(ended)
        self.metrics.prefetch(asdict(self.engine.prefetched))
        self.metrics.queued.clear()
        for task, count in queued.items():
            self.metrics.queued.labels(task).set(count)
        return self.metrics.text()

    async def close(self) -> None:
        """Finish the work under way and close the engine."""
        self.stopping.set()
        for pool in (self.calls, self.reads, self.chats, self.files, self.probes):
            await asyncio.to_thread(pool.close)
        if self.upstream is not None:
            await self.upstream.close()
        await asyncio.to_thread(self.engine.close)


def service_of(request: Request) -> Service:
    """Return the service of a request's application."""
    found: Service = request.app.state.service
    return found


async def _service(request: Request) -> Service:
    """Return the same as a dependency; one that is a plain function costs a thread at every request."""
    return service_of(request)


ServiceOf = Annotated[Service, Depends(_service)]


async def plain(
    service: Service,
    caller: Caller,
    permission: Permission,
    operation: str,
    payload: Payload,
    *,
    status: int = 200,
    under: str | None = None,
) -> Answer:
    """Return what an operation returns, ``under`` a name of an object if it is a list."""

    def work(wire: Wire) -> bytes:
        made = wire.call(operation, payload)
        return encoded(made if under is None else {under: made})

    return Answer(await service.run(caller, permission, work), status)


async def tagged(
    service: Service,
    caller: Caller,
    permission: Permission,
    operation: str,
    payload: Payload,
    pool: Pool | None = None,
) -> Answer:
    """Return the memory that an operation returns, with its version as ``ETag``."""

    def work(wire: Wire) -> tuple[bytes, dict[str, str]]:
        cube = wire.call(operation, payload)
        return encoded(cube), tag(cube["version"])

    content, headers = await service.run(caller, permission, work, pool)
    return Answer(content, headers=headers)

"""The client: ``Memory`` and ``AsyncMemory``, the same methods on both, embedded or over HTTP."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from memos_sdk import _operations as operations
from memos_sdk._embedded import AsyncEmbeddedTransport, EmbeddedTransport
from memos_sdk._http import AsyncHttpTransport, HttpTransport
from memos_sdk._operations import ChatOptions, Operation, Time
from memos_sdk._stream import AsyncChatStream, ChatStream
from memos_sdk._transport import AsyncTransport, Transport
from memos_sdk.errors import InvalidInput, StoreClosed
from memos_sdk.types import (
    AdapterInfo,
    BackupReport,
    ChatReply,
    CubeVersion,
    DeletionReceipt,
    Hold,
    ImportReport,
    Job,
    KVFile,
    KVSettings,
    Link,
    MemCube,
    Move,
    RecallResult,
    ReceiptCheck,
    RestoreReport,
    Retention,
    Statistics,
)

T = TypeVar("T")
#: Seconds between two looks at a job that is waited for: the first, and the longest.
POLL_S, POLL_MAX_S = 0.01, 0.25


def _check_place(url: str | None, api_key: str | None, path: str | Path | None, embedder: Any) -> None:
    """Refuse arguments of both kinds of memory at once."""
    if url is not None and (path is not None or embedder is not None):
        raise InvalidInput("give the url of a server, or path and embedder of an embedded store, not both")
    if url is None and api_key is not None:
        raise InvalidInput("an api_key belongs to the url of a server; an embedded store needs none")


class Memory:
    """The memory of an agent.

    ``Memory("http://host:8000", api_key="memos_...")`` asks a server, ``Memory(path="./data")`` opens an embedded
    store; ``Memory()`` the one in ``MEMOS_HOME`` or the platform's data directory. ``timeout`` is the longest wait for
    a server's answer, in seconds; what may be repeated is sent up to four times. ``embedder`` names a model or is an
    object with ``identity``, ``dimension``, ``embed`` and ``count_tokens``. An omitted ``user_id`` means the namespace
    ``default``, except where an id names the memory.
    Every method raises :class:`memos_sdk.errors.MemosError` or a subclass.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        path: str | Path | None = None,
        embedder: Any = None,
        timeout: float = 60.0,
    ) -> None:
        _check_place(url, api_key, path, embedder)
        self._transport: Transport = (
            EmbeddedTransport(path, embedder) if url is None else HttpTransport(url, api_key, timeout)
        )

    def store(
        self,
        text: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        event_time: Time = None,
        expires_at: Time = None,
        infer: bool = True,
        idempotency_key: str | None = None,
    ) -> MemCube:
        """Store one memory and return it; it can be recalled at once.

        A naive ``event_time`` or ``expires_at`` is taken as UTC. The same ``idempotency_key`` within 24 h returns the
        memory made the first time.
        """
        return self._call(
            operations.store(
                text,
                user_id,
                agent_id,
                run_id,
                metadata,
                event_time,
                expires_at,
                infer,
                idempotency_key,
            )
        )

    def store_many(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> builtins.list[MemCube]:
        """Store all items or none; each is ``{"text": ..., "metadata": ..., "event_time": ..., ...}``.

        A bad item is named by the error's ``index``.
        """
        return self._call(operations.store_many(items, user_id, agent_id, run_id, idempotency_key))

    def recall(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        top_k: int = 10,
        filters: Mapping[str, Any] | None = None,
        as_of: Time = None,
        max_tokens: int | None = None,
        explain: bool = False,
    ) -> RecallResult:
        """Return the memories that answer ``query``, best first.

        ``filters`` restrict before ranking, ``as_of`` asks what held at that time, ``max_tokens`` bounds the text block
        ``context``, ``explain`` adds the parts of every score and the time of every stage.
        """
        return self._call(
            operations.recall(query, user_id, agent_id, run_id, top_k, filters, as_of, max_tokens, explain)
        )

    def get(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> MemCube:
        """Return one memory; raises ``NotFound``."""
        return self._call(operations.get(cube_id, user_id))

    def list(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> builtins.list[MemCube]:
        """Return up to ``limit`` memories in the order they were stored.

        ``after`` is the last id of the page before.
        """
        return self._call(operations.list_(user_id, agent_id, run_id, limit, after))

    def history(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> builtins.list[CubeVersion]:
        """Return every version of a memory, oldest first."""
        return self._call(operations.history(cube_id, user_id))

    def expand(self, cube_id: str, *, user_id: str | None = None) -> builtins.list[MemCube]:
        """Return the memories that one was fused from or stands for, or that a cube of a higher tier was made from."""
        return self._call(operations.expand(cube_id, user_id))

    def links(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> builtins.list[Link]:
        """Return the links of a memory, strongest first."""
        return self._call(operations.links(cube_id, user_id))

    def rollback(
        self,
        cube_id: str,
        version: int,
        *,
        user_id: str | None = None,
    ) -> MemCube:
        """Write a new version that says what an earlier one said: text, metadata and note."""
        return self._call(operations.rollback(cube_id, version, user_id))

    def refine(
        self,
        cube_ids: Sequence[str] | None = None,
        *,
        user_id: str | None = None,
    ) -> Job:
        """Have notes written: those that wait, and again those of ``cube_ids``.

        Without ids, those are written again for which a model was asked and its answer could not be used. Wait for the
        job to have every note of the user's memories written.
        """
        return self._call(operations.refine(cube_ids, user_id))

    def update(
        self,
        cube_id: str,
        *,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
        user_id: str | None = None,
    ) -> MemCube:
        """Write a new version; ``metadata`` replaces the old whole.

        Raises ``VersionConflict`` when ``expected_version`` is no longer the current one.
        """
        return self._call(operations.update(cube_id, text, metadata, expected_version, user_id))

    def forget(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> DeletionReceipt:
        """Delete one memory everywhere; the receipt says what was removed."""
        return self._call(operations.forget(cube_id, user_id))

    def forget_all(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> DeletionReceipt:
        """Delete every memory of a user, or of one agent or run of that user."""
        return self._call(operations.forget_all(user_id, agent_id, run_id))

    def verify_receipt(self, receipt: DeletionReceipt | Mapping[str, Any]) -> ReceiptCheck:
        """Check a receipt's signature, and hold it against the system as it is now."""
        return self._call(operations.verify_receipt(receipt))

    def hold(self, cube_id: str | None = None, *, user_id: str | None = None, reason: str | None = None) -> Hold:
        """Place a legal hold on a memory, or on all memories of a user where no id is given.

        Until it is released, deletions raise ``LegalHold`` and nothing expires.
        """
        return self._call(operations.hold(cube_id, user_id, reason))

    def release(self, hold_id: str | Hold) -> Hold:
        """End a legal hold; return it as it was."""
        return self._call(operations.release(hold_id))

    def holds(self, *, user_id: str | None = None) -> builtins.list[Hold]:
        """Return the legal holds on memories of a user, oldest first."""
        return self._call(operations.holds(user_id))

    def retention(self, *, user_id: str | None = None, days: int | None = None) -> Retention:
        """Return how many days memories of a user are kept; with ``days``, keep them so long from now on.

        They are deleted so many days after they were stored; pinned and held ones stay. 0 is for good.
        """
        return self._call(operations.retention(user_id, days))

    def promote(
        self,
        cube_ids: Sequence[str],
        *,
        to: str,
        user_id: str | None = None,
        codec: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Job:
        """Make a cube of a higher tier from memories of one user; they stay as they are.

        ``to="activation"`` keeps their KV cache in a file, compressed by ``codec`` (default: :meth:`kv_settings`).
        ``to="parametric"`` trains an adapter with ``options`` and publishes it if it passes its gate. Returns at once;
        :meth:`wait` for the job, whose ``result["cube_id"]`` is the new cube.
        """
        return self._call(operations.promote(cube_ids, to, user_id, codec, options))

    def demote(self, cube_id: str, *, user_id: str | None = None) -> DeletionReceipt:
        """Delete a cube of a higher tier; the memories it was made from stay."""
        return self._call(operations.demote(cube_id, user_id))

    def kv_files(self, *, user_id: str | None = None) -> builtins.list[KVFile]:
        """Return the KV files of a user, oldest first: bytes beside those of the cache, and the loss that they cost."""
        return self._call(operations.kv_files(user_id))

    def kv_settings(self, *, user_id: str | None = None) -> KVSettings:
        """Return what holds for a user's KV files unless a request names something else."""
        return self._call(operations.kv_settings(user_id))

    def set_kv_settings(
        self,
        *,
        codec: str | None = None,
        compose: str | None = None,
        ratio: float | None = None,
        user_id: str | None = None,
    ) -> KVSettings:
        """Replace all of it, from the next promotion and chat on; None leaves a choice to the settings of the store.

        ``codec`` may be a chain such as ``snapkv:0.5+zipcache``, ``compose`` a mode or ``auto``. Raises
        ``InvalidInput`` or ``CompositionRefused`` for one that there is not, or a ``ratio`` outside 0 to 1.
        """
        return self._call(operations.set_kv_settings(codec, compose, ratio, user_id))

    def job(self, job_id: str) -> Job:
        """Return how a job stands."""
        return self._call(operations.job(job_id))

    def jobs(
        self, *, user_id: str | None = None, state: str | None = None, limit: int = 100, after: str | None = None
    ) -> builtins.list[Job]:
        """Return up to ``limit`` of a user's jobs (in one ``state``, if given), newest first.

        ``after`` is the last id of the page before. What failed for good stays in the state ``failed``.
        """
        return self._call(operations.jobs(user_id, state, limit, after))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job: at once if it waits, at its next report of progress if it is running. Nothing of it is kept.

        Raises ``Conflict`` if it is done or failed.
        """
        return self._call(operations.cancel(job))

    def retry(self, job: Job | str) -> Job:
        """Queue a job again that failed or was cancelled. Raises ``Conflict`` if it is running or done."""
        return self._call(operations.retry(job))

    def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """Return a job once it is over or, after ``timeout`` seconds, as it stands then."""
        return self._waited(operations.job(job), timeout)

    def plan(self, *, user_id: str | None = None, dry_run: bool = True) -> builtins.list[Move]:
        """Return what would be moved between tiers now, and why; without ``dry_run``, move it.

        What was used lately and often is worth a KV file if the seconds it saves are worth its bytes.
        """
        return self._call(operations.plan(user_id, dry_run))

    def fuse(self, *, user_id: str | None = None, dry_run: bool = False) -> builtins.list[Move]:
        """Let memories that say nearly the same, or are used together, become one; with ``dry_run``, say which.

        Each fusion is a job; once it is made, ``moves`` lists it and ``undo`` takes it back. What was fused is put
        away, and ``expand`` returns it.
        """
        return self._call(operations.fuse(user_id, dry_run))

    def moves(self, *, user_id: str | None = None) -> builtins.list[Move]:
        """Return what was moved between tiers, fused and split, oldest first."""
        return self._call(operations.moves(user_id))

    def undo(self, move_id: str, *, user_id: str | None = None) -> builtins.list[Move]:
        """Take a move back: give up what was made, or make again what was given up; return the moves that do it."""
        return self._call(operations.undo(move_id, user_id))

    def adapters(self, *, user_id: str | None = None) -> builtins.list[AdapterInfo]:
        """Return a user's adapters and cartridges, with earlier versions and failed ones, oldest first."""
        return self._call(operations.adapters(user_id))

    def adapter(self, cube_id: str, *, user_id: str | None = None) -> AdapterInfo:
        """Return one adapter or cartridge, with its gate report and provenance."""
        return self._call(operations.adapter(cube_id, user_id))

    def export_adapter(self, cube_id: str, *, path: str | Path, user_id: str | None = None) -> AdapterInfo:
        """Write an adapter as a PEFT directory, to a new or an empty folder."""
        return self._call(operations.export_adapter(cube_id, path, user_id))

    def import_adapter(self, path: str | Path, *, name: str | None = None, user_id: str | None = None) -> AdapterInfo:
        """Register the adapter of a PEFT directory for the local model; it is used only where a request names it.

        Whatever this runtime would not apply exactly as PEFT does raises ``AdapterRefused``.
        """
        return self._call(operations.import_adapter(path, name, user_id))

    def fuse_adapters(self, cube_ids: Sequence[str], *, user_id: str | None = None) -> Job:
        """Make one adapter of several of a user, as a job, and serve it in their place if it passes the gate.

        ``rollback_adapter`` of it serves them again.
        """
        return self._call(operations.fuse_adapters(cube_ids, user_id))

    def remove_adapter(self, cube_id: str, *, user_id: str | None = None) -> DeletionReceipt:
        """Delete an adapter; the memories it was made from stay."""
        return self._call(operations.remove_adapter(cube_id, user_id))

    def rollback_adapter(self, cube_id: str, *, user_id: str | None = None) -> AdapterInfo:
        """Publish the version before a published adapter again, or a superseded one itself; return it."""
        return self._call(operations.rollback_adapter(cube_id, user_id))

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        top_k: int = 10,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        reuse: bool = True,
        adapters: Sequence[str] | None = None,
        text: bool = True,
        compose: str | None = None,
        ratio: float | None = None,
        retrieval: str | None = None,
    ) -> ChatReply:
        """Answer the last of ``messages`` with what the user's memories say about it, on the local model.

        At most ``top_k`` memories are recalled, 0 for none. ``temperature`` 0 is greedy. ``reuse=False`` computes what
        a KV file could bring. ``adapters`` names what the model runs with (``()``: nothing); left open, it is what
        holds the recalled memories and passed its gate. ``text=False`` keeps the text of those out of the prompt.
        ``compose`` says how several KV files begin the prompt (``prefix``: never more than one; ``concat``, ``blend``,
        ``ape``, ``craft``; ``auto``: what costs least) and ``ratio`` what share of their tokens is computed anew; left
        open, it is what :meth:`kv_settings` say, or else what costs least.
        ``retrieval`` (``quest:0.25``; also ``blockmean``, ``vq``) lets each token attend that share of a KV file alone.
        ``reply.usage`` counts tokens and milliseconds, ``reply.tiers`` names the cubes that the answer was made with.
        """
        options: ChatOptions = {
            "top_k": top_k,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "reuse": reuse,
            "adapters": adapters,
            "text": text,
            "compose": compose,
            "ratio": ratio,
            "retrieval": retrieval,
        }
        return self._call(operations.chat(messages, user_id, agent_id, run_id, options))

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream:
        """As :meth:`chat`, piece by piece: iterate for the text as it comes; ``reply`` has the whole at the end."""
        payload = operations.chat(messages, user_id, agent_id, run_id, options).payload
        return ChatStream(self._transport.stream(payload))

    def export(
        self,
        path: str | Path,
        *,
        user_id: str | None = None,
    ) -> int:
        """Write a user's memories to a JSON Lines file; return how many."""
        return self._call(operations.export(path, user_id))

    def import_(
        self,
        path: str | Path,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        strict: bool = False,
    ) -> ImportReport:
        """Read memories from a file: own export, JSON Lines, LoCoMo or a chat log.

        Malformed lines are reported and left out; under ``strict`` the first one refuses the whole file.
        """
        return self._call(operations.import_(path, user_id, agent_id, run_id, strict))

    def backup(self, path: str | Path, *, user_id: str | None = None, all_users: bool = False) -> BackupReport:
        """Write a user's memories, or everybody's, with KV files and adapters, to a folder or a .tar or .tar.zst file.

        Embedded only: a service is backed up on its own machine.
        """
        return self._call(operations.backup(path, user_id, all_users))

    def restore(self, path: str | Path, *, replace: bool = False) -> RestoreReport:
        """Restore what ``backup`` wrote, all of it or nothing, over what a user has only if told to ``replace`` it."""
        return self._call(operations.restore(path, replace))

    def stats(
        self,
        *,
        user_id: str | None = None,
    ) -> Statistics:
        """Return what a user's namespace holds."""
        return self._call(operations.stats(user_id))

    def close(self) -> None:
        """Release the store; closing twice is harmless."""
        self._transport.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, operation: Operation[T]) -> T:
        return operation.read(self._transport.call(operation.name, operation.payload))

    def _waited(self, look: Operation[Job], timeout: float | None) -> Job:
        start, pause = time.monotonic(), POLL_S
        while not (job := self._call(look)).over and (timeout is None or time.monotonic() - start < timeout):
            time.sleep(pause)
            pause = min(2 * pause, POLL_MAX_S)
        return job


class AsyncMemory:
    """As :class:`Memory`, for asyncio: the engine works in threads, the event loop stays free.

    The store is opened by the first call.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        path: str | Path | None = None,
        embedder: Any = None,
        timeout: float = 60.0,
    ) -> None:
        _check_place(url, api_key, path, embedder)
        self._embedded = (path, embedder)
        self._transport: AsyncTransport | None = None
        if url is not None:
            self._transport = AsyncHttpTransport(url, api_key, timeout)
        self._opening = asyncio.Lock()
        self._closed = False

    async def store(
        self,
        text: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        event_time: Time = None,
        expires_at: Time = None,
        infer: bool = True,
        idempotency_key: str | None = None,
    ) -> MemCube:
        """Store one memory and return it; it can be recalled at once.

        A naive ``event_time`` or ``expires_at`` is taken as UTC. The same ``idempotency_key`` within 24 h returns the
        memory made the first time.
        """
        return await self._call(
            operations.store(
                text,
                user_id,
                agent_id,
                run_id,
                metadata,
                event_time,
                expires_at,
                infer,
                idempotency_key,
            )
        )

    async def store_many(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> builtins.list[MemCube]:
        """Store all items or none; each is ``{"text": ..., "metadata": ..., "event_time": ..., ...}``.

        A bad item is named by the error's ``index``.
        """
        return await self._call(operations.store_many(items, user_id, agent_id, run_id, idempotency_key))

    async def recall(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        top_k: int = 10,
        filters: Mapping[str, Any] | None = None,
        as_of: Time = None,
        max_tokens: int | None = None,
        explain: bool = False,
    ) -> RecallResult:
        """Return the memories that answer ``query``, best first.

        ``filters`` restrict before ranking, ``as_of`` asks what held at that time, ``max_tokens`` bounds the text block
        ``context``, ``explain`` adds the parts of every score and the time of every stage.
        """
        return await self._call(
            operations.recall(query, user_id, agent_id, run_id, top_k, filters, as_of, max_tokens, explain)
        )

    async def get(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> MemCube:
        """Return one memory; raises ``NotFound``."""
        return await self._call(operations.get(cube_id, user_id))

    async def list(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> builtins.list[MemCube]:
        """Return up to ``limit`` memories in the order they were stored.

        ``after`` is the last id of the page before.
        """
        return await self._call(operations.list_(user_id, agent_id, run_id, limit, after))

    async def history(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> builtins.list[CubeVersion]:
        """Return every version of a memory, oldest first."""
        return await self._call(operations.history(cube_id, user_id))

    async def expand(self, cube_id: str, *, user_id: str | None = None) -> builtins.list[MemCube]:
        """Return the memories that one was fused from or stands for, or that a cube of a higher tier was made from."""
        return await self._call(operations.expand(cube_id, user_id))

    async def links(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> builtins.list[Link]:
        """Return the links of a memory, strongest first."""
        return await self._call(operations.links(cube_id, user_id))

    async def rollback(
        self,
        cube_id: str,
        version: int,
        *,
        user_id: str | None = None,
    ) -> MemCube:
        """Write a new version that says what an earlier one said: text, metadata and note."""
        return await self._call(operations.rollback(cube_id, version, user_id))

    async def refine(
        self,
        cube_ids: Sequence[str] | None = None,
        *,
        user_id: str | None = None,
    ) -> Job:
        """Have notes written: those that wait, and again those of ``cube_ids``.

        Without ids, those are written again for which a model was asked and its answer could not be used. Wait for the
        job to have every note of the user's memories written.
        """
        return await self._call(operations.refine(cube_ids, user_id))

    async def update(
        self,
        cube_id: str,
        *,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
        user_id: str | None = None,
    ) -> MemCube:
        """Write a new version; ``metadata`` replaces the old whole.

        Raises ``VersionConflict`` when ``expected_version`` is no longer the current one.
        """
        return await self._call(operations.update(cube_id, text, metadata, expected_version, user_id))

    async def forget(
        self,
        cube_id: str,
        *,
        user_id: str | None = None,
    ) -> DeletionReceipt:
        """Delete one memory everywhere; the receipt says what was removed."""
        return await self._call(operations.forget(cube_id, user_id))

    async def forget_all(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> DeletionReceipt:
        """Delete every memory of a user, or of one agent or run of that user."""
        return await self._call(operations.forget_all(user_id, agent_id, run_id))

    async def verify_receipt(self, receipt: DeletionReceipt | Mapping[str, Any]) -> ReceiptCheck:
        """Check a receipt's signature, and hold it against the system as it is now."""
        return await self._call(operations.verify_receipt(receipt))

    async def hold(self, cube_id: str | None = None, *, user_id: str | None = None, reason: str | None = None) -> Hold:
        """Place a legal hold on a memory, or on all memories of a user where no id is given.

        Until it is released, deletions raise ``LegalHold`` and nothing expires.
        """
        return await self._call(operations.hold(cube_id, user_id, reason))

    async def release(self, hold_id: str | Hold) -> Hold:
        """End a legal hold; return it as it was."""
        return await self._call(operations.release(hold_id))

    async def holds(self, *, user_id: str | None = None) -> builtins.list[Hold]:
        """Return the legal holds on memories of a user, oldest first."""
        return await self._call(operations.holds(user_id))

    async def retention(self, *, user_id: str | None = None, days: int | None = None) -> Retention:
        """Return how many days memories of a user are kept; with ``days``, keep them so long from now on.

        They are deleted so many days after they were stored; pinned and held ones stay. 0 is for good.
        """
        return await self._call(operations.retention(user_id, days))

    async def promote(
        self,
        cube_ids: Sequence[str],
        *,
        to: str,
        user_id: str | None = None,
        codec: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Job:
        """Make a cube of a higher tier from memories of one user; they stay as they are.

        ``to="activation"`` keeps their KV cache in a file, compressed by ``codec`` (default: :meth:`kv_settings`).
        ``to="parametric"`` trains an adapter with ``options`` and publishes it if it passes its gate. Returns at once;
        :meth:`wait` for the job, whose ``result["cube_id"]`` is the new cube.
        """
        return await self._call(operations.promote(cube_ids, to, user_id, codec, options))

    async def demote(self, cube_id: str, *, user_id: str | None = None) -> DeletionReceipt:
        """Delete a cube of a higher tier; the memories it was made from stay."""
        return await self._call(operations.demote(cube_id, user_id))

    async def kv_files(self, *, user_id: str | None = None) -> builtins.list[KVFile]:
        """Return the KV files of a user, oldest first: bytes beside those of the cache, and the loss that they cost."""
        return await self._call(operations.kv_files(user_id))

    async def kv_settings(self, *, user_id: str | None = None) -> KVSettings:
        """Return what holds for a user's KV files unless a request names something else."""
        return await self._call(operations.kv_settings(user_id))

    async def set_kv_settings(
        self,
        *,
        codec: str | None = None,
        compose: str | None = None,
        ratio: float | None = None,
        user_id: str | None = None,
    ) -> KVSettings:
        """Replace all of it, from the next promotion and chat on; None leaves a choice to the settings of the store.

        ``codec`` may be a chain such as ``snapkv:0.5+zipcache``, ``compose`` a mode or ``auto``. Raises
        ``InvalidInput`` or ``CompositionRefused`` for one that there is not, or a ``ratio`` outside 0 to 1.
        """
        return await self._call(operations.set_kv_settings(codec, compose, ratio, user_id))

    async def job(self, job_id: str) -> Job:
        """Return how a job stands."""
        return await self._call(operations.job(job_id))

    async def jobs(
        self, *, user_id: str | None = None, state: str | None = None, limit: int = 100, after: str | None = None
    ) -> builtins.list[Job]:
        """Return up to ``limit`` of a user's jobs (in one ``state``, if given), newest first.

        ``after`` is the last id of the page before. What failed for good stays in the state ``failed``.
        """
        return await self._call(operations.jobs(user_id, state, limit, after))

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job: at once if it waits, at its next report of progress if it is running. Nothing of it is kept.

        Raises ``Conflict`` if it is done or failed.
        """
        return await self._call(operations.cancel(job))

    async def retry(self, job: Job | str) -> Job:
        """Queue a job again that failed or was cancelled. Raises ``Conflict`` if it is running or done."""
        return await self._call(operations.retry(job))

    async def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """Return a job once it is over or, after ``timeout`` seconds, as it stands then."""
        return await self._waited(operations.job(job), timeout)

    async def plan(self, *, user_id: str | None = None, dry_run: bool = True) -> builtins.list[Move]:
        """Return what would be moved between tiers now, and why; without ``dry_run``, move it.

        What was used lately and often is worth a KV file if the seconds it saves are worth its bytes.
        """
        return await self._call(operations.plan(user_id, dry_run))

    async def fuse(self, *, user_id: str | None = None, dry_run: bool = False) -> builtins.list[Move]:
        """Let memories that say nearly the same, or are used together, become one; with ``dry_run``, say which.

        Each fusion is a job; once it is made, ``moves`` lists it and ``undo`` takes it back. What was fused is put
        away, and ``expand`` returns it.
        """
        return await self._call(operations.fuse(user_id, dry_run))

    async def moves(self, *, user_id: str | None = None) -> builtins.list[Move]:
        """Return what was moved between tiers, fused and split, oldest first."""
        return await self._call(operations.moves(user_id))

    async def undo(self, move_id: str, *, user_id: str | None = None) -> builtins.list[Move]:
        """Take a move back: give up what was made, or make again what was given up; return the moves that do it."""
        return await self._call(operations.undo(move_id, user_id))

    async def adapters(self, *, user_id: str | None = None) -> builtins.list[AdapterInfo]:
        """Return a user's adapters and cartridges, with earlier versions and failed ones, oldest first."""
        return await self._call(operations.adapters(user_id))

    async def adapter(self, cube_id: str, *, user_id: str | None = None) -> AdapterInfo:
        """Return one adapter or cartridge, with its gate report and provenance."""
        return await self._call(operations.adapter(cube_id, user_id))

    async def export_adapter(self, cube_id: str, *, path: str | Path, user_id: str | None = None) -> AdapterInfo:
        """Write an adapter as a PEFT directory, to a new or an empty folder."""
        return await self._call(operations.export_adapter(cube_id, path, user_id))

    async def import_adapter(
        self, path: str | Path, *, name: str | None = None, user_id: str | None = None
    ) -> AdapterInfo:
        """Register the adapter of a PEFT directory for the local model; it is used only where a request names it.

        Whatever this runtime would not apply exactly as PEFT does raises ``AdapterRefused``.
        """
        return await self._call(operations.import_adapter(path, name, user_id))

    async def fuse_adapters(self, cube_ids: Sequence[str], *, user_id: str | None = None) -> Job:
        """Make one adapter of several of a user, as a job, and serve it in their place if it passes the gate.

        ``rollback_adapter`` of it serves them again.
        """
        return await self._call(operations.fuse_adapters(cube_ids, user_id))

    async def remove_adapter(self, cube_id: str, *, user_id: str | None = None) -> DeletionReceipt:
        """Delete an adapter; the memories it was made from stay."""
        return await self._call(operations.remove_adapter(cube_id, user_id))

    async def rollback_adapter(self, cube_id: str, *, user_id: str | None = None) -> AdapterInfo:
        """Publish the version before a published adapter again, or a superseded one itself; return it."""
        return await self._call(operations.rollback_adapter(cube_id, user_id))

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        top_k: int = 10,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        reuse: bool = True,
        adapters: Sequence[str] | None = None,
        text: bool = True,
        compose: str | None = None,
        ratio: float | None = None,
        retrieval: str | None = None,
    ) -> ChatReply:
        """Answer the last of ``messages`` with what the user's memories say about it, on the local model.

        At most ``top_k`` memories are recalled, 0 for none. ``temperature`` 0 is greedy. ``reuse=False`` computes what
        a KV file could bring. ``adapters`` names what the model runs with (``()``: nothing); left open, it is what
        holds the recalled memories and passed its gate. ``text=False`` keeps the text of those out of the prompt.
        ``compose`` says how several KV files begin the prompt (``prefix``: never more than one; ``concat``, ``blend``,
        ``ape``, ``craft``; ``auto``: what costs least) and ``ratio`` what share of their tokens is computed anew; left
        open, it is what :meth:`kv_settings` say, or else what costs least.
        ``retrieval`` (``quest:0.25``; also ``blockmean``, ``vq``) lets each token attend that share of a KV file alone.
        ``reply.usage`` counts tokens and milliseconds, ``reply.tiers`` names the cubes that the answer was made with.
        """
        options: ChatOptions = {
            "top_k": top_k,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "reuse": reuse,
            "adapters": adapters,
            "text": text,
            "compose": compose,
            "ratio": ratio,
            "retrieval": retrieval,
        }
        return await self._call(operations.chat(messages, user_id, agent_id, run_id, options))

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncChatStream:
        """As :meth:`chat`, piece by piece: iterate for the text as it comes; ``reply`` has the whole at the end."""
        payload = operations.chat(messages, user_id, agent_id, run_id, options).payload
        return AsyncChatStream(self._parts(payload))

    async def export(
        self,
        path: str | Path,
        *,
        user_id: str | None = None,
    ) -> int:
        """Write a user's memories to a JSON Lines file; return how many."""
        return await self._call(operations.export(path, user_id))

    async def import_(
        self,
        path: str | Path,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        strict: bool = False,
    ) -> ImportReport:
        """Read memories from a file: own export, JSON Lines, LoCoMo or a chat log.

        Malformed lines are reported and left out; under ``strict`` the first one refuses the whole file.
        """
        return await self._call(operations.import_(path, user_id, agent_id, run_id, strict))

    async def backup(self, path: str | Path, *, user_id: str | None = None, all_users: bool = False) -> BackupReport:
        """Write a user's memories, or everybody's, with KV files and adapters, to a folder or a .tar or .tar.zst file.

        Embedded only: a service is backed up on its own machine.
        """
        return await self._call(operations.backup(path, user_id, all_users))

    async def restore(self, path: str | Path, *, replace: bool = False) -> RestoreReport:
        """Restore what ``backup`` wrote, all of it or nothing, over what a user has only if told to ``replace`` it."""
        return await self._call(operations.restore(path, replace))

    async def stats(
        self,
        *,
        user_id: str | None = None,
    ) -> Statistics:
        """Return what a user's namespace holds."""
        return await self._call(operations.stats(user_id))

    async def close(self) -> None:
        """Release the store; closing twice is harmless."""
        async with self._opening:
            self._closed = True
        if self._transport is not None:
            await self._transport.close()

    async def __aenter__(self) -> AsyncMemory:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, operation: Operation[T]) -> T:
        transport = await self._opened()
        return operation.read(await transport.call(operation.name, operation.payload))

    async def _waited(self, look: Operation[Job], timeout: float | None) -> Job:
        start, pause = time.monotonic(), POLL_S
        while not (job := await self._call(look)).over and (timeout is None or time.monotonic() - start < timeout):
            await asyncio.sleep(pause)
            pause = min(2 * pause, POLL_MAX_S)
        return job

    async def _parts(self, payload: dict[str, Any]) -> AsyncIterator[Any]:
        transport = await self._opened()
        async for part in transport.stream(payload):
            yield part

    async def _opened(self) -> AsyncTransport:
        async with self._opening:
            if self._transport is None and self._closed:
                raise StoreClosed("this store was closed; open it again")
            if self._transport is None:
                self._transport = await asyncio.to_thread(AsyncEmbeddedTransport, *self._embedded)
            return self._transport

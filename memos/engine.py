"""The engine: what can be done with a memory, readable from top to bottom.

store   check -> embed -> write, one transaction -> the index follows
recall  understand -> embed -> find -> rank -> fit the budget
chat    recall -> find a KV file that covers it -> load -> prefill the rest -> decode
promote bundle -> prefill -> encode -> file -> cube, or bundle -> train -> gate -> file -> cube
fuse    cluster -> say it once -> one memory in the place of several, which are put away, one transaction
forget  delete with all that was derived, one transaction -> files and the index follow -> scrub -> signed receipt
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from memos.activation.listing import KVFile, RebuildReport
from memos.activation.tier import ActivationTier
from memos.backup.backup import Backup
from memos.backup.report import BackupReport, RestoreReport
from memos.backup.restore import Restore
from memos.clock import from_us, now_us, parse_time
from memos.config import OFF, Settings
from memos.cube import DEFAULT_USER, CubeVersion, Kind, Link, MemCube, Scope, State, check_name
from memos.doctor import DoctorReport, examine
from memos.doctor.repair import Action, Mender
from memos.doctor.strays import sweep_trainings
from memos.doctor.survey import survey_of
from memos.embedding.base import Embedder
from memos.embedding.factory import make_embedder
from memos.embedding.reindex import Progress, Reindexer
from memos.embedding.serving import ServingEmbedder
from memos.errors import InvalidInput, NotFound, StoreClosed, StoreUnavailable
from memos.ids import is_id
from memos.llm.chat import Chat
from memos.llm.messages import ChatReply, check_messages, check_options
from memos.parametric.distil.folder import forget_trainings
from memos.parametric.listing import AdapterInfo
from memos.parametric.tier import ParametricTier
from memos.payloads.tiers import payload_files
from memos.plaintext.chosen import check_present, chosen
from memos.plaintext.forgetting import Forgetter
from memos.plaintext.intake import check_batch, check_count, check_text
from memos.plaintext.notes.keeper import NoteKeeper
from memos.plaintext.notes.writers import scribe_of
from memos.plaintext.reader import NoteReader
from memos.plaintext.recall import Hit, RecallRequest, RecallResult
from memos.plaintext.writer import NoteWriter
from memos.receipts.check import ReceiptCheck, ReceiptChecker
from memos.receipts.keys import ReceiptKeys
from memos.receipts.receipt import DeletionReceipt, read_receipt, sealed
from memos.runtime.host import ModelHost
from memos.schedule.celery_queue import celery_queue
from memos.schedule.executor import Executor
from memos.schedule.expiry import Expired, expire
from memos.schedule.foresight.prefetcher import Prefetcher, Tier, owner_of
from memos.schedule.foresight.reading import Reading
from memos.schedule.foresight.staging import Counts, Staging
from memos.schedule.fusing.fuser import Afterwards, Fuser
from memos.schedule.heat import Cooling, HeatLog
from memos.schedule.keeping import Keeping
from memos.schedule.moving.move import Move
from memos.schedule.moving.mover import Hands, Mover
from memos.schedule.pace import Pace
from memos.schedule.queue import Queue
from memos.schedule.scrub import SCRUB, Scrubbed, ScrubReport, scrub, scrub_all
from memos.schedule.task import Report, Task
from memos.schedule.ticker import Ticker
from memos.schedule.upkeep import Seldom, Upkeep
from memos.store import namespaces
from memos.store.database import Database
from memos.store.derived import RETRAIN, Gone
from memos.store.holds import Hold, Retention
from memos.store.jobs import DISTIL, FUSE, FUSE_ADAPTERS, NOTES, PROMOTE, Job, JobRepository, JobState
from memos.store.kv_settings import KVSettings
from memos.store.location import database_url
from memos.store.lock import DirectoryLock
from memos.store.namespaces import Namespace
from memos.store.once import Once, record
from memos.store.quota import check_jobs
from memos.store.relay import IndexRelay
from memos.store.scoped import locate, locate_job, unfinished_jobs
from memos.store.statistics import Statistics, statistics
from memos.store.vector_index import VectorIndex
from memos.store.views import ViewCache
from memos.transfer.export import Exporter
from memos.transfer.importer import Importer
from memos.transfer.report import ImportReport

MAX_PAGE = 1_000
#: Seconds between two looks for memories that have expired; recall hides them meanwhile.
UPKEEP_S = 600.0
#: Seconds between two portions of the scrub.
SCRUB_S = 3_600.0


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def _unheard(progress: float) -> None:
    """Report progress to nobody."""


class MemoryOS:
    """The memory of agents, in one store.

    Without arguments it opens (or creates) the embedded store in the platform's data directory. All methods may be
    called from several threads. ``models`` lets several engines of a process share one language model. Methods raise
    :class:`memos.errors.MemosError` and nothing else that a caller could have caused.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        embedder: Embedder | None = None,
        models: ModelHost | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.models = models or ModelHost(self.settings)
        self._owns_models = models is None
        self._scribe = scribe_of(self.settings, self.models)
        workers = celery_queue(self.settings)
        home = self.settings.home.expanduser()
        embedded = self.settings.database_url is None
        self._lock = DirectoryLock(home) if embedded else None
        self._open = True
        with ExitStack() as on_failure:
            on_failure.callback(self._release)
            self.database = Database(database_url(self.settings))
            on_failure.pop_all()
        # A folder of this process cannot serve a database that others write to: then only a Chroma server can.
        self.index = VectorIndex(home / "chroma" if embedded else None, self.settings.chroma_url)
        threshold = self.settings.index_threshold if self.index.configured else sys.maxsize
        self.relay = IndexRelay(self.database, self.index, threshold)
        self._embedder = ServingEmbedder(embedder or make_embedder(self.settings))
        self._views = ViewCache(self.settings.cache_bytes)
        cooling = Cooling.days(self.settings.heat_half_life_days)
        self._heat = HeatLog(self.database, cooling)
        #: Told of every recall, with the time of each of its stages.
        self.on_recall: list[Callable[[RecallResult], None]] = []
        self._reader = NoteReader(self.database, self._embedder, self.index, self.relay, self._views)
        self._staging = Staging(self.settings.prefetch_bytes)
        self.activation = ActivationTier(self.settings, self.database, self.models, self._staging)
        self.parametric = ParametricTier(self.settings, self.database, self.models, self._staging)
        self.parametric.on_gone.append(self.models.drop_adapters)
        served: dict[Kind, Tier] = {Kind.ACTIVATION: self.activation, Kind.PARAMETRIC: self.parametric}
        self._prefetcher = Prefetcher(Reading(self.database, cooling), self.models, self._staging, served)
        self.upkeep = Upkeep(self.database)
        self._ticker = Ticker([self.upkeep.run], UPKEEP_S)
        scrubbing = Seldom(lambda: self.scrub(self._ticker.go_on), SCRUB_S)
        self.upkeep.work += [self.expire, self.database.scrub_again, scrubbing]
        if self.settings.plan_hours:
            self.upkeep.work.append(Seldom(self._plan_all, self.settings.plan_hours * 3_600))
        pace = Pace.of(self.settings)
        notes: dict[str, Task] = {NOTES: self._write_notes}
        self._notes: Queue = workers or Executor(self.database, notes, "memos-notes", pace)
        self._writer = NoteWriter(self.database, self._embedder, self.settings, self._discard, self._notes.submit)
        self._receipt_keys = ReceiptKeys(self.settings)
        self._forgetter = Forgetter(self.database, self.settings, self._receipt_keys, self._discard, self._notes.submit)
        self._keeping = Keeping(self.database)
        after = Afterwards(
            self._discard, lambda scope, job: self._jobs.submit(scope, job), self._notes.submit, self.relay.wake
        )
        self._fuser = Fuser(self.settings, self.database, self._embedder, self._scribe.model, after)
        moves: dict[str, Task] = {
            PROMOTE: self.activation.run_promotion,
            DISTIL: self.parametric.run_promotion,
            RETRAIN: self.parametric.run_retraining,
            FUSE: self._fuser.run,
            FUSE_ADAPTERS: self.parametric.run_fusion,
            SCRUB: lambda scope, payload, report: self.scrub(report).model_dump(mode="json"),
        }
        self._jobs: Queue = workers or Executor(self.database, moves, pace=pace)
        #: What jobs can be of, for workers.
        self.tasks = moves if self.settings.notes == OFF else moves | notes
        hands = Hands(self.promote, self.demote, self._fuser.carry_out, self._fuser.split, self.job)
        tiers = (self.activation, self.parametric)
        self._mover = Mover(self.settings, self.database, self.models, tiers, hands)
        if self.index.local:
            self.relay.recover()
        if self.index.configured:
            self.relay.start()
        self._swept = self._sweep()
        self._jobs.start()
        if self.settings.notes != OFF:
            self._notes.start()
        if workers is None:  # theirs is beat's affair
            self._ticker.start()

    # ------------------------------------------------------------ writing

    def store_many(
        self,
        scope: Scope,
        items: Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
    ) -> list[MemCube]:
        """Store memories, all or none; each item has ``text`` and optionally the other arguments of ``store``."""
        self._check_open()
        check_name(idempotency_key, "idempotency_key")
        memories = check_batch(items, scope, self.settings)
        if not memories:
            return []
        cubes = self._writer.store(scope, memories, idempotency_key)
        self.relay.wake()
        return cubes

    def update(
        self,
        tenant: str,
        cube_id: str,
        *,
        user_id: str | None = None,
        text: str | None = None,
        metadata: dict[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> MemCube:
        """Write a new version; ``metadata`` replaces the old whole. Raises ``VersionConflict`` when stale."""
        self._check_open()
        if expected_version is not None:
            check_count(expected_version, 1 << 31, "expected_version")
        cube = self._writer.update(self._home(tenant, cube_id, user_id), cube_id, text, metadata, expected_version)
        self.relay.wake()
        return cube

    def rollback(self, tenant: str, cube_id: str, version: int, *, user_id: str | None = None) -> MemCube:
        """Write a new version that says what version ``version`` said: text, metadata and note."""
        self._check_open()
        check_count(version, 1 << 31, "version")
        cube = self._writer.roll_back(self._home(tenant, cube_id, user_id), cube_id, version)
        self.relay.wake()
        return cube

    def refine(self, scope: Scope, cube_ids: object = None) -> Job:
        """Queue a job that writes notes: those that wait, and again those of ``cube_ids``.

        Without ids, those are written again for which a model was asked and its answer could not be used.
        """
        self._check_open()
        self._check_notes()
        if cube_ids is not None:
            scope, cube_ids = chosen(self.database, scope.tenant, cube_ids, scope.user_id)
        return self.job(scope.tenant, self._writer.refine(scope, cube_ids))

    def move(self, tenant: str, cube_id: str, target: State, *, user_id: str | None = None) -> MemCube:
        """Move a cube to another state; ``IllegalTransition`` unless :data:`memos.cube.LEGAL_MOVES` allows it."""
        self._check_open()
        return self._writer.move(self._home(tenant, cube_id, user_id), cube_id, target)

    def forget(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> DeletionReceipt:
        """Delete one memory everywhere. Raises ``LegalHold`` while it is held."""
        self._check_open()
        scope = self._home(tenant, cube_id, user_id)
        return self._settle(scope, self._forgetter.forget(scope, cube_id))

    def forget_all(self, scope: Scope) -> DeletionReceipt:
        """Delete every memory of a namespace, or of one agent or run in it. Raises ``LegalHold`` while one is held."""
        self._check_open()
        return self._settle(scope, self._forgetter.forget_all(scope))

    # ------------------------------------------------------------ keeping

    def hold(
        self, tenant: str, cube_id: str | None = None, *, user_id: str | None = None, reason: str | None = None
    ) -> Hold:
        """Place a legal hold on a memory, or on all memories of a user where no id is given."""
        self._check_open()
        check_name(user_id, "user_id")
        if cube_id is None:
            scope = Scope(tenant=tenant, user_id=DEFAULT_USER if user_id is None else user_id)
        else:
            scope = self._home(tenant, cube_id, user_id)
        return self._keeping.hold(scope, cube_id, reason)

    def release(self, tenant: str, hold_id: str) -> Hold:
        """End a legal hold; return it as it was."""
        self._check_open()
        return self._keeping.release(tenant, hold_id)

    def holds(self, scope: Scope) -> Sequence[Hold]:
        """Return the legal holds on memories of a user, oldest first."""
        self._check_open()
        return self._keeping.holds(scope)

    def retention(self, scope: Scope) -> Retention:
        """Return how many days memories of a user are kept."""
        self._check_open()
        return self._keeping.retention(scope)

    def retain(self, scope: Scope, days: int) -> Retention:
        """Keep memories of a user so many days from when they were stored, 0 for good; pinned and held ones stay."""
        self._check_open()
        return self._keeping.retain(scope, days)

    def expire(self) -> Expired:
        """Delete for good what has expired, or was kept long enough, in every namespace; held memories stay."""
        self._check_open()
        return expire(self.database, self._expire_some, self._expired)

    def verify_receipt(self, tenant: str, receipt: object) -> ReceiptCheck:
        """Check a receipt's signature, and hold it against the system as it is now."""
        self._check_open()
        given = read_receipt(receipt)
        if given.tenant != tenant:
            raise NotFound(f"no deletion {given.id!r} here")
        files = {"kv": self.activation.has, "adapters": self.parametric.has}
        checker = ReceiptChecker(self.database, self.index, files, self.settings.home)
        return checker.check(given, self._receipt_keys.of(tenant))

    def repeated(self, receipt: object) -> DeletionReceipt:
        """Return the receipt of a deletion that was carried out before, from what was kept of it."""
        given = read_receipt(receipt)
        scope = Scope(tenant=given.tenant, user_id=given.user_id)
        keys = {place: tuple(given.keys_in(place)) for place in ("kv", "adapters")}
        # Whoever carried it out may have died before it removed the files.
        kept = self._discard(scope, Gone(kv_keys=keys["kv"], adapter_keys=keys["adapters"]))
        return self._settle(scope, given.model_copy(update={"pending": (*given.pending, *kept)}))

    # ------------------------------------------------------------ reading

    def recall(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int = 10,
        filters: Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        max_tokens: int | None = None,
        explain: bool = False,
    ) -> RecallResult:
        """Return the memories that answer ``query``, best first, and a text block for a prompt."""
        result = self._recall(
            scope,
            query,
            top_k=top_k,
            filters=filters,
            as_of=as_of,
            max_tokens=max_tokens,
            explain=explain,
        )
        self.activation.prefetch(scope, result.hits)
        self._prefetcher.used(scope, result.hits)
        return result if explain else result.model_copy(update={"timings": {}})

    def _recall(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int,
        filters: Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        max_tokens: int | None = None,
        explain: bool = False,
    ) -> RecallResult:
        self._check_open()
        if not isinstance(explain, bool):
            raise InvalidInput(f"explain must be true or false, not {explain!r}")
        at = parse_time(as_of, "as_of")
        request = RecallRequest(
            query=check_text(query, self.settings.max_text_bytes),
            top_k=check_count(top_k, self.settings.max_top_k, "top_k"),
            as_of=at,
            reference=at or from_us(now_us()),
            max_tokens=None if max_tokens is None else check_count(max_tokens, 1 << 31, "max_tokens"),
            explain=explain,
        )
        result = self._reader.recall(scope, request, filters)
        self._heat.count(scope, [hit.id for hit in result.hits])
        for tell in self.on_recall:
            tell(result)
        return result

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Return unit vectors of texts, float32 ``[len(texts), dimension]``, and how many tokens they have."""
        self._check_open()
        embedder = self._embedder.present
        checked = [check_text(text, self.settings.max_text_bytes) for text in texts]
        return embedder.embed(checked), sum(embedder.count_tokens(text) for text in checked)

    def chat(
        self,
        scope: Scope,
        messages: object,
        *,
        on_text: Callable[[str], None] | None = None,
        **options: Any,
    ) -> ChatReply:
        """Answer the last message with what the scope remembers; ``options`` are those of ``ChatOptions``.

        ``on_text`` is given the answer piece by piece as it is decoded.
        """
        self._check_open()
        asked, how = check_messages(messages), check_options(options, self.settings)
        recalled: list[Hit] = []

        def recall(*arguments: Any, **named: Any) -> RecallResult:
            result = self._recall(*arguments, **named)
            recalled.extend(result.hits)
            return result

        chat = Chat(recall, self.models, self.activation, self.parametric, self.settings)
        reply = chat.answer(scope, asked, how, on_text)
        self._prefetcher.used(scope, recalled)
        derived = (Kind.ACTIVATION.value, Kind.PARAMETRIC.value)
        self._heat.count(scope, [cube_id for tier in derived for cube_id in reply.tiers.get(tier, ())])
        return reply

    def get(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> MemCube:
        """Return one memory."""
        self._check_open()
        return self._reader.get(tenant, cube_id, user_id)

    def list(self, scope: Scope, *, limit: int = 100, after: str | None = None) -> list[MemCube]:
        """Return up to ``limit`` memories in the order they were stored, beginning after the id ``after``."""
        self._check_open()
        if after is not None and not is_id(after):
            raise InvalidInput(f"after must be the id of a memory, not {after!r}")
        return self._reader.page(scope, after, check_count(limit, MAX_PAGE, "limit"))

    def expand(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> Sequence[MemCube]:
        """Return the memories that a cube was fused or made from, or that a memory stands for, in their order."""
        self._check_open()
        return self._reader.expand(tenant, cube_id, user_id)

    def history(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> Sequence[CubeVersion]:
        """Return every version of a memory, oldest first."""
        self._check_open()
        return self._reader.history(tenant, cube_id, user_id)

    def links(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> Sequence[Link]:
        """Return the links of a memory, strongest first."""
        self._check_open()
        return self._reader.links(tenant, cube_id, user_id)

    def graph(self, scope: Scope) -> tuple[Sequence[MemCube], Sequence[Link]]:
        """Return all memories of a namespace and every link between them, once, as it was made."""
        self._check_open()
        return self._reader.graph(scope)

    def stats(self, scope: Scope) -> Statistics:
        """Return what a namespace holds and how far its index has come."""
        self._check_open()
        counts = self._staging.counts(owner_of(scope))
        prefetched = {**asdict(counts), "hit_rate": counts.hit_rate}
        held = statistics(self.database, scope)
        return held.model_copy(update={f"prefetch_{name}": value for name, value in prefetched.items()})

    @property
    def prefetched(self) -> Counts:
        """What became of prefetching, for all users together, since the store was opened."""
        return self._staging.counts()

    # ------------------------------------------------------------ tiers and jobs

    def promote(
        self,
        tenant: str,
        cube_ids: object,
        *,
        to: str,
        user_id: str | None = None,
        codec: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Job:
        """Queue a job that makes a cube of a higher tier from memories of one user.

        ``codec`` is for ``to="activation"``, ``options`` are those of the training for ``to="parametric"``.
        """
        self._check_open()
        if to == Kind.PARAMETRIC.value:
            task = DISTIL
            scope, payload = self.parametric.check_promotion(tenant, cube_ids, user_id, codec, options)
        else:
            task = PROMOTE
            scope, payload = self.activation.check_promotion(tenant, cube_ids, to, user_id, codec)
        return self._begun(scope, task, payload)

    def answered(self, request: Once) -> dict[str, Any] | None:
        """Return what the answer to a write can be made from that was carried out before, ``None`` if it was not."""
        self._check_open()
        with self.database.read() as connection:
            return request.answer(connection)

    def demote(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> DeletionReceipt:
        """Delete a cube of a higher tier; the memories it was made from stay."""
        self._check_open()
        if self.get(tenant, cube_id, user_id=user_id).kind is Kind.PLAINTEXT:
            raise InvalidInput(f"{cube_id!r} is a memory itself: forget it, or demote the cube made from it")
        return self.forget(tenant, cube_id, user_id=user_id)

    def job(self, tenant: str, job_id: str) -> Job:
        """Return how a job stands."""
        self._check_open()
        with self.database.read() as connection:
            scope = locate_job(connection, tenant, job_id)
            namespace = namespaces.find(connection, scope)
            found = JobRepository(connection, namespace.id).get(job_id, scope.user_id) if namespace else None
        if found is None:
            raise NotFound(f"no job {job_id!r} here")
        return found

    def plan(self, scope: Scope, *, dry_run: bool = True) -> Sequence[Move]:
        """Return what would be moved between tiers now, and why; without ``dry_run``, move it."""
        self._check_open()
        self._heat.flush()
        moves = self._mover.plan(scope)
        return moves if dry_run else self._mover.carry_out(scope, moves)

    def fuse(self, scope: Scope, *, dry_run: bool = True) -> Sequence[Move]:
        """Return which memories would become one now, and why; without ``dry_run``, queue a job for each such fusion.

        A fusion is among :meth:`moves`, under the id that is returned, once its job has made it.
        """
        self._check_open()
        self._heat.flush()
        moves = self._fuser.plan(scope)
        return moves if dry_run else self._fuser.carry_out(scope, moves)

    def moves(self, scope: Scope) -> Sequence[Move]:
        """Return what was moved between tiers, fused or split in a namespace, oldest first."""
        self._check_open()
        return self._mover.moves(scope)

    def undo(self, scope: Scope, move_id: str) -> Sequence[Move]:
        """Take a move back: give up what was made, or make again what was given up. Return the moves that do it.

        What was fused says again for itself what it says.
        """
        self._check_open()
        return self._mover.undo(scope, move_id)

    def jobs(
        self, scope: Scope, *, state: str | None = None, limit: int = 100, after: str | None = None
    ) -> Sequence[Job]:
        """Return up to ``limit`` jobs (in one state, if given), newest first, beginning behind the id ``after``."""
        self._check_open()
        if state is not None and state not in tuple(JobState):
            raise InvalidInput(f"state must be one of {', '.join(JobState)}, not {state!r}")
        if after is not None and not is_id(after):
            raise InvalidInput(f"after must be the id of a job, not {after!r}")
        count = check_count(limit, MAX_PAGE, "limit")
        with self.database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return []
            wanted = None if state is None else JobState(state)
            return JobRepository(connection, namespace.id).page(scope.user_id, wanted, count, after)

    def cancel(self, tenant: str, job_id: str) -> Job:
        """Cancel a job: at once if it waits, at its next report if it is running; nothing of it is kept.

        Raises :class:`memos.errors.Conflict` if it is done or failed.
        """
        self._change_job(tenant, job_id, JobRepository.cancel)
        return self.job(tenant, job_id)

    def retry(self, tenant: str, job_id: str) -> Job:
        """Queue a job again that failed or was cancelled. Raises :class:`memos.errors.Conflict` for any other."""
        if self.job(tenant, job_id).task == NOTES:
            self._check_notes()
        scope = self._change_job(tenant, job_id, JobRepository.retry)
        job = self.job(tenant, job_id)
        (self._notes if job.task == NOTES else self._jobs).submit(scope, job_id)
        return job

    def kv_files(self, scope: Scope) -> Sequence[KVFile]:
        """Return the KV files of a namespace, oldest first."""
        self._check_open()
        return self.activation.files_of(scope)

    def kv_settings(self, scope: Scope) -> KVSettings:
        """Return what holds for a user's KV files unless a request names something else."""
        self._check_open()
        return self.activation.user_settings.of(scope)

    def set_kv_settings(
        self, scope: Scope, *, codec: str | None = None, compose: str | None = None, ratio: float | None = None
    ) -> KVSettings:
        """Replace all of it, from the next promotion and chat on; None leaves a choice to the settings of the process.

        Raises :class:`memos.errors.CompositionRefused` for a mode or ratio that there is not.
        """
        self._check_open()
        return self.activation.user_settings.put(scope, codec, compose, ratio)

    def kv_verify(self, scope: Scope, progress: Progress = _silent) -> Sequence[KVFile]:
        """Read every KV file of a namespace whole; what is wrong with one stands in its ``problem``."""
        self._check_open()
        return self.activation.verify(scope, progress)

    def rebuild_kv(self, progress: Progress = _silent) -> RebuildReport:
        """Write the index of KV files anew from the files alone, and remove what nothing can use."""
        self._check_open()
        return self.activation.rebuild(progress)

    # ------------------------------------------------------------ adapters

    def adapters(self, scope: Scope) -> Sequence[AdapterInfo]:
        """Return the adapters and cartridges of a namespace, with earlier versions and failed ones, oldest first."""
        self._check_open()
        return self.parametric.list(scope)

    def adapter(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> AdapterInfo:
        """Return one adapter or cartridge."""
        self._check_open()
        return self.parametric.show(self._home(tenant, cube_id, user_id), cube_id)

    def export_adapter(
        self, tenant: str, cube_id: str, path: Path, *, user_id: str | None = None, kept: bool = True
    ) -> AdapterInfo:
        """Write an adapter as a PEFT directory, to a new or an empty folder."""
        self._check_open()
        return self.parametric.export(self._home(tenant, cube_id, user_id), cube_id, path, kept=kept)

    def import_adapter(self, scope: Scope, path: Path, *, name: str | None = None) -> AdapterInfo:
        """Register the adapter of a PEFT directory; it is used only where a request names it."""
        self._check_open()
        return self.parametric.import_(scope, path, name)

    def fuse_adapters(self, tenant: str, cube_ids: object, *, user_id: str | None = None) -> Job:
        """Queue a job that makes one adapter of several and serves it in their place, if it passes the gate.

        Its facts are those of all of them. :meth:`rollback_adapter` of it serves them again.
        """
        self._check_open()
        scope, payload = self.parametric.check_fusion(tenant, cube_ids, user_id)
        return self._begun(scope, FUSE_ADAPTERS, payload)

    def remove_adapter(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> DeletionReceipt:
        """Delete an adapter, a cartridge or the report of one that failed; the memories stay."""
        self.adapter(tenant, cube_id, user_id=user_id)
        return self.forget(tenant, cube_id, user_id=user_id)

    def rollback_adapter(self, tenant: str, cube_id: str, *, user_id: str | None = None) -> AdapterInfo:
        """Publish the version before a published adapter again, or a superseded one itself; return it.

        Before one that was fused were all that it was fused from.
        """
        self._check_open()
        return self.parametric.rollback(self._home(tenant, cube_id, user_id), cube_id)

    # ------------------------------------------------------------ moving and mending

    def export(self, scope: Scope, path: Path, progress: Progress = _silent, *, kept: bool = True) -> int:
        """Write a namespace to a JSON Lines file, atomically; return the number of memories.

        Receipts of later deletions name the file; say so if it is not ``kept`` at that path but passed on.
        """
        self._check_open()
        return Exporter(self.database, self.settings.home).export(scope, path, progress, kept=kept)

    def import_(self, scope: Scope, path: Path, *, strict: bool = False, progress: Progress = _silent) -> ImportReport:
        """Read memories from a file (own export, JSON Lines, LoCoMo, chat log, prose), all good lines or none.

        Bad lines are left out and reported; under ``strict`` the first one raises ``ImportRefused``.
        """
        self._check_open()
        importer = Importer(self.database, self._embedder, self._writer, settings=self.settings)
        report = importer.run(scope, path, strict=strict, progress=progress)
        self.relay.wake()
        return report

    def backup(
        self, path: Path, *, tenant: str | None = None, user_id: str | None = None, progress: Progress = _silent
    ) -> BackupReport:
        """Write all namespaces, those of a tenant or that of a user, with their files, to a folder or an archive.

        ``path`` is an archive if it ends in ``.tar`` or ``.tar.zst``. It is whole or it is not there.
        """
        self._check_open()
        backup = Backup(self.database, self.settings.home, payload_files(self.settings))
        return backup.write(path, tenant, user_id, progress)

    def restore(
        self, path: Path, *, tenant: str | None = None, replace: bool = False, progress: Progress = _silent
    ) -> RestoreReport:
        """Restore what :meth:`backup` wrote, from any store, all or nothing; every checksum is compared first.

        A namespace that holds memories already raises ``Conflict`` unless ``replace`` is set. With ``tenant``, nothing
        of another tenant is restored.
        """
        self._check_open()
        locks = (self.parametric.publishing, self.activation.publishing)
        tiers = payload_files(self.settings)
        restore = Restore(self.database, self._embedder, self.settings.home, tiers, locks)
        restored = restore.read(path, tenant, replace=replace, progress=progress)
        for scope, gone in restored.gone:
            self._discard(scope, gone)
        self._resume(restored.scopes)
        self.relay.wake()
        self.database.scrub()
        return restored.report

    def reindex(self, embedder: str | Embedder | None = None, progress: Progress = _silent) -> int:
        """Rebuild every index from SQL; with ``embedder``, make new vectors first and switch over when all are made."""
        self._check_open()
        reindexer = Reindexer(self.database, self._embedder, self.relay, self._views)
        if embedder is None:
            return reindexer.rebuild(progress)
        chosen = make_embedder(self.settings, embedder) if isinstance(embedder, str) else embedder
        return reindexer.change_embedder(chosen, progress)

    def doctor(self, progress: Progress = _silent) -> DoctorReport:
        """Look whether everything is there and agrees; :func:`memos.doctor.diagnose` looks at a closed store."""
        self._check_open()
        return examine(
            self.settings,
            self.database,
            self.index,
            embedder=self._embedder.present,
            progress=progress,
            relay=self.relay,
        )

    def repair(self) -> ScrubReport:
        """Put right what :meth:`doctor` finds, as far as it can be; memories are never touched."""
        self._check_open()
        done = scrub_all(self._scrubbed(absent_too=True))
        swept, self._swept = self._swept, ()
        return done.model_copy(update={"actions": (*swept, *done.actions)})

    def scrub(self, report: Report = _unheard) -> ScrubReport:
        """Do a part of the same, slowly, going on where the last run ended: a task that is run from time to time.

        Where processes share a database, a file that is not here may be in another's data directory and is left.
        """
        self._check_open()
        store = self._scrubbed(absent_too=self.database.is_sqlite)
        return scrub(store, self.settings.scrub_bytes_per_s, alive=lambda: report(0.5))

    def close(self) -> None:
        """Finish what is under way and release the store; closing twice is harmless."""
        if not self._open:
            return
        self._ticker.stop()
        self._open = False
        self._notes.stop()
        self._scribe.close()
        self._jobs.stop()
        self._heat.close()
        self._prefetcher.close()
        if self._owns_models:
            self.models.close()
        self.activation.close()
        self.parametric.close()
        self.relay.stop()
        self.index.close()
        self.database.close()
        self._release()

    def __enter__(self) -> MemoryOS:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    def _plan_all(self) -> None:
        """Fuse what belongs together of every user, and move what is worth moving."""
        with self.database.read() as connection:
            scopes = [Scope(tenant=one.tenant, user_id=one.user_id) for one in namespaces.every(connection)]
        for scope in scopes:
            self._ticker.go_on()
            self.fuse(scope, dry_run=False)
            self.plan(scope, dry_run=False)

    def _scrubbed(self, *, absent_too: bool) -> Scrubbed:
        tiers = payload_files(self.settings)
        index = self.index if self.index.configured else None
        survey = survey_of(self.database, tiers, index, self.relay.alone)
        mender = Mender(self.database, tiers, self._discard, self.relay.rebuild, absent_too=absent_too)
        return Scrubbed(self.database, self.settings.home.expanduser(), survey, mender, self._sweep)

    def _resume(self, scopes: Collection[Scope]) -> None:
        """Submit the jobs of some users that wait."""
        with self.database.read() as connection:
            waiting = unfinished_jobs(connection)
        for scope, job_id in waiting:
            if scope in scopes:
                self._jobs.submit(scope, job_id)
                if self.settings.notes != OFF:
                    self._notes.submit(scope, job_id)

    def _sweep(self) -> Sequence[Action]:
        """Remove what belongs to nothing."""
        removed = {
            "KV files": self.activation.sweep(),
            "adapters": self.parametric.sweep(),
            "checkpoints": sweep_trainings(self.database, self.settings.home),
        }
        return [
            Action(harm="stray", done=f"removed {count} {what} that belonged to nothing")
            for what, count in removed.items()
            if count
        ]

    def _write_notes(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Write the notes of a namespace that wait."""
        keeper = NoteKeeper(self.database, self._embedder, self._views, self._scribe, self._discard, self.relay.wake)
        return keeper.run(scope, payload, report)

    def _begun(self, scope: Scope, task: str, payload: dict[str, Any]) -> Job:
        """Queue a job and submit it."""
        with self.database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            job_id = self._queued(connection, namespace, task, payload)
        self._jobs.submit(scope, job_id)
        return self.job(scope.tenant, job_id)

    def _queued(self, connection: Connection, namespace: Namespace, task: str, payload: dict[str, Any]) -> str:
        check_present(connection, namespace.id, payload["ids"])
        repository = JobRepository(connection, namespace.id)
        check_jobs(self.settings, repository.unfinished())
        job_id = repository.add(task, payload)
        record(connection, namespace.id, job_id=job_id)
        return job_id

    def _change_job(self, tenant: str, job_id: str, change: Callable[[JobRepository, str], None]) -> Scope:
        self._check_open()
        with self.database.write() as connection:
            scope = locate_job(connection, tenant, job_id)
            namespace = namespaces.find(connection, scope)
            assert namespace is not None  # locate_job found the job in it, in this transaction
            change(JobRepository(connection, namespace.id), job_id)
            record(connection, namespace.id, job_id=job_id)
        return scope

    def _check_notes(self) -> None:
        if self.settings.notes == OFF:
            raise InvalidInput("notes are switched off; set MEMOS_NOTES to offline, local or openai:MODEL")

    def _check_open(self) -> None:
        if not self._open:
            raise StoreClosed("this store was closed; open it again")

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _home(self, tenant: str, cube_id: str, user_id: str | None) -> Scope:
        with self.database.read() as connection:
            return locate(connection, tenant, cube_id, user_id)

    def _discard(self, scope: Scope, gone: Gone) -> tuple[str, ...]:
        """Carry the end of derived cubes to whatever serves them and to their files; begin what is to be made again."""
        self.models.forget(scope)
        kept = {
            "adapter_files": not self.parametric.discard(gone.adapter_keys, gone.digests),
            "kv_files": not self.activation.discard(gone.kv_keys),
            "trainings": not forget_trainings(self.settings.home, scope),
        }
        for job_id in gone.jobs:
            self._jobs.submit(scope.whole, job_id)
        return tuple(place for place, remains in kept.items() if remains)

    def _settle(self, scope: Scope, receipt: DeletionReceipt) -> DeletionReceipt:
        """Carry a deletion to every place outside SQL before saying that it is done."""
        self._prefetcher.forget(scope, (*receipt.cube_ids, *receipt.derived))
        pending = (*receipt.pending, *self._emptied(scope))
        done = receipt.model_copy(update={"pending": pending, "lingering": self._lingering(scope)})
        return sealed(done, self._receipt_keys.of(scope.tenant))

    def _expire_some(self, scope: Scope, now: int, limit: int) -> dict[str, int]:
        self._check_open()  # between two batches, so that closing waits for one at most
        return self._forgetter.expire(scope, now, limit)

    def _expired(self, scope: Scope) -> tuple[str, ...]:
        self._prefetcher.forget(scope)
        return self._emptied(scope)

    def _emptied(self, scope: Scope) -> tuple[str, ...]:
        """Let indexes and logs follow a deletion; return the names of those that cannot yet."""
        pending: tuple[str, ...] = ()
        self._reader.follow(scope)
        try:
            self.relay.follow(scope)
        except StoreUnavailable:
            pending += ("vector_index",)  # the outbox keeps it; the relay repeats it until Chroma is back
            self.relay.wake()
        if not self.database.scrub():
            pending += ("write_ahead_log",)  # somebody reads; the ticker tries again, and closing empties it
        return pending

    def _lingering(self, scope: Scope) -> tuple[str, ...]:
        """Return the places whose files keep what nothing can reach any more until they are rewritten."""
        with self.database.read() as connection:
            namespace = namespaces.find(connection, scope)
        indexed = namespace is not None and namespace.collection is not None
        return (
            *(() if self.database.is_sqlite else ("database_pages",)),
            *(("vector_index_pages",) if indexed else ()),
        )

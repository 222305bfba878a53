"""The examination from beginning to end: each check notes what it finds, and one that fails does not stop the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from memos.config import Settings
from memos.doctor import findings as judging
from memos.doctor import storage
from memos.doctor.damage import Damage
from memos.doctor.report import DoctorReport, Finding, NamespaceHealth, error, ok, warning
from memos.doctor.spaces import Spaces
from memos.doctor.survey import Cursor, survey_of
from memos.embedding.base import Embedder
from memos.embedding.factory import make_embedder
from memos.embedding.reindex import Progress
from memos.errors import MemosError, StoreInUse
from memos.payloads.tiers import payload_files
from memos.store import compositions, embedder_table, namespaces
from memos.store.database import Database, current_revision, translated
from memos.store.lock import DirectoryLock
from memos.store.relay import IndexRelay
from memos.store.revision import HEAD
from memos.store.vector_index import VectorIndex


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def diagnose(settings: Settings, embedder: Embedder | None = None, *, progress: Progress = _silent) -> DoctorReport:
    """Look at a store that this process has not opened, whatever state it is in.

    One that another process holds is read beside it, all but the embedded index.
    """
    home = settings.home.expanduser()
    if settings.database_url is None and not (home / "memos.db").exists():
        new = ok("store", f"nothing in {home} yet; the first `memos store` makes a store there")
        return _report(settings, [new])
    lock, held = _lock(settings)
    database = index = None
    try:
        database = Database(settings.database_url or f"sqlite:///{home / 'memos.db'}", migrate=False)
        if lock is not None or settings.chroma_url is not None:
            index = VectorIndex(home / "chroma", settings.chroma_url)
        chosen = embedder or make_embedder(settings)
        report = examine(settings, database, index, embedder=chosen, progress=progress)
    finally:
        for opened in (index, database):
            if opened is not None:
                opened.close()
        if lock is not None:
            lock.release()
    return report.model_copy(update={"findings": (held, *report.findings)})


def examine(
    settings: Settings,
    database: Database,
    index: VectorIndex | None,
    *,
    embedder: Embedder,
    progress: Progress = _silent,
    relay: IndexRelay | None = None,
) -> DoctorReport:
    """Look through an open store; without ``index``, leave the vector index out. ``relay`` is the one that is at it."""
    findings: list[Finding] = []
    healths: Sequence[NamespaceHealth] = ()
    with _noting(findings, "database"):
        with translated():
            revision = current_revision(database.engine)
        findings.append(storage.schema(revision))
        if revision == HEAD:
            findings.extend(storage.integrity(database))
            with database.read() as connection:
                serving = embedder_table.active(connection)
                findings.extend(judging.composing(compositions.every(connection)))
            with _noting(findings, "embedder"):
                findings.append(storage.embedder(serving, embedder))
            spaces = Spaces(database, serving, progress)
            findings.extend(spaces.judged())
            healths = spaces.healths
            with _noting(findings, "index"):
                damages = _surveyed(settings, database, index, relay, findings)
                findings.extend(spaces.indexed(index, damages) if index is not None else ())
    return _report(settings, findings, healths)


def _surveyed(
    settings: Settings,
    database: Database,
    index: VectorIndex | None,
    relay: IndexRelay | None,
    findings: list[Finding],
) -> Sequence[Damage]:
    """Read every text and file, and compare every collection; note what that says of all but the collections."""
    tiers = payload_files(settings)
    relay = relay or IndexRelay(database, index or VectorIndex(None, None), sys.maxsize)
    survey = survey_of(database, tiers, index, relay.alone)
    damages = [damage for _, look in survey.walk(Cursor(), lambda _: None) for damage in look.damages]
    findings.append(judging.texts(damages))
    for tier in tiers:
        with database.read() as connection:
            listed = [one for space in namespaces.every(connection) for one in tier.listed(connection, space.id)]
        findings.append(judging.files(damages, tier, len(listed)))
        findings.append(judging.budget(tier, sum(payload.bytes for payload in listed)))
    findings.append(judging.strays(database, settings.home.expanduser(), tiers))
    return damages


def _lock(settings: Settings) -> tuple[DirectoryLock | None, Finding]:
    if settings.database_url is not None and settings.chroma_url is not None:
        return None, ok("lock", "the database and the index are servers that processes share")
    try:
        return DirectoryLock(settings.home.expanduser()), ok("lock", "no process has it open")
    except StoreInUse as failure:
        holder = failure.extra.get("process", "unknown")
        return None, warning("lock", f"process {holder} has the store open; its index was left out")
    except MemosError as failure:
        return None, error("lock", failure.message)


@contextmanager
def _noting(findings: list[Finding], name: str) -> Iterator[None]:
    """Make a finding of a check that fails."""
    try:
        yield
    except MemosError as failure:
        findings.append(error(name, failure.message))


def _report(settings: Settings, findings: Sequence[Finding], healths: Sequence[NamespaceHealth] = ()) -> DoctorReport:
    home = settings.home.expanduser()
    sizes, free = storage.sizes(home), storage.free_bytes(home)
    return DoctorReport(
        home=str(home),
        findings=(*findings, storage.disk(sum(sizes.values()), free)),
        namespaces=tuple(healths),
        sizes=sizes,
        free_bytes=free,
    )

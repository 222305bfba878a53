"""Looking after KV files: what is there, what is wrong with it, and the index written anew from the files alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from memos.clock import now_us
from memos.cube import Frozen, Scope
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.database import Database
from memos.store.namespaces import Namespace
from memos.store.records import Audit

if TYPE_CHECKING:
    from memos.activation.files import Found, KVFiles

Progress = Callable[[int, int], None]


class KVFile(Frozen):
    """One KV file of a namespace. ``problem`` says why it cannot be used, where it was read to find out."""

    cube_id: str
    codec: str
    tokens: int
    bytes: int
    raw_bytes: int
    memories: int
    hits: int
    loss: float | None = None
    problem: str | None = None

    @classmethod
    def of(cls, activation: Activation, problem: str | None = None) -> KVFile:
        """Describe a file as the index knows it."""
        return cls(
            cube_id=activation.cube_id,
            codec=activation.codec,
            tokens=activation.tokens,
            bytes=activation.bytes,
            raw_bytes=activation.raw_bytes,
            memories=len(activation.sources),
            hits=activation.hits,
            loss=activation.loss,
            problem=problem,
        )


class RebuildReport(Frozen):
    """What a rebuild did: cubes kept as they were, written anew, dropped for want of a usable file; files removed."""

    kept: int = 0
    restored: int = 0
    dropped: int = 0
    removed: int = 0


class Care:
    """Checks files against the index, and the index against the files."""

    def __init__(self, database: Database, files: KVFiles, publishing: threading.Lock) -> None:
        self._database = database
        self._files = files
        self._publishing = publishing

    def verify(self, scope: Scope, activations: Sequence[Activation], progress: Progress) -> list[KVFile]:
        """Read every file whole and compare it with its checksums, its seal and its place in the index."""
        checked = []
        for done, activation in enumerate(activations, 1):
            problem = self._files.verify(scope.tenant, activation.key, activation.sha256)
            checked.append(KVFile.of(activation, problem))
            progress(done, len(activations))
        return checked

    def rebuild(self, progress: Progress) -> RebuildReport:
        """Write the index anew from the files alone, and remove the files nothing can use.

        A file is used if it is whole, sealed for the tenant, and made from notes that stand as they stood then.
        """
        with self._publishing:
            with self._database.read() as connection:
                spaces = list(namespaces.every(connection))
            found = {tenant: list(self._files.scan(tenant)) for tenant in {space.tenant for space in spaces}}
            report = RebuildReport()
            for done, space in enumerate(spaces, 1):
                report = _sum(report, self._rebuild_space(space, found[space.tenant]))
                progress(done, len(spaces))
            with self._database.read() as connection:
                needed = {one.key for space in spaces for one in ActivationRepository(connection, space.id).all()}
            removed = self._files.sweep(needed, min_age_s=0.0)
        return report.model_copy(update={"removed": removed})

    def _rebuild_space(self, space: Namespace, found: Iterable[Found]) -> RebuildReport:
        scope = Scope(tenant=space.tenant, user_id=space.user_id)
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            repository = ActivationRepository(connection, namespace.id)
            known = {one.key: one for one in repository.all()}
            usable = {}
            for file in found:
                sources = file.header.sources
                if repository.live(sources, scope, now_us()) == set(sources):
                    usable[file.header.key] = file
            lost = [one.cube_id for key, one in known.items() if key not in usable]
            repository.remove(lost)
            new = [file for key, file in usable.items() if key not in known]
            for file in new:
                repository.insert(restored(file), namespace.revision)
            Audit(connection, namespace.id).add("rebuild_kv", restored=len(new), dropped=len(lost))
        return RebuildReport(kept=len(known) - len(lost), restored=len(new), dropped=len(lost))


def restored(file: Found) -> Activation:
    """Return the place in the index of a file that describes itself."""
    header = file.header
    return Activation(
        cube_id=header.cube_id,
        key=header.key,
        fingerprint=header.fingerprint,
        codec=header.codec,
        tokens=len(header.token_ids),
        head_tokens=header.head_tokens,
        bytes=file.bytes,
        raw_bytes=header.shape.bytes(len(header.token_ids)),
        sha256=file.sha256,
        created_at=header.created_at,
        sources=header.sources,
    )


def _sum(one: RebuildReport, other: RebuildReport) -> RebuildReport:
    fields = ("kept", "restored", "dropped")
    return RebuildReport(**{name: getattr(one, name) + getattr(other, name) for name in fields})

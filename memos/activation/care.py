"""Looking after KV files: what is there, what is wrong with it, and the index written anew from the files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from memos.activation.files import Found, KVFiles
from memos.activation.listing import KVFile, RebuildReport
from memos.activation.promotion import indexed
from memos.activation.publishing import Publishing
from memos.clock import now_us
from memos.cube import Scope
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.database import Database
from memos.store.namespaces import Namespace
from memos.store.records import Audit

Progress = Callable[[int, int], None]


class Care:
    """Checks files against the index, and the index against the files."""

    def __init__(self, database: Database, files: KVFiles, publishing: Publishing) -> None:
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
            found = {tenant: self._whole(tenant) for tenant in {space.tenant for space in spaces}}
            report = RebuildReport()
            for done, space in enumerate(spaces, 1):
                report = _sum(report, self._rebuild_space(space, found[space.tenant]))
                progress(done, len(spaces))
            with self._database.read() as connection:
                needed = {one.key for space in spaces for one in ActivationRepository(connection, space.id).all()}
            removed = self._files.sweep(needed)
        return report.model_copy(update={"removed": removed})

    def _whole(self, tenant: str) -> list[Found]:
        found = [one for one in self._files.scan(tenant) if isinstance(one, Found)]
        return [one for one in found if self._files.verify(tenant, one.header.key) is None]

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
                repository.insert(indexed(file), namespace.revision)
            Audit(connection, namespace.id).add("rebuild_kv", restored=len(new), dropped=len(lost))
        return RebuildReport(kept=len(known) - len(lost), restored=len(new), dropped=len(lost))


def _sum(one: RebuildReport, other: RebuildReport) -> RebuildReport:
    fields = ("kept", "restored", "dropped")
    return RebuildReport(**{name: getattr(one, name) + getattr(other, name) for name in fields})

"""Restoring a backup: verify all -> rows -> files, sealed anew -> what lost its file -> commit. All or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from memos.backup.load import SpaceLoader
from memos.backup.manifest import Manifest, payload_of, rows_name
from memos.backup.report import RestoreReport
from memos.backup.source import Source
from memos.cube import Scope
from memos.embedding.reindex import Progress
from memos.embedding.serving import ServingEmbedder, register
from memos.errors import BackupRefused, Conflict, EmbedderMismatch, StoreError
from memos.payloads.base import PayloadFiles
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.derived import Gone
from memos.store.holds import HoldRepository
from memos.store.whole import WholeNamespace


@dataclass(slots=True)
class Restored:
    """A restore that is committed. ``gone`` are derived cubes whose end has to be carried on, by namespace."""

    report: RestoreReport
    gone: list[tuple[Scope, Gone]] = field(default_factory=list)

    @property
    def scopes(self) -> set[Scope]:
        """The namespaces that were restored."""
        return {scope for scope, _ in self.gone}


class Restore:
    """Writes the namespaces of a backup. ``locks`` keep others from publishing and sweeping files meanwhile."""

    def __init__(
        self,
        database: Database,
        embedder: ServingEmbedder,
        home: Path,
        tiers: Sequence[PayloadFiles],
        locks: Sequence[AbstractContextManager[object]],
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._home = home
        self._tiers = {tier.name: tier for tier in tiers}
        self._locks = locks

    def read(self, path: Path, tenant: str | None, *, replace: bool, progress: Progress) -> Restored:
        """Restore every namespace of a backup, all of one tenant if one is named.

        Nothing is written before every checksum was compared, and all of it in one transaction. Raises
        :class:`BackupRefused` and :class:`StoreTooNew`; :class:`Conflict` for a namespace that holds memories already,
        unless told to ``replace`` them; :class:`LegalHold` where one is held; :class:`EmbedderMismatch`.
        """
        source = Source(path, _free_bytes(self._home))
        manifest = source.verify()
        self._check(manifest, tenant)
        with ExitStack() as held:
            for lock in self._locks:
                held.enter_context(lock)
            with self._adopting() as adopted, self._database.write() as connection:
                loaders = self._opened(connection, manifest, replace=replace)
                self._load(source, manifest, loaders, adopted, progress)
                gone = [(loader.scope, loader.finish()) for loader in loaders]
        return Restored(_report(manifest, loaders, gone), [(one.scope, one.replaced) for one in loaders] + gone)

    def _check(self, manifest: Manifest, tenant: str | None) -> None:
        if tenant is not None and any(space.tenant != tenant for space in manifest.namespaces):
            raise BackupRefused("the backup holds namespaces of another tenant; nothing was restored")
        made_by, present = manifest.embedder, self._embedder.present
        if made_by is not None and made_by.identity != present.identity:
            raise EmbedderMismatch(
                f"this backup was embedded by {made_by.identity}, but {present.identity} is configured; configure the "
                f"first one, restore, and change over with `memos reindex --embedder NAME`",
                stored=made_by.identity,
                configured=present.identity,
            )

    def _opened(self, connection: Connection, manifest: Manifest, *, replace: bool) -> list[SpaceLoader]:
        """Lock the namespaces, always in the same order. Raises :class:`Conflict` and :class:`LegalHold`."""
        embedder = register(connection, self._embedder.present) if manifest.embedder is not None else None
        if manifest.embedder is not None and embedder is not None and embedder.dimension != manifest.embedder.dimension:
            raise BackupRefused("the backup has vectors of another length than its embedder's; nothing was restored")
        scopes = [Scope(tenant=space.tenant, user_id=space.user_id) for space in manifest.namespaces]
        if len(set(scopes)) < len(scopes):
            raise BackupRefused("the backup has a namespace twice; nothing was restored")
        opened = {
            scope: namespaces.open_for_write(connection, scope)
            for scope in sorted(scopes, key=lambda scope: (scope.tenant, scope.user_id))
        }
        for scope, namespace in opened.items():
            if not replace and WholeNamespace(connection, namespace.id).holds_memories():
                raise Conflict(
                    f"{scope.tenant}/{scope.user_id} holds memories already; restore into an empty store, or replace "
                    f"them (`memos restore --replace`). Nothing was restored"
                )
            HoldRepository(connection, namespace.id).check(CubeRepository(connection, namespace.id).ids(scope))
        return [
            SpaceLoader(connection, opened[scope], space, embedder, [*self._tiers.values()])
            for scope, space in zip(scopes, manifest.namespaces, strict=True)
        ]

    def _load(
        self,
        source: Source,
        manifest: Manifest,
        loaders: Sequence[SpaceLoader],
        adopted: list[tuple[PayloadFiles, str]],
        progress: Progress,
    ) -> None:
        by_rows = {rows_name(place): loader for place, loader in enumerate(loaders)}
        done = 0
        for done, (name, file) in enumerate(source.files(manifest), 1):
            if name in by_rows:
                by_rows[name].take_rows(file)
            elif (place := payload_of(name)) is not None and place[0] in self._tiers:
                tier, size = self._tiers[place[0]], manifest.files[name].bytes
                if (key := loaders[place[1]].take_payload(tier, place[2], size, file)) is not None:
                    adopted.append((tier, key))
            progress(done, len(manifest.files))
        if done < len(manifest.files):
            raise BackupRefused("the backup changed while it was restored; nothing was")

    @contextmanager
    def _adopting(self) -> Iterator[list[tuple[PayloadFiles, str]]]:
        """Collect files that were taken in; remove them if the block fails, unless a row needs them."""
        adopted: list[tuple[PayloadFiles, str]] = []
        try:
            yield adopted
        except BaseException:
            with suppress(StoreError), self._database.read() as connection:  # else the next start removes them
                for tier, key in adopted:
                    tier.discard(connection, [key])
            raise


def _report(manifest: Manifest, loaders: Sequence[SpaceLoader], gone: Sequence[tuple[Scope, Gone]]) -> RestoreReport:
    lost = sum((one for _, one in gone), Gone())
    return RestoreReport(
        id=manifest.id,
        created_at=manifest.created_at,
        namespaces=len(loaders),
        memories=sum(loader.said["memories"] for loader in loaders),
        kv_files=sum(loader.taken["kv"] for loader in loaders),
        adapters=sum(loader.taken["adapters"] for loader in loaders),
        kv_dropped=lost.activations,
        adapters_dropped=lost.adapters,
        retraining=len(lost.jobs),
        replaced=sum(loader.replacing for loader in loaders),
    )


def _free_bytes(home: Path) -> int:
    place = home.expanduser().absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free

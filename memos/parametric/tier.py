"""The parametric tier of one engine: what the rest of the system asks of it.

This module stays light: torch loads with the first adapter that is published, imported or read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memos.activation.publishing import Publishing
from memos.config import Settings
from memos.cube import Kind, Scope, check_name
from memos.errors import Conflict, InvalidInput, NotFound, StoreError
from memos.parametric.distil.recipe import Recipe
from memos.parametric.index import AdapterIndex
from memos.parametric.listing import AdapterInfo
from memos.parametric.room import TalliedRoom
from memos.plaintext.chosen import chosen
from memos.runtime.host import ModelHost, Serving
from memos.schedule.foresight.candidate import Candidate
from memos.schedule.foresight.staging import Staging
from memos.schedule.task import Report
from memos.store.adapters import AdapterRecord
from memos.store.database import Database
from memos.store.lineage import Source
from memos.store.scoped import adapter_keys

if TYPE_CHECKING:
    from memos.parametric.checks import Trained
    from memos.parametric.promotion import ParametricPromotion
    from memos.parametric.registry import Registry
    from memos.parametric.siblings import AdapterFusion

logger = logging.getLogger(__name__)

FOLDER = "adapters"
#: How often a retraining begins anew because its memories changed meanwhile.
ATTEMPTS = 3

#: Is given the digests of adapters and cartridges that may not be served any more.
OnGone = Callable[[Sequence[str]], None]


class ParametricTier:
    """The registry of adapters and cartridges: publication, versions, removal, and the way to PEFT and back.

    ``staging`` holds what was prefetched.
    """

    def __init__(self, settings: Settings, database: Database, models: ModelHost, staging: Staging) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._staging = staging
        self._folder = settings.home.expanduser() / FOLDER
        self._room = TalliedRoom(self._folder, settings.adapter_bytes, settings.kv_free_bytes)
        self.publishing = Publishing(self._folder)
        self._index = AdapterIndex(database)
        #: Called as soon as the transaction that invalidated adapters is committed, before their files are removed.
        self.on_gone: list[OnGone] = []

    # ------------------------------------------------------------ promotion

    def check_promotion(
        self, tenant: str, cube_ids: object, user_id: str | None, codec: str | None, options: object
    ) -> tuple[Scope, dict[str, Any]]:
        """Return whose notes are to be trained on and the payload of the job, or refuse before any work."""
        if codec is not None:
            raise InvalidInput("a codec compresses KV files; adapters have none")
        given = _checked(options)
        scope, ids = chosen(self._database, tenant, cube_ids, user_id)
        return scope, {**given, "ids": ids, "to": Kind.PARAMETRIC.value}

    def run_promotion(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """The task ``distil``, behind ``promote``."""
        return self._promotion.run(scope, payload, report)

    def run_retraining(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """The task ``retrain``: train on what is left of the notes, once more if that becomes less meanwhile."""
        for attempt in range(1, ATTEMPTS + 1):
            left = self._index.left(scope, payload["ids"])
            if not left:
                break
            try:
                return self._promotion.run(scope, {**payload, "ids": left}, report)
            except (Conflict, NotFound):
                if attempt == ATTEMPTS:
                    raise
        return {"cube_id": None, "made": False}

    # ------------------------------------------------------------ fusion

    def check_fusion(self, tenant: str, cube_ids: object, user_id: str | None) -> tuple[Scope, dict[str, Any]]:
        """Return whose adapters are to be fused and the payload of the job, or refuse before any work.

        Raises :class:`InvalidInput` for what is no list of several adapters, trained here, of one user, for one model.
        """
        scope, ids = self._index.chosen(tenant, cube_ids, user_id)
        return scope, {"ids": ids}

    def siblings(self, scope: Scope, cube_ids: Sequence[str]) -> Sequence[AdapterRecord]:
        """Return adapters that can be fused. Raises what :meth:`check_fusion` does, and :class:`Conflict`."""
        return self._index.siblings(scope, cube_ids)

    def run_fusion(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """The task ``fuse_adapters``."""
        return self._fusion.run(scope, payload["ids"], report)

    # ------------------------------------------------------------ publication

    def publish(
        self,
        scope: Scope,
        trained: Trained,
        *,
        sources: Sequence[Source],
        gate: Mapping[str, Any] | None,
        provenance: Mapping[str, Any],
        name: str | None = None,
    ) -> str:
        """Publish an adapter or cartridge in the place of what its name, or its notes, had; return its cube's id.

        Nothing is written unless all of it is. Raises :class:`AdapterRefused`, :class:`StoreFull`, and
        :class:`Conflict` if a source is not live any more. ``provenance["options"]`` go to the job that trains again.
        """
        check_name(name, "name")
        record = self._registry.drafted(trained, sources, gate, provenance, name)
        return self._registry.publish(scope, trained, record).cube_id

    def reject(
        self,
        scope: Scope,
        trained: Trained,
        *,
        sources: Sequence[Source],
        gate: Mapping[str, Any],
        provenance: Mapping[str, Any],
        name: str | None = None,
    ) -> str:
        """Keep the report of an adapter or cartridge that failed its gate, and nothing else; return its cube's id."""
        check_name(name, "name")
        record = self._registry.drafted(trained, sources, gate, provenance, name)
        return self._registry.reject(scope, record).cube_id

    def withdraw(self, scope: Scope, cube_ids: Sequence[str]) -> None:
        """Delete what was just published or rejected; what it had taken the place of is published again."""
        for cube_id in cube_ids:
            gone = self._index.withdraw(scope, cube_id)
            self.discard(gone.adapter_keys, gone.digests)

    def rollback(self, scope: Scope, cube_id: str) -> AdapterInfo:
        """Publish an earlier version again: the one before ``cube_id`` if that is published, else ``cube_id`` itself.

        Before a fused adapter were all that it was fused from; the first of these is returned.
        Raises :class:`NotFound`, :class:`Conflict` if there is none, and :class:`AdapterRefused` if its file cannot be
        used.
        """
        for record in self._index.earlier(scope, cube_id):
            self._registry.read(scope, record)
        return AdapterInfo.of(self._index.roll_back(scope, cube_id))

    # ------------------------------------------------------------ serving

    def published(self, scope: Scope, base: str, note_ids: Sequence[str] | None = None) -> Sequence[AdapterRecord]:
        """Return what may be served now for the model ``base``: made from notes that are all live, as they were.

        With ``note_ids``, only what was made from at least one of these. What was imported has no notes and is left
        out.
        """
        return self._index.published(scope, base, note_ids)

    def named(self, scope: Scope, cube_id: str) -> AdapterRecord:
        """Return what a request asks for by id, an imported one too, if it may be served.

        Raises :class:`NotFound`, and :class:`Conflict` for what is not published or whose notes are not live any more.
        """
        return self._index.named(scope, cube_id)

    def load(self, scope: Scope, record: AdapterRecord) -> Trained:
        """Take an adapter or cartridge that was prefetched, or read it, and check it against the model.

        Raises :class:`AdapterRefused`, and :class:`NotFound` if it was removed meanwhile.
        """
        staged = self._staging.take((Kind.PARAMETRIC, record.key), (scope.tenant, scope.user_id))
        return self._registry.load(scope, record, staged)

    def holds(self, candidate: Candidate, serving: Serving) -> bool:
        """Return whether the page pool holds an adapter or cartridge."""
        return serving.runtime.holds(candidate.digest)

    def fetch(self, scope: Scope, candidate: Candidate, serving: Serving) -> Trained:
        """Read an adapter or cartridge ahead of its use. Raises as :meth:`named` and :meth:`load`."""
        return self._registry.load(scope, self.named(scope, candidate.cube_id))

    def settle(self, value: Trained) -> bool:
        """Return whether what was fetched can be used: it was read by then."""
        return True

    def count_use(self, scope: Scope, cube_ids: Sequence[str]) -> None:
        """Count that a reply was made with these."""
        self._index.count_use(scope, cube_ids)

    # ------------------------------------------------------------ care

    def list(self, scope: Scope) -> Sequence[AdapterInfo]:
        """Return the adapters and cartridges of a namespace, with earlier versions and failed ones, oldest first."""
        return [AdapterInfo.of(record) for record in self._index.all(scope)]

    def show(self, scope: Scope, cube_id: str) -> AdapterInfo:
        """Return one. Raises :class:`NotFound`."""
        return AdapterInfo.of(self._index.get(scope, cube_id))

    def export(self, scope: Scope, cube_id: str, folder: Path, *, kept: bool = True) -> AdapterInfo:
        """Write an adapter as a PEFT directory. Raises :class:`InvalidInput` and :class:`AdapterRefused`.

        Receipts of later deletions name it; its path only if it is ``kept`` there.
        """
        record = self._index.get(scope, cube_id)
        with self._index.exported(scope, record, folder if kept else None):
            self._registry.export_folder(scope, record, folder)
        return AdapterInfo.of(record)

    def import_(self, scope: Scope, folder: Path, name: str | None = None) -> AdapterInfo:
        """Publish the adapter of a PEFT directory. Raises :class:`AdapterRefused`; nothing is kept of it then."""
        check_name(name, "name")
        return AdapterInfo.of(self._registry.import_folder(scope, folder, name))

    def usage(self) -> int:
        """Return the bytes of all files."""
        return self._room.used() if self._folder.is_dir() else 0

    # ------------------------------------------------------------ removal

    def discard(self, keys: Sequence[str], digests: Sequence[str]) -> bool:
        """Stop serving what is gone and remove its files; return whether all of them are.

        A file that could not be removed has no row: nothing serves it, and the next sweep tries again.
        """
        for tell in self.on_gone if digests else ():
            tell(digests)
        if not keys:
            return True
        self._staging.drop([(Kind.PARAMETRIC, key) for key in keys])
        with self.publishing:
            with self._database.read() as connection:
                gone = set(keys) - adapter_keys(connection)  # published again meanwhile: equal bytes, and needed
            removed = [self._room.remove(key) for key in gone]  # all are tried
        return all(removed)

    def has(self, key: str) -> bool:
        """Return whether the file of a key is there."""
        return self._room.path(key).exists()

    def sweep(self) -> int:
        """Remove files that a process left behind when it ended between file and row, and count the others.

        Return how many were removed.
        A folder that cannot be swept is no reason not to open the memories: the log says so, and the next start tries.
        """
        if not self._folder.is_dir():
            return 0
        with self.publishing, self._database.read() as connection:
            needed = adapter_keys(connection)
            try:
                removed = self._room.sweep(needed)
                self._room.recount()
            except (StoreError, OSError) as error:
                logger.warning("adapters were not swept: %s", error)
                return 0
        return removed

    def close(self) -> None:
        """Let go of whoever serves from here."""
        self.on_gone.clear()

    # ------------------------------------------------------------ inside

    @cached_property
    def _registry(self) -> Registry:
        from memos.parametric.files import AdapterFiles
        from memos.parametric.registry import Registry

        files = AdapterFiles(self._folder, self._settings.adapter_bytes, self._settings.kv_free_bytes)
        return Registry(self._settings, self._database, self._models, files, self.publishing)

    @cached_property
    def _promotion(self) -> ParametricPromotion:
        from memos.parametric.promotion import ParametricPromotion

        return ParametricPromotion(self._settings, self._database, self._models, self)

    @cached_property
    def _fusion(self) -> AdapterFusion:
        from memos.parametric.siblings import AdapterFusion

        return AdapterFusion(self._settings, self._database, self._models, self)


def _checked(options: object) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidInput(f"options are a map of names to plain values, not {type(options).__name__}")
    plain = {str(name): value for name, value in options.items()}
    wrong = [name for name, value in plain.items() if not (value is None or isinstance(value, str | int | float))]
    if wrong:
        raise InvalidInput(f"the option {wrong[0]!r} is no number, string or truth value")
    Recipe.of({name: value for name, value in plain.items() if name != "name" and value is not None})
    return plain

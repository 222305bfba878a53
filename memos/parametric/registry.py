"""The registry: adapters and cartridges into files and rows, and back, all of them checked on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from memos.activation.publishing import Publishing
from memos.clock import now_us
from memos.config import Settings
from memos.cube import Scope
from memos.errors import AdapterRefused, Conflict, InvalidInput, NotFound
from memos.ids import new_id
from memos.parametric.adapter import Adapter
from memos.parametric.checks import Frame, Trained, check
from memos.parametric.container import Card
from memos.parametric.files import AdapterFiles
from memos.parametric.peft_folder import read_folder, write_folder
from memos.runtime.host import ModelHost
from memos.store import namespaces, once
from memos.store.adapters import AdapterRecord, AdapterRepository, AdapterState, Payload
from memos.store.database import Database
from memos.store.lineage import Source
from memos.store.quota import check_adapters
from memos.store.records import Audit

IMPORTED = {
    "source": "import",
    "lineage": "none: nothing says which memories are in it",
    "gate": "none: it was not tried here",
    "use": "only where a request names it",
}


class Registry:
    """What needs a model library. ``publishing`` is held while a file is published with its row."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        models: ModelHost,
        files: AdapterFiles,
        publishing: Publishing,
    ) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._files = files
        self._publishing = publishing

    # ------------------------------------------------------------ in

    def publish(self, scope: Scope, trained: Trained, record: AdapterRecord) -> AdapterRecord:
        """Write file and row of what :meth:`drafted` describes, or neither; return the row.

        What was published before with equal content, notes and name is published again. Raises :class:`AdapterRefused`,
        :class:`StoreFull`, and :class:`Conflict` if a source is not live, as it was, any more.
        """
        check(trained, self._frame(), self._settings.adapter_max_rank)
        key = self._files.key_of(scope, record.series, record.digest, record.sources)
        fields = ("digest", "base", "payload", "name", "sources", "gate", "provenance")
        card = Card(key=key, **{name: getattr(record, name) for name in fields})
        with self._publishing:
            file = self._files.publish(scope.tenant, card, trained)
            with ExitStack() as on_failure:
                if file.made:
                    on_failure.callback(self._files.remove, key)
                standing = self._register(scope, replace(record, key=key, bytes=file.bytes))
                if standing is not None:
                    on_failure.pop_all()
        return _registered(standing)

    def reject(self, scope: Scope, record: AdapterRecord) -> AdapterRecord:
        """Write the row of something that failed its gate: its report, and no file."""
        return _registered(self._register(scope, replace(record, state=AdapterState.REJECTED)))

    def drafted(
        self,
        trained: Trained,
        sources: Sequence[Source],
        gate: Mapping[str, Any] | None,
        provenance: Mapping[str, Any],
        name: str | None,
    ) -> AdapterRecord:
        """Return what is known of something trained or imported before it has a file."""
        rank, tokens = (trained.rank, 0) if isinstance(trained, Adapter) else (0, trained.tokens)
        return AdapterRecord(
            cube_id=new_id(),
            key=None,
            digest=trained.digest,
            base=trained.base,
            payload=Payload.LORA if isinstance(trained, Adapter) else Payload.CARTRIDGE,
            name=name,
            state=AdapterState.PUBLISHED,
            rank=rank,
            bytes=0,
            tokens=tokens,
            gate=None if gate is None else _plain(gate),
            provenance=_plain(provenance),
            created_at=now_us(),
            sources=tuple((cube_id, version) for cube_id, version in sources),
        )

    def import_folder(self, scope: Scope, folder: Path, name: str | None) -> AdapterRecord:
        """Publish the adapter of a PEFT directory, which was made from no memories known here."""
        adapter, config = read_folder(folder, self._frame().base, self._settings.adapter_bytes)
        provenance = {**IMPORTED, "base_model": config.get("base_model_name_or_path")}
        return self.publish(scope, adapter, self.drafted(adapter, (), None, provenance, name))

    # ------------------------------------------------------------ out

    def load(self, scope: Scope, record: AdapterRecord, known: Trained | None = None) -> Trained:
        """Return what a row's file holds, fit for the present model; it is read, unless it is ``known`` already.

        Raises :class:`AdapterRefused`, and :class:`NotFound` if it went meanwhile, with its notes perhaps.
        """
        trained = self.read(scope, record) if known is None else known
        check(trained, self._frame(), self._settings.adapter_max_rank)
        with self._database.read() as connection:  # after the file was read: what is gone by then is not handed out
            namespace = namespaces.find(connection, scope)
            present = AdapterRepository(connection, namespace.id).get(record.cube_id) if namespace else None
        if present is None:
            raise NotFound(f"no adapter {record.cube_id!r} here; it may have been removed")
        return trained

    def read(self, scope: Scope, record: AdapterRecord) -> Trained:
        """Return what a row's file holds, whichever model it is for. Raises :class:`AdapterRefused`."""
        if record.key is None:
            raise AdapterRefused(f"adapter {record.cube_id!r} failed its gate: its report was kept, nothing else")
        try:
            card, trained = self._files.read(scope.tenant, record.key)
        except AdapterRefused as error:
            raise AdapterRefused(f"adapter {record.cube_id!r} cannot be used: {error.message}") from error
        if (card.digest, card.base) != (record.digest, record.base):
            raise AdapterRefused(f"adapter {record.cube_id!r} cannot be used: its file is of another one")
        return trained

    def export_folder(self, scope: Scope, record: AdapterRecord, folder: Path) -> None:
        """Write a PEFT directory. Raises :class:`InvalidInput` for a cartridge, which PEFT has no form for."""
        trained = self.read(scope, record)
        if not isinstance(trained, Adapter):
            raise InvalidInput(f"{record.cube_id!r} is a cartridge, which PEFT has no form for; only adapters can go")
        serving = self._models.ready
        known = serving is not None and serving.loaded.identity.base == trained.base
        write_folder(trained, folder, serving.loaded.name if serving is not None and known else None)

    # ------------------------------------------------------------ inside

    def _frame(self) -> Frame:
        return Frame.of(self._models.serving().loaded)

    def _register(self, scope: Scope, record: AdapterRecord) -> AdapterRecord | None:
        """Write the row, or reinstate the one that is there; ``None`` if a source is not live any more."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            repository = AdapterRepository(connection, namespace.id)
            standing = repository.by_key(record.key) if record.key is not None else None
            if repository.live(record.sources, scope, now_us()) != set(record.sources):
                return None
            if standing is None:
                check_adapters(self._settings, repository.totals()["bytes"], record.bytes)
                once.record(connection, namespace.id, adapter_id=record.cube_id)
                Audit(connection, namespace.id).add(record.state.value, record.cube_id, bytes=record.bytes)
                return repository.insert(record, namespace.revision)
            if standing.state is not AdapterState.PUBLISHED:
                repository.reinstate(standing, namespace.revision, now_us())
            once.record(connection, namespace.id, adapter_id=standing.cube_id)
            return repository.get(standing.cube_id)


def _registered(record: AdapterRecord | None) -> AdapterRecord:
    if record is None:
        raise Conflict("a memory changed, expired or was forgotten while it was trained on; promote again")
    return record


def _plain(value: Any) -> Any:
    """Return a report as JSON can hold it: numbers that are not finite become ``None``."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise InvalidInput(f"a report holds plain data, not {type(value).__name__}")

"""What was made from notes, in every tier above them, within one namespace: it dies with them, in their transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from memos.cube import Kind, MemCube, Scope
from memos.store.activations import ActivationRepository
from memos.store.adapters import AdapterRecord, AdapterRepository, AdapterState
from memos.store.jobs import DISTIL, JobRepository

#: The task that trains an adapter again from what is left of its notes.
RETRAIN = "retrain"
#: The tasks that train.
TRAININGS = frozenset({DISTIL, RETRAIN})


@dataclass(frozen=True, slots=True)
class Gone:
    """Derived cubes that a transaction deleted, and what has to follow once it is committed.

    ``kv_keys`` and ``adapter_keys`` name the files to be removed, ``digests`` the adapters and cartridges that may not
    be served any more. ``jobs`` were queued in the same transaction and wait to be submitted.
    """

    cube_ids: tuple[str, ...] = ()
    kv_keys: tuple[str, ...] = ()
    adapter_keys: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    activations: int = 0
    adapters: int = 0

    def __bool__(self) -> bool:
        return bool(self.activations or self.adapters)

    def __add__(self, other: Gone) -> Gone:
        return Gone(
            cube_ids=self.cube_ids + other.cube_ids,
            kv_keys=self.kv_keys + other.kv_keys,
            adapter_keys=self.adapter_keys + other.adapter_keys,
            digests=self.digests + other.digests,
            jobs=self.jobs + other.jobs,
            activations=self.activations + other.activations,
            adapters=self.adapters + other.adapters,
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many cubes of each tier."""
        return {"activations": self.activations, "adapters": self.adapters}


class Derived:
    """The activation and the parametric cubes of one namespace, within one transaction."""

    def __init__(self, connection: Connection, namespace_id: int) -> None:
        self._activations = ActivationRepository(connection, namespace_id)
        self._adapters = AdapterRepository(connection, namespace_id)
        self._jobs = JobRepository(connection, namespace_id)

    def cube(self, cube_id: str, scope: Scope) -> MemCube | None:
        """Return a derived cube as callers see cubes."""
        return self._activations.cube(cube_id, scope) or self._adapters.cube(cube_id, scope)

    def remove(self, cube_ids: Sequence[str]) -> Gone:
        """Delete derived cubes; the notes they were made from stay, and nothing is made again."""
        return _gone(self._activations.remove(cube_ids), self._adapters.remove(cube_ids))

    def remove_all(self) -> Gone:
        """Delete every derived cube of the namespace, those without a lineage among them."""
        activations = [one.cube_id for one in self._activations.all()]
        return self.remove([*activations, *(one.cube_id for one in self._adapters.all())])

    def lose(self, cube_ids: Sequence[str]) -> Gone:
        """Delete derived cubes whose files are lost or damaged; queue the training of what was served from notes."""
        keys, adapters = self._activations.remove(cube_ids), self._adapters.remove(cube_ids)
        return _gone(keys, adapters, self._retrain(adapters, frozenset()))

    def invalidate(self, note_ids: Sequence[str], *, changed: bool = False) -> Gone:
        """Delete what was made from one of these notes; queue the training of what was served from several.

        It is trained again without these notes or, where they are only ``changed``, with what they say now.
        """
        activations, adapters = self._activations.invalidate(note_ids), self._adapters.invalidate(note_ids)
        jobs = self._retrain(adapters, frozenset() if changed else frozenset(note_ids))
        return _gone(activations, adapters, jobs)

    def _retrain(self, adapters: Sequence[AdapterRecord], without: Collection[str]) -> list[str]:
        jobs = []
        for record in adapters:
            left = [cube_id for cube_id, _ in record.sources if cube_id not in without]
            if left and record.state is AdapterState.PUBLISHED:
                options = record.provenance.get("options", {})
                payload = {**options, "ids": left, "to": Kind.PARAMETRIC.value, "name": record.name}
                jobs.append(self._jobs.add(RETRAIN, payload))
        return jobs


def _gone(activations: Mapping[str, str], adapters: Sequence[AdapterRecord], jobs: Sequence[str] = ()) -> Gone:
    return Gone(
        cube_ids=(*activations, *(record.cube_id for record in adapters)),
        kv_keys=tuple(activations.values()),
        adapter_keys=tuple(record.key for record in adapters if record.key is not None),
        digests=tuple(dict.fromkeys(record.digest for record in adapters if record.key is not None)),
        jobs=tuple(jobs),
        activations=len(activations),
        adapters=len(adapters),
    )

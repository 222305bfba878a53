"""Writing a plan into the store, within one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from memos.clock import now_us, to_us
from memos.cube import RECALLABLE, MemCube, Scope, State
from memos.plaintext.notes.evolution import Evolution, difference
from memos.plaintext.notes.plan import Plan, Step
from memos.store.cubes import CubeRepository
from memos.store.derived import Derived, Gone
from memos.store.links import LinkRepository, link_row
from memos.store.namespaces import Namespace
from memos.store.notes import Completed, Evolved, NoteRepository, Settled
from memos.store.records import Audit


@dataclass(frozen=True, slots=True)
class Embedded:
    """Unit vectors float32 ``[dimension]`` by the text they are of, and the number of the embedder that made them."""

    embedder_id: int
    vectors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Applied:
    """What was written. ``seen`` counts memories that were looked at, ``stale`` changes that came too late."""

    seen: int = 0
    notes: int = 0
    merged: int = 0
    quarantined: int = 0
    links: int = 0
    evolved: int = 0
    stale: int = 0
    fallbacks: int = 0
    gone: Gone = field(default=Gone())

    def __add__(self, other: Applied) -> Applied:
        return Applied(**{name: getattr(self, name) + getattr(other, name) for name in _COUNTED})

    @property
    def counts(self) -> dict[str, int]:
        """The figures, by name."""
        return {name: getattr(self, name) for name in _COUNTED if name != "seen"}


_COUNTED = ("seen", "notes", "merged", "quarantined", "links", "evolved", "stale", "fallbacks")


def apply(connection: Connection, namespace: Namespace, scope: Scope, plan: Plan, embedded: Embedded) -> Applied:
    """Write what a plan says of memories that are still as it found them; the others wait for another one."""
    repository = CubeRepository(connection, namespace.id)
    present = repository.get([step.cube.id for step in plan.steps], scope)
    changes = _Changes(plan, present, *repository.standings(sorted(_touched(plan))), embedded)
    at, revision = now_us(), namespace.revision
    notes = NoteRepository(connection, namespace.id)
    notes.complete(changes.completed)
    notes.settle(changes.settled, revision, at)
    notes.evolve(changes.evolved, revision, at)
    notes.influence(changes.influenced)
    for kept, duplicate in changes.merged:
        notes.merge(kept, duplicate)
    changes.counts["links"] = LinkRepository(connection, namespace.id).add(changes.links(at))
    derived = Derived(connection, namespace.id)
    gone = derived.invalidate(changes.redated, changed=True) + derived.invalidate(changes.put_away)
    if changes.counts["seen"]:
        told = {name: count for name, count in changes.counts.items() if count}
        Audit(connection, namespace.id).add("notes", None, **told)
    return Applied(**changes.counts, gone=gone)


def _touched(plan: Plan) -> set[str]:
    ids = {step.cube.id for step in plan.steps}
    ids |= {end[0] for step in plan.steps for link in step.links for end in (link.source, link.target)}
    return ids | {step.same_as[0] for step in plan.steps if step.same_as is not None}


class _Changes:
    """The rows that a plan comes to, given how memories are now."""

    def __init__(
        self, plan: Plan, present: Mapping[str, MemCube], numbers: dict[str, int], waiting: set[str], embedded: Embedded
    ) -> None:
        self.counts = dict.fromkeys(_COUNTED, 0)
        self.completed: list[Completed] = []
        self.settled: list[Settled] = []
        self.evolved: list[Evolved] = []
        self.influenced: list[tuple[str, int, Collection[str]]] = []
        self.merged: list[tuple[str, tuple[str, int]]] = []
        self.redated: list[str] = []
        self.put_away: list[str] = []
        self._linking: list[Step] = []
        self._plan = plan
        self._present = present
        self._versions = numbers
        self._waiting = waiting
        self._embedded = embedded
        for step in plan.steps:
            self._step(step)

    def links(self, at: int) -> list[dict[str, Any]]:
        """Return the rows of the links, between versions as they are by now."""
        return [
            link_row(
                (link.source[0], self._versions[link.source[0]]),
                (link.target[0], self._versions[link.target[0]]),
                link.kind,
                link.score,
                step.scribe,
                at,
            )
            for step in self._linking
            for link in step.links
            if {link.source[0], link.target[0]} <= self._versions.keys()
        ]

    def _step(self, step: Step) -> None:
        cube = self._present.get(step.cube.id)
        fresh = cube is not None and (cube.version, cube.state) == (step.cube.version, step.cube.state)
        kept = None if step.same_as is None else (step.same_as[0], self._versions.get(step.same_as[0]))
        if cube is None or not fresh or kept != step.same_as:
            self.counts["stale"] += 1  # it waits, and is looked at again as it is now
            return
        self.counts["seen"] += 1
        self.counts["fallbacks"] += step.remark is not None and step.state is State.ACTIVATED
        self._waiting.discard(cube.id)
        self._write(step, cube)
        if step.same_as is not None:
            self.counts["merged"] += 1
            self.merged.append((step.same_as[0], (cube.id, cube.version)))
        elif step.state is State.QUARANTINED:
            self.counts["quarantined"] += 1
        else:
            self.counts["notes"] += 1
            self._linking.append(step)
            for evolution in step.evolutions:
                self._evolve(evolution, step)

    def _write(self, step: Step, cube: MemCube) -> None:
        note, vector = step.attributes, self._embedded.vectors.get(step.note_text)
        if cube.provenance.scribe is None:
            happened = cube.time.event_time or note.event_time
            moment = None if happened is None else to_us(happened)
            by = self._embedded.embedder_id
            self.completed.append(Completed(cube.id, cube.version, note.descriptor, moment, by, vector))
            if happened != cube.time.event_time:
                self.redated.append(cube.id)
        elif changes := difference(cube.descriptor, note.descriptor):
            again = Evolution(cube.id, cube.version, note.descriptor, changes, "the note was written again", cube.id)
            self._append(again, step, vector)
        self.influenced += [(cube.id, self._versions[cube.id], step.seen)] if step.seen else []
        stays = step.state is State.ACTIVATED and cube.state is not State.GENERATED
        state = cube.state if stays else step.state
        if state not in RECALLABLE:
            self.put_away.append(cube.id)
        self.settled.append(Settled(cube.id, state.value, step.scribe, step.remark, note.sensitivity))

    def _evolve(self, evolution: Evolution, step: Step) -> None:
        changed = self._versions.get(evolution.cube_id) != evolution.version
        if changed or evolution.cube_id in self._waiting:
            self.counts["stale"] += 1  # nothing that somebody else did meanwhile is overwritten, or brought back
            return
        self.counts["evolved"] += 1
        text = self._plan.evolved_text(evolution) if evolution.rewritten else ""
        self._append(evolution, step, self._embedded.vectors.get(text))
        sources = {evolution.cause, *step.seen}
        self.influenced.append((evolution.cube_id, self._versions[evolution.cube_id], sources))

    def _append(self, evolution: Evolution, step: Step, vector: NDArray[np.float32] | None) -> None:
        self._versions[evolution.cube_id] += 1
        self.evolved.append(
            Evolved(
                evolution.cube_id,
                evolution.descriptor,
                evolution.changes,
                evolution.reason,
                step.scribe,
                self._embedded.embedder_id,
                vector,
                None if evolution.valid_to is None else to_us(evolution.valid_to),
            )
        )

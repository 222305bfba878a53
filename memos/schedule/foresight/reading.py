"""What SQL knows that predictions begin with: what could be prefetched for a user, and when it was last used."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from memos.clock import now_us
from memos.cube import Kind, Scope
from memos.schedule.foresight.candidate import Candidate
from memos.schedule.foresight.use import MOST, Use
from memos.schedule.heat import Cooling
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.adapters import AdapterRecord, AdapterRepository
from memos.store.behaviour import BehaviourRepository
from memos.store.database import Database

#: Candidates of one user: the hottest, of equally hot ones the newest.
MOST_CANDIDATES = 128


@dataclass(frozen=True, slots=True)
class Known:
    """What there is of a user at a revision of the namespace; ``uses`` are the last of each memory, oldest first."""

    revision: int
    candidates: tuple[Candidate, ...]
    uses: tuple[Use, ...]


class Reading:
    """Reads it. ``fingerprint`` and ``base`` name the model, as KV files and adapters do."""

    def __init__(self, database: Database, cooling: Cooling) -> None:
        self._database = database
        self._cooling = cooling

    def known(self, scope: Scope, fingerprint: str, base: str, revision: int | None) -> Known | None:
        """Return what there is now, or ``None`` if nothing changed since ``revision``, or nothing was ever stored."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None or namespace.revision == revision:
                return None
            files = ActivationRepository(connection, namespace.id).all()
            files = [one for one in files if one.fingerprint == fingerprint]
            adapters = AdapterRepository(connection, namespace.id).published(base)
            made: list[Activation | AdapterRecord] = [*files, *adapters]
            notes = {note for one in made for note, _ in one.sources}
            ids = sorted(notes.union(one.cube_id for one in made))
            behaviour = BehaviourRepository(connection, namespace.id).of(ids)
        now = now_us()
        heats = {cube_id: self._cooling.heat(heat, as_of, now) for cube_id, (heat, as_of) in behaviour.items()}
        known = [*(_file(one, heats) for one in files), *(_adapter(one, heats) for one in adapters if one.key)]
        known.sort(key=lambda one: (one.heat, one.cube_id), reverse=True)
        used = {cube_id: as_of for cube_id, (_, as_of) in behaviour.items() if cube_id in notes and as_of is not None}
        return Known(namespace.revision, tuple(known[:MOST_CANDIDATES]), _last_uses(used))


def _file(one: Activation, heats: dict[str, float]) -> Candidate:
    notes = frozenset(note for note, _ in one.sources)
    heat = heats.get(one.cube_id, 0.0)
    return Candidate(one.cube_id, Kind.ACTIVATION, one.key, one.raw_bytes, one.bytes, notes, heat)


def _adapter(one: AdapterRecord, heats: dict[str, float]) -> Candidate:
    notes = frozenset(note for note, _ in one.sources)
    heat = heats.get(one.cube_id, 0.0)
    return Candidate(one.cube_id, Kind.PARAMETRIC, one.key or "", one.bytes, one.bytes, notes, heat, one.digest)


def _last_uses(used: dict[str, int]) -> tuple[Use, ...]:
    """Return the last uses of memories: those that were last used at the same moment were used together."""
    together: defaultdict[int, list[str]] = defaultdict(list)
    for cube_id, at in sorted(used.items()):
        together[at].append(cube_id)
    return tuple(Use(at, (None, None), tuple(ids[:MOST])) for at, ids in sorted(together.items()))

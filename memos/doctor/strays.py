"""What lies in a data directory and belongs to nothing: files without a row, and checkpoints without a training."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memos.activation.room import Entry, abandoned
from memos.parametric.distil.folder import all_trainings, trainings_of
from memos.payloads.base import PayloadFiles
from memos.store.database import Database
from memos.store.derived import TRAININGS
from memos.store.scoped import unfinished_jobs


@dataclass(frozen=True, slots=True)
class Strays:
    """How many there are of one kind, and their bytes on the disk."""

    what: str
    count: int
    bytes: int


def stray_files(database: Database, tier: PayloadFiles) -> Strays:
    """Count files of a tier that no row names, and what killed publications left."""
    found = [entry for entry in tier.room.entries() if not entry.temporary or abandoned(entry.path)]
    with database.read() as connection:  # after the files were listed: what is published now is not among them
        needed = tier.needed(connection)
    strays = [entry for entry in found if entry.temporary or entry.key not in needed]
    return Strays(tier.many, len(strays), _bytes(strays))


def stray_trainings(database: Database, home: Path) -> list[Path]:
    """Return the folders of checkpoints whose users have no training that waits or runs."""
    found = all_trainings(home)
    with database.read() as connection:
        needed = {trainings_of(home, scope) for scope, _ in unfinished_jobs(connection, TRAININGS)}
    return [folder for folder in found if folder not in needed]


def sweep_trainings(database: Database, home: Path) -> int:
    """Remove stray checkpoints, which hold what memories say; return of how many users."""
    strays = stray_trainings(database, home)
    for folder in strays:
        shutil.rmtree(folder, ignore_errors=True)
    return len(strays)


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(entry.bytes for entry in entries)

"""Where trainings keep their checkpoints: ``home/training/OWNER/NOTES/``, both names digests.

A checkpoint holds what memories say, so it goes with them: :func:`forget_trainings` belongs to every deletion and
change of a memory. A training that goes on meanwhile finds at its end that a source is gone, and publishes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from memos.cube import Scope

FOLDER = "training"


def training_folder(home: Path, scope: Scope, note_ids: Sequence[str]) -> Path:
    """Return the folder of a training, which follows from whose notes it is about, and which."""
    return _owner(home, scope) / _digest(sorted(note_ids))


def all_trainings(home: Path) -> list[Path]:
    """Return the folders of all namespaces that have checkpoints."""
    folder = home.expanduser() / FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def trainings_of(home: Path, scope: Scope) -> Path:
    """Return the folder of all checkpoints of a namespace."""
    return _owner(home, scope)


def forget_trainings(home: Path, scope: Scope) -> bool:
    """Remove all checkpoints of a namespace; return whether none is left."""
    folder = _owner(home, scope)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def has_trainings(home: Path, scope: Scope, before: float) -> bool:
    """Return whether a namespace has a checkpoint that was written before a moment (seconds since the epoch)."""
    return any(path.lstat().st_mtime < before for path in _owner(home, scope).rglob("*") if path.is_file())


def _owner(home: Path, scope: Scope) -> Path:
    return home.expanduser() / FOLDER / _digest([scope.tenant, scope.user_id])


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()

"""Files to import, and a namespace to import them into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memos.cube import MemCube, Scope
from memos.engine import MemoryOS
from memos.transfer.report import ImportReport

ANN = Scope(user_id="ann")


@pytest.fixture
def scope() -> Scope:
    """Whose memory these tests fill."""
    return ANN


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file to import."""

    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


@pytest.fixture
def imported(
    engine: MemoryOS, write: Callable[[str, str | bytes], Path]
) -> Callable[[str, str | bytes], tuple[ImportReport, list[MemCube]]]:
    """Import a file and return the report with what is stored now, in the order it was stored."""

    def run(name: str, content: str | bytes) -> tuple[ImportReport, list[MemCube]]:
        report = engine.import_(ANN, write(name, content))
        return report, engine.list(ANN, limit=1_000)

    return run

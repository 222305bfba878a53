"""What holds for imports of every format: files that are none, all or nothing, progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import EmbedderUnavailable, InvalidInput

Write = Callable[[str, str | bytes], Path]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"SQLite format 3\0" + bytes(100), "text file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\xff\xfe\x00\x80\x81\x82", "text file"),
        ("so".encode("utf-16-le") * 50, "text file"),
        (b"\xff\xfe\x00", "UTF-16"),
    ],
)
def test_no_text_is_refused(engine: MemoryOS, scope: Scope, write: Write, content: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        engine.import_(scope, write("x.jsonl", content))


@pytest.mark.parametrize("path", ["missing.jsonl", "", "a\0b", "x" * 300])
def test_no_file_is_refused(engine: MemoryOS, scope: Scope, tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput):
        engine.import_(scope, tmp_path / path)


def test_device_is_refused(engine: MemoryOS, scope: Scope) -> None:
    with pytest.raises(InvalidInput, match="device"):
        engine.import_(scope, Path(os.devnull))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark_is_no_text(engine: MemoryOS, scope: Scope, write: Write, encoding: str) -> None:
    engine.import_(scope, write("x.jsonl", '{"text": "né"}\n'.encode(encoding)), strict=True)
    assert [cube.text for cube in engine.list(scope)] == ["né"]


def test_file_without_good_line_stores_nothing(engine: MemoryOS, scope: Scope, write: Write) -> None:
    report = engine.import_(scope, write("x.jsonl", "a\nb\n{}\n"))
    assert (report.imported, len(report.rejected)) == (0, 3)
    assert engine.list(scope) == []


def test_progress_by_batch(engine: MemoryOS, scope: Scope, write: Write) -> None:
    seen: list[tuple[int, int]] = []
    path = write("x.jsonl", "".join(f'{{"text": "t{number}"}}\n' for number in range(600)))
    engine.import_(scope, path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 600), (512, 600), (600, 600)]


class FailingEmbedder:
    """Answers a few calls, then no more."""

    def __init__(self, inner: Embedder, calls: int) -> None:
        self.identity, self.dimension = inner.identity, inner.dimension
        self.count_tokens = inner.count_tokens
        self._inner, self._left = inner, calls

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self._left -= 1
        if self._left < 0:
            raise EmbedderUnavailable("gone")
        return self._inner.embed(texts)


def test_failure_leaves_nothing(tmp_path: Path, embedder: Embedder, scope: Scope, write: Write) -> None:
    path = write("x.jsonl", "".join(f'{{"text": "t{number}"}}\n' for number in range(600)))
    settings = Settings(home=tmp_path / "failing")
    with MemoryOS(settings, FailingEmbedder(embedder, 2)) as engine:
        with pytest.raises(EmbedderUnavailable):
            engine.import_(scope, path)
        assert engine.stats(scope).memories == 0


def test_imported_memories_are_recalled(engine: MemoryOS, scope: Scope, write: Write) -> None:
    engine.recall(scope, "warm up the view")
    engine.import_(scope, write("x.txt", "Maya: I adopted a cat\nTom: I bought a bike\n"))
    assert engine.recall(scope, "who bought a bike?").hits[0].text == "Tom: I bought a bike"

"""Reading a file into a namespace: everything is parsed and checked first, then stored in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from memos.config import Settings
from memos.cube import NewMemory, Scope
from memos.embedding.reindex import Progress
from memos.embedding.serving import ServingEmbedder
from memos.errors import ImportRefused, MemosError
from memos.plaintext.intake import check_memory, check_metadata, check_text
from memos.plaintext.writer import NoteWriter
from memos.store.database import Database
from memos.store.once import expect
from memos.transfer.files import Source, read_source
from memos.transfer.formats import own
from memos.transfer.formats.detect import detect
from memos.transfer.formats.parsed import DERIVED_RUN, ParsedLines
from memos.transfer.record import FORMAT, MemoryRecord
from memos.transfer.report import ImportReport, RejectedLine
from memos.transfer.restore import Restorer

T = TypeVar("T")
_REASON = 500  # characters of a rejection; some messages quote what they refuse


class Importer:
    """Imports own exports, JSON Lines, LoCoMo conversations, chat logs and prose."""

    def __init__(
        self,
        database: Database,
        embedder: ServingEmbedder,
        writer: NoteWriter,
        *,
        settings: Settings,
    ) -> None:
        self._restorer = Restorer(database, embedder, settings)
        self._writer = writer
        self._settings = settings

    def run(self, scope: Scope, path: Path, *, strict: bool, progress: Progress) -> ImportReport:
        """Import a file, all or none of its good lines.

        Raises :class:`InvalidInput` for a file that cannot be read and :class:`ImportRefused` for one that is not what
        it begins as, or, if ``strict``, at the first bad line.
        """
        source = read_source(path)
        kind = detect(source)
        if kind.read is None:
            return self._restore(scope, source, strict=strict, progress=progress)
        checked = self._memories(kind.read(source), scope, f"import:{kind.name}")
        memories, rejected = _parted(checked, strict=strict)
        report = ImportReport(format=kind.name, imported=len(memories), rejected=tuple(rejected))
        if memories:
            expect({"report": report.model_dump(mode="json")})
            self._writer.store(scope, memories, progress=progress)
        return report

    def _restore(self, scope: Scope, source: Source, *, strict: bool, progress: Progress) -> ImportReport:
        records, rejected = _parted(self._records(source), strict=strict)
        imported = self._restorer.restore(scope, records, progress)
        return ImportReport(
            format=FORMAT,
            imported=imported,
            skipped=len(records) - imported,
            rejected=tuple(rejected),
        )

    def _memories(self, lines: ParsedLines, scope: Scope, origin: str) -> Iterator[NewMemory | RejectedLine]:
        for line in lines:
            if isinstance(line, RejectedLine):
                yield line
                continue
            number, item = line
            try:
                yield check_memory(_complete(item, scope, origin), scope, self._settings)
            except MemosError as error:
                yield RejectedLine(line=number, reason=error.message[:_REASON])

    def _records(self, source: Source) -> Iterator[MemoryRecord | RejectedLine]:
        for line in own.read(source):
            if isinstance(line, RejectedLine):
                yield line
                continue
            number, record = line
            try:
                for version in record.versions:
                    check_text(version.text, self._settings.max_text_bytes)
                    check_metadata(version.metadata, self._settings.max_metadata_bytes)
                yield record
            except MemosError as error:
                yield RejectedLine(line=number, reason=error.message[:_REASON])


def _complete(item: Mapping[str, Any], scope: Scope, origin: str) -> dict[str, Any]:
    """Add where a memory came from, and the run its file implies unless the line or the caller names one."""
    fields = {"source": origin, **item}
    run = fields.pop(DERIVED_RUN, None)
    if run is not None and scope.run_id is None:
        fields.setdefault("run_id", run)
    return fields


def _parted(items: Iterable[T | RejectedLine], *, strict: bool) -> tuple[list[T], list[RejectedLine]]:
    good: list[T] = []
    bad: list[RejectedLine] = []
    for item in items:
        if not isinstance(item, RejectedLine):
            good.append(item)
        elif strict:
            raise ImportRefused(f"line {item.line}: {item.reason}; nothing was imported", line=item.line)
        else:
            bad.append(item)
    return good, bad

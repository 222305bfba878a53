"""Exports of this project: see :mod:`memos.transfer.record`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from memos.errors import ImportRefused
from memos.transfer.files import Source
from memos.transfer.record import FORMAT, VERSION, Header, MemoryRecord
from memos.transfer.report import RejectedLine


def read(source: Source) -> Iterator[tuple[int, MemoryRecord] | RejectedLine]:
    """Yield the records of an export; a file that was cut short ends with a rejection that says so."""
    lines = source.lines()
    header = _header(next(lines))
    number, seen = 1, 0
    first: dict[str, int] = {}
    for line in lines:
        number, seen = number + 1, seen + 1
        if isinstance(line, RejectedLine):
            yield line
            continue
        record = _record(*line)
        if isinstance(record, MemoryRecord) and first.setdefault(record.id, number) != number:
            reason = f"memory {record.id} is already on line {first[record.id]}"
            record = RejectedLine(line=number, reason=reason)
        yield record if isinstance(record, RejectedLine) else (number, record)
    if seen != header.memories:
        reason = f"the header announces {header.memories} memories, the file has {seen}: it is not whole"
        yield RejectedLine(line=number + 1, reason=reason)


def _header(line: tuple[int, str] | RejectedLine) -> Header:
    text = "" if isinstance(line, RejectedLine) else line[1]
    try:
        header = Header.model_validate_json(text)
    except ValidationError as error:
        raise ImportRefused(f"line 1: not the header of an export: {_why(error)}", line=1) from error
    if header.version > VERSION:
        raise ImportRefused(
            f"line 1: this is version {header.version} of {FORMAT}, written by a newer version of agent-memos; this "
            f"one reads up to {VERSION}",
            line=1,
        )
    return header


def _record(number: int, text: str) -> MemoryRecord | RejectedLine:
    try:
        return MemoryRecord.model_validate_json(text)
    except ValidationError as error:
        return RejectedLine(line=number, reason=_why(error))


def _why(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].replace(" at line 1 column ", " at column ")
    return f"{place}: {reason}" if place else reason

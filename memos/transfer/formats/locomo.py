"""Conversations in the form of LoCoMo (Maharana et al. 2024): one JSON document, one conversation or a list of them.

A conversation has ``session_1``, ``session_2`` ... (lists of turns) and ``session_N_date_time``; dates without a
session are stubs. Questions and summaries beside it are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from memos.plaintext.dates import MONTHS
from memos.transfer.files import Source
from memos.transfer.formats.document import Document
from memos.transfer.formats.parsed import DERIVED_RUN, Parsed, ParsedLines
from memos.transfer.report import RejectedLine

SESSION = re.compile(r"session_(\d+)")
_TIME = re.compile(r"(\d{1,2}):(\d{2})\s*([ap])m on (\d{1,2}) ([a-z]+),? (\d{4})", re.IGNORECASE)


def read(source: Source) -> ParsedLines:
    """Yield the turns of every conversation, session by session."""
    document = Document.of(source)
    root, place = document.root
    if not isinstance(root, list):
        yield from _sample(document, root, place, source.name)
        return
    for index, sample, at in document.members(place):
        if isinstance(sample, Mapping):
            yield from _sample(document, sample, at, f"{source.name}-{index + 1}")
        else:
            reason = f"a conversation must be an object, not {type(sample).__name__}"
            yield RejectedLine(line=document.line(at), reason=reason)


def _sample(document: Document, sample: Mapping[str, Any], place: int, default_name: str) -> ParsedLines:
    name = sample.get("sample_id")
    prefix = name if isinstance(name, str) and name.strip() else default_name
    conversation = sample
    for key, value, at in document.members(place):
        if key == "conversation" and isinstance(value, Mapping):
            conversation, place = value, at
    sessions = [
        (int(match[1]), value, at) for key, value, at in document.members(place) if (match := SESSION.fullmatch(key))
    ]
    if not sessions:
        reason = "a conversation without sessions (session_1, session_2, ...)"
        yield RejectedLine(line=document.line(place), reason=reason)
    for number, turns, at in sorted(sessions, key=lambda session: session[0]):
        written = conversation.get(f"session_{number}_date_time")
        yield from _session(document, turns, at, _Session(prefix.strip(), number, written))


class _Session:
    def __init__(self, prefix: str, number: int, written: Any) -> None:
        self.number = number
        self.run_id = f"{prefix}/session_{number}"
        self.written = written
        self.moment = session_time(written) if isinstance(written, str) else None


def _session(document: Document, turns: Any, place: int, session: _Session) -> ParsedLines:
    line = document.line(place)
    if not isinstance(turns, list):
        reason = f"session_{session.number} must be a list of turns, not {type(turns).__name__}"
        yield RejectedLine(line=line, reason=reason)
    elif session.written is not None and session.moment is None:
        reason = (
            f"session_{session.number}_date_time is not like '7:42 pm on 9 January, 2025': {session.written!r}; "
            f"its {len(turns)} turns are left out"
        )
        yield RejectedLine(line=line, reason=reason)
    else:
        for _, turn, at in document.members(place):
            yield _turn(document.line(at), turn, session)


def _turn(line: int, turn: Any, session: _Session) -> Parsed:
    if not isinstance(turn, Mapping):
        reason = f"a turn must be an object, not {type(turn).__name__}"
        return RejectedLine(line=line, reason=reason)
    said, speaker, caption = (turn.get(key) for key in ("text", "speaker", "blip_caption"))
    if not isinstance(speaker, str) or not speaker.strip():
        return RejectedLine(line=line, reason="a turn needs a speaker")
    if not isinstance(said, str) or not isinstance(caption, str | None):
        return RejectedLine(line=line, reason="text and blip_caption of a turn must be strings")
    shown = f"[shares a photo of {caption.removeprefix('a photo of ')}]" if caption else ""
    words = " ".join(part for part in (said.strip(), shown) if part)
    if not words:
        return RejectedLine(line=line, reason="the turn is empty")
    metadata = {"dia_id": turn.get("dia_id"), "speaker": speaker, "session": session.number}
    return line, {
        "text": f"{speaker}: {words}",
        "event_time": session.moment,
        "metadata": {key: value for key, value in metadata.items() if value is not None},
        DERIVED_RUN: session.run_id,
    }


def session_time(written: str) -> datetime | None:
    """Read a time such as ``7:42 pm on 9 January, 2025``, taken as UTC; ``None`` if it is not one."""
    match = _TIME.fullmatch(written.strip())
    if match is None or match[5].lower() not in MONTHS or not 1 <= int(match[1]) <= 12:
        return None
    hour = int(match[1]) % 12 + 12 * (match[3].lower() == "p")
    try:
        return datetime(int(match[6]), MONTHS[match[5].lower()], int(match[4]), hour, int(match[2]), tzinfo=UTC)
    except ValueError:
        return None


def is_sample(value: Any) -> bool:
    """Whether a JSON value looks like a conversation of this format."""
    return isinstance(value, Mapping) and any(
        SESSION.fullmatch(str(key)) for inner in _candidates(value) for key in inner
    )


def _candidates(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield value
    conversation = value.get("conversation")
    if isinstance(conversation, Mapping):
        yield conversation

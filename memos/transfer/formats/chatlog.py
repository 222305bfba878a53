"""Chat logs: ``[2025-01-09 19:42] Maya: hi``, ``09/01/2025, 19:42 - Maya: hi``, ``Maya (19:42): hi``, ``Maya: hi``.

A line that starts no message continues the one before. Where messages have clock times, more than an hour between two
begins a new session; where they have none, a line with a date does, and so does a blank line in logs whose messages
otherwise follow each other without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from memos.transfer.files import Source
from memos.transfer.formats.parsed import DERIVED_RUN, Parsed, ParsedLines
from memos.transfer.formats.stamps import (
    HOUR,
    STAMP,
    Stamp,
    Timeline,
    day_comes_first,
    header_of,
    stamp_of,
)
from memos.transfer.report import RejectedLine

_BRACKETED = re.compile(rf"\[{STAMP}\]\s*(?P<rest>.*)", re.DOTALL)
_DASHED = re.compile(rf"{STAMP}\s+-\s+(?P<rest>.*)", re.DOTALL)
_LEADING = re.compile(rf"{STAMP}\s+(?P<rest>.*)", re.DOTALL)
_TRAILING = re.compile(rf"(?P<speaker>[^:()\[\]<>]{{1,40}}?)\s*\({STAMP}\):?(?:\s+(?P<body>.*)|$)", re.DOTALL)
_SAID = re.compile(r"(?:<(?P<nick>[^<>]{1,40})>|(?P<speaker>[^:<>]{1,40}):)(?:\s+(?P<body>.*)|$)", re.DOTALL)
_PLAIN = re.compile(r"(?P<speaker>[^\W\d_][\w.'’-]*(?: [\w.'’-]+){0,2}):(?:\s+(?P<body>.*)|$)")
_MARKS = "\u200e\u200f\ufeff"


@dataclass(frozen=True, slots=True)
class Message:
    """A line that starts a message; without a speaker it is a notice of the chat program."""

    speaker: str | None
    body: str
    stamp: Stamp | None = None


def stamped(line: str) -> Message | None:
    """Return the message a line with a date or time starts, or ``None``."""
    line = line.lstrip(_MARKS)
    trailing = _TRAILING.match(line)
    if trailing and (stamp := stamp_of(trailing)):
        return Message(trailing["speaker"].strip(), trailing["body"] or "", stamp)
    for pattern in (_BRACKETED, _DASHED, _LEADING):
        match = pattern.match(line)
        stamp = stamp_of(match) if match else None
        if match is None or stamp is None:
            continue
        rest = match["rest"].lstrip(_MARKS)
        said = _SAID.match(rest)
        if said:
            name = (said["nick"] or said["speaker"]).strip()
            return Message(name or None, (said["body"] or "").lstrip(_MARKS), stamp)
        if pattern is not _LEADING:
            return Message(None, rest, stamp)
    return None


def plain(line: str) -> Message | None:
    """Return the message a line such as ``Maya: hi`` starts, or ``None``."""
    match = _PLAIN.match(line)
    return Message(match["speaker"], match["body"] or "") if match else None


def is_log(lines: Sequence[str]) -> bool:
    """Whether the first lines of a file look like a log: stamped messages, or a few speakers all the way."""
    found = [message for line in lines if (message := stamped(line)) and message.speaker]
    if any(stamped(line) for line in lines[:2]) and found:
        return True
    names = [message.speaker for line in lines if (message := plain(line))]
    few = len(set(names)) <= max(2, len(names) / 2)
    return len(found) >= 0.2 * len(lines) or (len(names) >= 0.6 * len(lines) and few)


def read(source: Source) -> ParsedLines:
    """Yield the messages of a log."""
    lines = [*source.lines()]
    texts = [line[1] for line in lines if not isinstance(line, RejectedLine)]
    with_time = sum(stamped(text) is not None for text in texts)
    start = stamped if with_time >= sum(plain(text) is not None for text in texts) else plain
    log = _Log(source.name, texts, timed=start is stamped)
    for line in lines:
        if isinstance(line, RejectedLine):
            yield line
            continue
        number, text = line
        message, header = start(text), header_of(text)
        if message is not None:
            yield from log.message(number, message)
        elif header is not None:
            yield from log.header(number, header)
        else:
            yield from log.other(number, text)
    yield from log.end()


@dataclass(slots=True)
class _Open:
    """The message that following lines may continue."""

    line: int
    message: Message
    moment: datetime | None
    session: int
    more: list[str] = field(default_factory=list)


class _Log:
    def __init__(self, name: str, texts: Sequence[str], *, timed: bool) -> None:
        stamps = [message.stamp for text in texts if (message := stamped(text)) and message.stamp]
        headers = [header for text in texts if (header := header_of(text))]
        self._timeline = Timeline(day_first=day_comes_first([*stamps, *headers]))
        self._name = name
        self._timed = timed
        self._blocks = _in_blocks(texts)
        self._open: _Open | None = None
        self._session = 0
        self._last: datetime | None = None
        self._broken = True  # whether the next message begins a session, where times do not tell
        self._dropping = False

    def message(self, number: int, message: Message) -> Iterator[Parsed]:
        yield from self.end()
        try:
            moment = self._moment(message)
        except ValueError as error:
            self._dropping = True
            yield RejectedLine(line=number, reason=f"not a date and time: {error}")
            return
        self._dropping = False
        if self._begins(moment):
            self._session += 1
        self._broken, self._last = False, moment
        event_time = moment if self._timeline.dated else None
        self._open = _Open(number, message, event_time, self._session)

    def header(self, number: int, header: Stamp) -> Iterator[Parsed]:
        yield from self.end()
        try:
            self._timeline.begin(header)
        except ValueError as error:
            yield RejectedLine(line=number, reason=f"not a date: {error}")
        self._broken = True

    def other(self, number: int, text: str) -> Iterator[Parsed]:
        if not text.strip():
            self._broken = self._broken or self._blocks
        if self._open is not None:
            self._open.more.append(text)
        elif text.strip() and not self._dropping:
            yield RejectedLine(line=number, reason="no message before it that it could continue")

    def end(self) -> Iterator[Parsed]:
        """Yield the open message, now that no line continues it any more."""
        done, self._open = self._open, None
        if done is None:
            return
        speaker = done.message.speaker
        body = "\n".join([done.message.body, *done.more]).strip()
        if not body:
            yield RejectedLine(line=done.line, reason="the message is empty")
            return
        metadata: dict[str, Any] = {"session": done.session}
        if speaker:
            metadata["speaker"] = speaker
        yield (
            done.line,
            {
                "text": f"{speaker}: {body}" if speaker else body,
                "event_time": done.moment,
                "metadata": metadata,
                DERIVED_RUN: f"{self._name}/session_{done.session}",
            },
        )

    def _moment(self, message: Message) -> datetime | None:
        if message.stamp is None:
            return self._timeline.midnight()
        return self._timeline.moment(message.stamp)

    def _begins(self, moment: datetime | None) -> bool:
        if not self._timed or moment is None or self._last is None:
            return self._broken
        return abs(moment - self._last) > HOUR


def _in_blocks(texts: Sequence[str]) -> bool:
    """Whether some message directly follows another, so that blank lines part more than messages."""
    return any(plain(one) and plain(two) for one, two in pairwise(texts))

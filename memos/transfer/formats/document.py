"""One JSON document per file: values with the line they begin on."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

from memos.errors import ImportRefused
from memos.transfer.files import Source
from memos.transfer.report import RejectedLine

_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Document:
    """A JSON text whose members can be asked for one by one, with their place."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._breaks = [match.start() for match in re.finditer("\n", text)]

    @classmethod
    def of(cls, source: Source) -> Document:
        """Read the document of a file. Raises :class:`ImportRefused` naming the line that is not UTF-8 or not JSON."""
        for line in source.lines():
            if isinstance(line, RejectedLine):
                raise ImportRefused(f"line {line.line}: {line.reason}", line=line.line)
        text = source.data.decode()
        try:
            json.loads(text)
        except JSONDecodeError as error:
            raise ImportRefused(f"line {error.lineno}: not JSON: {error.msg}", line=error.lineno) from error
        except (ValueError, RecursionError) as error:
            raise ImportRefused(f"not JSON that can be read: {error}", line=1) from error
        return cls(text)

    @property
    def root(self) -> tuple[Any, int]:
        """The whole value, and where it begins."""
        start = self._skip(0)
        return _DECODER.raw_decode(self._text, start)[0], start

    def line(self, place: int) -> int:
        """Return the line (from 1) of a place."""
        return bisect_right(self._breaks, place) + 1

    def members(self, place: int) -> Iterator[tuple[Any, Any, int]]:
        """Yield key (or index), value and place of each member of the object or array that begins at ``place``."""
        closing = "}" if self._text[place] == "{" else "]"
        place, index = self._skip(place + 1), 0
        while self._text[place] != closing:
            key: Any = index
            if closing == "}":
                key, place = _DECODER.raw_decode(self._text, place)
                place = self._skip(self._skip(place) + 1)  # over the colon
            value, end = _DECODER.raw_decode(self._text, place)
            yield key, value, place
            place, index = self._skip(end), index + 1
            if self._text[place] == ",":
                place = self._skip(place + 1)

    def _skip(self, place: int) -> int:
        match = _BLANK.match(self._text, place)
        return match.end() if match else place

"""Writers that are killed, and what they were promised before they died."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Memory = tuple[str, int]  # text and version
Event = dict[str, Any]


@dataclass
class Ledger:
    """What writers announced: memories they were promised, and operations the kill left open."""

    present: dict[str, Memory] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    open_batches: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    doubtful: dict[str, set[Memory | None]] = field(default_factory=dict)

    def read(self, events: list[Event], text_of: Callable[[str, int], str]) -> None:
        """Take in what one writer said, in order."""
        for event in events:
            getattr(self, f"_{'begin' if 'begin' in event else 'done'}")(event, text_of)

    def _begin(self, event: Event, _: Callable[[str, int], str]) -> None:
        if event["begin"] == "store":
            self.open_batches[event["tag"]] = event["size"]
            return
        before = self.present.pop(event["id"])
        after = (event["text"], event["version"]) if event["begin"] == "update" else None
        self.doubtful[event["id"]] = {before, after}

    def _done(self, event: Event, text_of: Callable[[str, int], str]) -> None:
        if event["done"] == "store":
            tag, ids = event["tag"], event["ids"]
            self.sizes[tag] = self.open_batches.pop(tag)
            self.tags.update(dict.fromkeys(ids, tag))
            self.present.update({key: (text_of(tag, i), 1) for i, key in enumerate(ids)})
            return
        del self.doubtful[event["id"]]
        if event["done"] == "update":
            self.present[event["id"]] = (event["text"], event["version"])
        else:
            self.gone.add(event["id"])


class Nursery:
    """A process that forks writers (tests/durability/writer.py)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def round(self, home: Path, number: int, delay: float, **order: Any) -> list[Event]:
        """Let a writer work on the store for ``delay`` seconds, kill it, and return what it announced."""
        assert self._process.stdin is not None
        message = {"home": str(home), "round": number, **order}
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        writer = self._event()["started"]
        time.sleep(delay)
        os.kill(writer, signal.SIGKILL)
        return list(self._announcements())

    def _announcements(self) -> Iterator[Event]:
        while "ended" not in (event := self._event()):
            assert "error" not in event, event["error"]
            if "begin" in event or "done" in event:
                yield event

    def _event(self) -> Event:
        assert self._process.stdout is not None
        event: Event = json.loads(self._process.stdout.readline())
        return event


@pytest.fixture(scope="session")
def writer_script() -> Path:
    """The script that writers run."""
    return Path(__file__).with_name("writer.py")


@pytest.fixture
def nursery(writer_script: Path) -> Iterator[Nursery]:
    """A process to fork writers from; Chroma is imported already."""
    with subprocess.Popen(
        [sys.executable, str(writer_script), "--chroma"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Nursery(process)


@pytest.fixture
def ledger() -> Ledger:
    """An empty ledger."""
    return Ledger()


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that pytest-randomly's seed reproduces, as far as kills can be."""
    return random.Random(f"{request.node.nodeid}/{random.random()}")

"""The whole service as processes of this machine, each of which can be killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from memos.config import Settings
from tests.integration.conftest import (
    Server,
    broker_url,
    chroma_answers,
    chroma_command,
    free_port,
    make_cluster,
    redis_answers,
    redis_command,
)

#: What is started before what stands on it.
ORDER = ("postgres", "redis", "chroma", "api", "worker", "beat")
READY_S = 180.0


class Mortal(Protocol):
    """A process that can be killed and started again."""

    def launch(self) -> None:
        """Start it."""

    def wait(self) -> None:
        """Wait until it answers, if it answers to anybody."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def close(self) -> None:
        """Stop it for good."""


class Nest:
    """A process that forks those of the service (nest.py)."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("nest.py"))],
                env={**os.environ, **environment},
                cwd=log.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._ready = False

    def hatch(self, command: Sequence[str], log: Path) -> int:
        """Start a program; return its process id."""
        assert self._process.stdin is not None
        if not self._ready:
            assert self._said() == "ready"
            self._ready = True
        self._process.stdin.write(json.dumps({"command": command, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return int(self._said())

    def close(self) -> None:
        """End it, and whatever lives of its children."""
        self._process.kill()
        self._process.communicate()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Hatchling:
    """A process of the service."""

    def __init__(self, nest: Nest, command: Sequence[str], log: Path, is_ready: Callable[[], bool]) -> None:
        self._nest = nest
        self._command = command
        self._log = log
        self._is_ready = is_ready
        self._id = 0

    def launch(self) -> None:
        """Start it."""
        self._id = self._nest.hatch(self._command, self._log)

    def wait(self) -> None:
        """Wait until it answers; one that died, since what it needs is not there yet, is started again."""
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            assert time.monotonic() < deadline, self._log.read_text()
            if not self._lives():
                self.launch()
            time.sleep(0.02)

    def revive(self) -> None:
        """Start it again if it ended by itself, as `restart: unless-stopped` does."""
        if not self._lives():
            self.launch()
            self.wait()

    def kill(self) -> None:
        """End it with SIGKILL."""
        with suppress(ProcessLookupError):
            os.kill(self._id, signal.SIGKILL)
        while self._lives():
            time.sleep(0.001)

    def close(self) -> None:
        """Do the same: an orderly end takes its time."""
        self.kill()

    def _lives(self) -> bool:
        with suppress(ProcessLookupError):
            os.kill(self._id, 0)
            return True
        return False


@dataclass(frozen=True, slots=True)
class Stack:
    """The processes by name, where the service answers, and the settings that all of them have."""

    processes: Mapping[str, Mortal]
    url: str
    settings: Settings

    def kill(self, names: Sequence[str]) -> None:
        """End some of the processes with SIGKILL."""
        for name in names:
            self.processes[name].kill()

    def supervise(self) -> None:
        """Start again what ended by itself: Celery's client of Redis gives up on some broken connections."""
        for process in self.processes.values():
            if isinstance(process, Hatchling):
                process.revive()

    def start(self, names: Sequence[str]) -> None:
        """Start them again, and wait until the service says that all is well."""
        again = [self.processes[name] for name in ORDER if name in names]
        for process in again:
            process.launch()
        for process in again:
            process.wait()
        deadline = time.monotonic() + READY_S
        while (said := readiness(self.url)) != "ready":
            assert time.monotonic() < deadline, said
            time.sleep(0.02)


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[Stack]:
    """Run everything on empty databases until the block ends; ``settings`` are the engine's."""
    with ExitStack() as stopping:
        cluster = make_cluster(folder)
        postgres = Server(cluster.command, cluster.answers, _made(folder / "postgres"), cluster.identity)
        redis = Server(redis_command, lambda port: redis_answers(broker_url(port)), _made(folder / "redis"))
        port, index = free_port(), free_port()
        given = {
            "home": str(folder / "home"),
            "database_url": cluster.url(postgres.port),
            "broker_url": broker_url(redis.port),
            "chroma_url": _url(index),
            **settings,
        }
        nest = Nest({f"MEMOS_{name.upper()}": str(value) for name, value in given.items()}, folder / "nest.log")
        stopping.callback(nest.close)
        processes: dict[str, Mortal] = {"postgres": postgres, "redis": redis}
        for name, (command, is_ready) in _programs(folder, port, index).items():
            processes[name] = Hatchling(nest, command, folder / f"{name}.log", is_ready)
        for process in processes.values():
            stopping.enter_context(closing(process))
        stack = Stack(processes, _url(port), Settings.model_validate(given))
        stack.start(ORDER)
        yield stack
        stack.kill(ORDER)  # an orderly end takes its time


def readiness(url: str) -> str:
    """Return what ``/readyz`` says of the whole, nothing where nobody answers."""
    try:
        return str(httpx.get(f"{url}/readyz", timeout=30).json()["status"])
    except httpx.TransportError:
        return ""


def _programs(folder: Path, port: int, index: int) -> dict[str, tuple[Sequence[str], Callable[[], bool]]]:
    """Return the command of each process that hatches, and how to tell that it answers: Celery's side never does."""
    api = ["uvicorn", "memos_api.app:app", "--port", str(port), "--log-level", "warning", "--no-access-log"]
    chroma = ["chroma", *chroma_command(folder / "chroma", index)[1:]]
    return {
        "chroma": (chroma, lambda: chroma_answers(_url(index))),
        "api": (api, lambda: readiness(_url(port)) != ""),
        "worker": (_celery("worker", "--without-gossip", "--without-mingle"), lambda: True),
        "beat": (_celery("beat"), lambda: True),
    }


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _celery(what: str, *options: str) -> list[str]:
    return ["celery", "-A", "memos_workers.app", what, "--loglevel", "info", *options]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder

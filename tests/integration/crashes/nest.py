"""Forks processes of the service with everything imported, so that starting one again costs a fork and not an import.

Run as a script it reads orders from standard input, one JSON object a line: a command line of ``uvicorn``, ``celery``
or ``chroma``, and a log. For each it says the process id of a child, which does just what that command does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from memos.config import Settings

#: What takes the time.
HEAVY = (
    "chromadb.cli.cli",
    "celery.concurrency.thread",
    "kombu.transport.redis",
    "memos.activation.promotion",
    "memos.runtime.chat",
    "memos.runtime.loading",
    "memos.runtime.loop",
    "memos_api.app",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "transformers.models.llama.modeling_llama",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)
#: What the scripts of these names call.
MAINS = {
    "uvicorn": ("uvicorn.main", "main"),
    "celery": ("celery.__main__", "main"),
    "chroma": ("chromadb.cli.cli", "app"),
}
PR_SET_PDEATHSIG = 1


def warm_up() -> None:
    """Compute once, so that whatever is compiled for this processor is on the disk."""
    from memos.runtime.host import ModelHost

    host = ModelHost(Settings())
    serving = host.serving()
    serving.runtime.prefill([*serving.format.head, *serving.format.encode_text("a memory")])
    host.close()


def become(command: Sequence[str], log: str) -> None:
    """Run a program in the place of this process, which ends with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.argv = [*command]
    module, name = MAINS[command[0]]
    getattr(import_module(module), name)()


def say(line: str) -> None:
    """Write one line, in one call."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def main() -> None:
    """Fork a child for every order."""
    for name in HEAVY:
        import_module(name)
    if (warming := os.fork()) == 0:
        warm_up()
        os._exit(0)
    os.waitpid(warming, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for children: they go at once
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            become(**order)
            os._exit(0)
        say(str(child))


if __name__ == "__main__":
    main()

"""One publishes or removes files at a time, and who dies at it hinders nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memos.activation.publishing import Publishing

HOLDER = """
import sys
from pathlib import Path
from memos.activation.publishing import Publishing
with Publishing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that publishes until the block ends."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_processes_wait_for_each_other_and_for_no_dead_one(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with Publishing(tmp_path / "kv"):
            entered.set()

    with holder(tmp_path / "kv") as other:
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.2)
        other.kill()
        assert entered.wait(30)
        waiting.join()


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    shared, inside, most = Publishing(tmp_path), [0], [0]

    def work() -> None:
        for _ in range(50):
            with shared:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]

"""A process that publishes KV files, as a script: ``publisher.py ROOT``, then one JSON order per line.

``{"do": "one", "seed": 3}`` publishes a draft; ``{"do": "many"}`` forks a child that publishes until it is killed;
``{"do": "fill"}`` publishes until there is no room. Each publication is announced on its own line.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from memos.errors import StoreFull

Cabinet = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["Cabinet"]


def say(**event: Any) -> None:
    """Announce something in one piece."""
    os.write(1, (json.dumps(event) + "\n").encode())


def publish(cabinet: Any, seed: int, tokens: int) -> None:
    """Publish a draft and announce it."""
    draft = cabinet.draft(seed, tokens=tokens)
    published = cabinet.publish(draft)
    say(key=draft.header.key, seed=seed, made=published.made, bytes=published.bytes, sha256=published.sha256)


def many(cabinet: Any, first: int) -> None:
    """Let a child publish one after the other until somebody kills it."""
    child = os.fork()
    if child == 0:
        say(child=os.getpid())
        for seed in itertools.count(first):
            publish(cabinet, seed, 4096)
    os.waitpid(child, 0)
    say(ended=child)


def fill(cabinet: Any) -> None:
    """Publish until there is no room, then make some and go on."""
    cabinet.files = cabinet.reopened(free_floor_bytes=-(1 << 40))  # or the floor would be met first
    for seed in itertools.count():
        try:
            publish(cabinet, seed, 512)
        except StoreFull as error:
            say(full=str(error), names=cabinet.names())
            break
    cabinet.files.remove(cabinet.draft(0, tokens=512).header.key)
    publish(cabinet, 1_000, 64)


def main() -> None:
    """Carry out orders until there are no more."""
    cabinet = Cabinet(Path(sys.argv[1]))
    say(ready=True)
    for line in sys.stdin:
        match json.loads(line):
            case {"do": "one", "seed": seed}:
                publish(cabinet, seed, 2048)
            case {"do": "many", "first": first}:
                many(cabinet, first)
            case {"do": "fill"}:
                fill(cabinet)


if __name__ == "__main__":
    main()

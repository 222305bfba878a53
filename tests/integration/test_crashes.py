"""``kill -9`` of everything, again and again, under clients that go on: nothing that was promised is broken.

``CRASH_SEED`` chooses what is killed when, and what clients do, as far as that can be reproduced; a failure tells its
own. ``CRASH_ROUNDS`` is the number of kills.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from memos.embedding.base import Embedder
from tests.integration.crashes import checks
from tests.integration.crashes.embeddings import endpoint
from tests.integration.crashes.ledger import Ledger
from tests.integration.crashes.model import save_tiny_model
from tests.integration.crashes.stack import Stack, running
from tests.integration.crashes.traffic import Api, traffic

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "200" if SOAK else "20"))
#: How often each process is killed in twenty rounds. The service takes the longest to come back.
DECK = {"postgres": 4, "redis": 4, "chroma": 4, "api": 3, "worker": 3, "beat": 2}
#: One round in so many kills a second process at the same moment.
TWO_IN = 5
#: Rounds between two times that everything is checked.
CHECKED = 20
CLIENTS = 4
#: Memories of each user, and receipts, that are looked at then; in the end it is every one.
LOOKED_AT = 15
SETTINGS = {"embedder": "openai:hash", "index_threshold": 20, "notes": "offline", "lease_s": 2.0, "retry_s": 0.5}

logger = logging.getLogger(__name__)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """What decides everything; a failure tells its seed."""
    seed = os.environ.get("CRASH_SEED") or str(random.SystemRandom().getrandbits(32))
    request.node.add_report_section("setup", "seed", f"CRASH_SEED={seed}")
    logger.info("CRASH_SEED=%s", seed)
    return random.Random(seed)


@pytest.fixture
def stack(tmp_path: Path, embedder: Embedder) -> Iterator[Stack]:
    """Everything, on empty databases, with a model that takes no time."""
    save_tiny_model(tmp_path / "model")
    with (
        endpoint(embedder) as url,
        running(tmp_path, **SETTINGS, openai_base_url=url, model=str(tmp_path / "model")) as stack,
    ):
        yield stack


@pytest.mark.timeout(3_600 if SOAK else 600)
def test_nothing_promised_is_broken(stack: Stack, dice: random.Random) -> None:
    ledger, killed = Ledger(), Counter[str]()
    victims = drawn(dice)
    with closing(Api(stack.url)) as api:
        for start in range(0, ROUNDS, CHECKED):
            with traffic(api, ledger, dice.getrandbits(32), CLIENTS):
                for names in victims[start : start + CHECKED]:
                    time.sleep(dice.uniform(0.05, 0.5))
                    stack.kill(names)
                    killed.update(names)
                    time.sleep(dice.choice((0.0, 0.0, 0.3)))
                    stack.start(names)
                    logger.info("%s came back", " and ".join(names))
            last = start + CHECKED >= ROUNDS
            checks.check(stack, api, ledger, dice, sys.maxsize if last else LOOKED_AT)
            logger.info("killed %s; answered %s; lost %s", dict(killed), dict(ledger.answered), dict(ledger.lost))
            counts = len(ledger.kept), len(ledger.gone), checks.fusions(api)
            logger.info("%d kept, %d forgotten, %d fusions", *counts)
    assert ledger.lost.total(), "nobody noticed a death"


def drawn(dice: random.Random) -> list[tuple[str, ...]]:
    """Return what is killed in each round."""
    rounds: list[tuple[str, ...]] = []
    while len(rounds) < ROUNDS:
        deck = [name for name, count in DECK.items() for _ in range(count)]
        dice.shuffle(deck)
        for name in deck:
            others = [other for other in DECK if other != name]
            rounds.append((name, dice.choice(others)) if dice.randrange(TWO_IN) == 0 else (name,))
    return rounds[:ROUNDS]

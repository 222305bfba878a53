"""Near-duplicates among ranked memories."""

from __future__ import annotations

import pytest

from memos.embedding.base import Embedder
from memos.plaintext.collapse import collapse

LONG = "On Monday we walked from the old harbour to the lighthouse and ate lunch there with Ann and Bob"
LATER = " before the long way home through the dunes where it rained so hard that nobody spoke"


def kept(embedder: Embedder, texts: list[str], limit: int = 10) -> list[tuple[int, tuple[int, ...]]]:
    items = list(zip(texts, embedder.embed(texts), strict=True))
    return [(group.kept, group.duplicates) for group in collapse(items, limit)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann has a cat", "Ann has a cat"),
        ("Ann has a cat.", "ann has a CAT!"),
        (LONG, LONG + "!"),
        (LONG + LATER, LONG.replace("harbour", "port") + LATER),
    ],
)
def test_same(embedder: Embedder, one: str, other: str) -> None:
    assert kept(embedder, [one, other]) == [(0, (1,))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann has a cat", "Ann has a dog"),
        (LONG + " on 5 May", LONG + " on 6 May"),
        (LONG + " at 10:30", LONG + " at 10:45"),
        (LONG, LONG + " 2"),
        ("Ann has a cat", "Bob went to Paris"),
        ("Ann owes Bob five euros", "Bob owes Ann five euros"),
        ("the score was 3 to 7 at half-time", "the score was 7 to 3 at half-time"),
        (LONG, LONG.replace("Ann and", "Carl and")),
    ],
)
def test_different(embedder: Embedder, one: str, other: str) -> None:
    assert kept(embedder, [one, other]) == [(0, ()), (1, ())]


def test_limit_counts_groups(embedder: Embedder) -> None:
    texts = ["a cat", "a cat!", "a dog", "a cat?", "a fish", "a dog."]
    assert kept(embedder, texts, limit=2) == [(0, (1, 3)), (2, (5,))]


def test_nothing(embedder: Embedder) -> None:
    assert kept(embedder, []) == []

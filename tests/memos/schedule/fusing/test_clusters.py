"""Clusters are disjoint, bounded, of one kind of circumstances, and free of contradictions, whatever there is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from memos.cube import MemCube, Provenance, Scope, State, Times
from memos.schedule.fusing.clusters import LONGEST, MOST, Candidate, Known, clusters, compatible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memos.embedding.base import Embedder

BOAT = "The old boat that lies all winter in the harbour is called Freya"
WORDS = st.sampled_from([BOAT, f"{BOAT} 12", f"{BOAT} 13", f"never {BOAT}", f"{BOAT} " * 9, "Four old apple trees"])
DRAWN = st.lists(
    st.tuples(WORDS, st.sampled_from(["a", "b", None]), st.sampled_from([{}, {"topic": "x"}]), st.floats(0, 9)),
    max_size=24,
)


def candidate(embedder: Embedder, number: int, text: str, agent: str | None, metadata: Any, heat: float) -> Candidate:
    when = datetime(2025, 1, 1 + number, tzinfo=UTC)
    cube = MemCube(
        id=f"note-{number:02}",
        scope=Scope(agent_id=agent),
        state=State.ACTIVATED,
        version=1,
        digest="",
        text=text,
        metadata=metadata,
        time=Times(created_at=when, updated_at=when, valid_from=when),
        provenance=Provenance(),
    )
    return Candidate(cube, embedder.embed([text])[0], heat)


def candidates(embedder: Embedder, drawn: Sequence[Any]) -> list[Candidate]:
    return [candidate(embedder, number, *one) for number, one in enumerate(drawn)]


@given(DRAWN, st.sets(st.tuples(st.integers(0, 23), st.integers(0, 23)), max_size=6))
def test_rules_hold(embedder: Embedder, drawn: Any, pairs: set[tuple[int, int]]) -> None:
    opposed = frozenset(frozenset((f"note-{one:02}", f"note-{other:02}")) for one, other in pairs if one != other)
    found = list(clusters(candidates(embedder, drawn), Known(opposed=opposed)))
    inside = [one.key for cluster in found for one in cluster.candidates]
    assert len(inside) == len(set(inside))
    for cluster in found:
        members = cluster.candidates
        assert 2 <= len(members) <= MOST
        assert sum(len(one.cube.text or "") for one in members) <= LONGEST
        assert len({(one.cube.scope, str(one.cube.metadata)) for one in members}) == 1
        assert not any({one.key, other.key} in opposed for one in members for other in members)
        texts = cluster.texts
        assert not any("12" in text for text in texts) or not any("13" in text for text in texts)
        assert len({text.startswith("never") for text in texts}) == 1
        assert [one.key for one in members] == sorted(one.key for one in members)


@given(DRAWN)
def test_order_does_not_matter(embedder: Embedder, drawn: Any) -> None:
    known = candidates(embedder, drawn)
    assert [one.sources for one in clusters(known, Known())] == [one.sources for one in clusters(known[::-1], Known())]


def test_what_was_together_stays_so_without_being_near(embedder: Embedder) -> None:
    texts = ("Ann keeps bees.", "The barn is red.")
    known = candidates(embedder, [(text, None, {}, 0.0) for text in texts])
    assert list(clusters(known, Known())) == []
    cluster = compatible(known, Known())
    assert cluster is not None
    assert cluster.texts == list(texts)
    assert compatible(known, Known(opposed=[frozenset(one.key for one in known)])) is None
    assert compatible(known[:1], Known()) is None

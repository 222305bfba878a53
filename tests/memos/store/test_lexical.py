"""The incremental BM25 index against the formula, computed the slow way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.store.lexical import K1, TAIL_MINIMUM, B, LexicalIndex

WORDS = st.sampled_from(["cat", "dog", "fish", "bird", "cow", "ant"])
DOCUMENTS = st.lists(WORDS, max_size=6).map(" ".join)
BATCHES = st.lists(st.lists(DOCUMENTS, max_size=5), max_size=5)


class Reference:
    """BM25 (Robertson & Zaragoza 2009) with Lucene's idf, over live documents, term by term."""

    def __init__(self, documents: Sequence[str], live: Sequence[bool]) -> None:
        self.bags = [Counter(document.split()) for document in documents]
        self.present = [bag for bag, on in zip(self.bags, live, strict=True) if on]

    def idf(self, term: str) -> float:
        frequency = sum(term in bag for bag in self.present)
        return math.log(1 + (len(self.present) - frequency + 0.5) / (frequency + 0.5))

    def score(self, query: Sequence[str], row: int) -> float:
        bag = self.bags[row]
        mean = sum(map(Counter.total, self.present)) / len(self.present)
        norm = K1 * (1 - B + B * bag.total() / mean) if mean else math.inf
        return sum(self.idf(term) * bag[term] * (K1 + 1) / (bag[term] + norm) for term in query)


def built(batches: Sequence[Sequence[str]], off: Sequence[int]) -> tuple[LexicalIndex, list[str], list[bool]]:
    """An index fed batch by batch, some rows switched off as soon as they are there."""
    index = LexicalIndex()
    documents: list[str] = []
    live: list[bool] = []
    for batch in batches:
        index.append(batch)
        documents += batch
        live += [True] * len(batch)
        for row in {row for row in off if row < len(live) and live[row]}:
            index.switch_off(row)
            live[row] = False
    return index, documents, live


@given(
    batches=BATCHES,
    off=st.sets(st.integers(0, 24)).map(sorted),
    query=st.lists(WORDS | st.just("unknown"), min_size=1, unique=True),
)
def test_scores_are_bm25(batches: list[list[str]], off: list[int], query: list[str]) -> None:
    index, documents, live = built(batches, off)
    reference = Reference(documents, live)
    weights = {term: index.idf(term) for term in query}
    assert weights == pytest.approx({term: reference.idf(term) for term in query})
    scores = index.scores(weights)
    assert len(scores) == len(documents)
    for row in np.flatnonzero(live):
        assert scores[row] == pytest.approx(reference.score(query, int(row)), rel=1e-5)


@given(batches=BATCHES, off=st.sets(st.integers(0, 24)).map(sorted))
def test_counts_and_lengths(batches: list[list[str]], off: list[int]) -> None:
    index, documents, live = built(batches, off)
    terms = ("cat", "unknown", "dog")
    rows = np.arange(len(documents))[::-1]
    expected = [[Counter(documents[row].split())[term] for row in rows] for term in terms]
    assert index.counts(terms, rows).tolist() == expected
    assert index.lengths.tolist() == [len(document.split()) for document in documents]
    alive = [len(document.split()) for document, on in zip(documents, live, strict=True) if on]
    assert index.mean_length == pytest.approx(max(np.mean(alive), 1e-9) if alive else 1.0)


def test_scores_stay_right_when_postings_are_sorted() -> None:
    """Enough postings to leave the unsorted tail, then more: both parts count, also for new terms."""
    rng = np.random.default_rng(0)
    documents = [" ".join(f"w{number}" for number in rng.integers(0, 50, 10)) for _ in range(TAIL_MINIMUM // 4)]
    index = LexicalIndex()
    for start in range(0, len(documents), 300):
        index.append(documents[start : start + 300])
        index.scores({"w1": 1.0})
    index.append(["w1 brand new", "w2"])
    index.switch_off(3)
    documents += ["w1 brand new", "w2"]
    reference = Reference(documents, [row != 3 for row in range(len(documents))])
    scores = index.scores({term: index.idf(term) for term in ("w1", "new")})
    for row in [0, 1, 500, len(documents) - 2, len(documents) - 1]:
        assert scores[row] == pytest.approx(reference.score(("w1", "new"), row), rel=1e-5)
    counts = index.counts(("w1", "new"), np.array([len(documents) - 2, 0]))
    assert counts[:, 0].tolist() == [1, 1]


def test_empty_index() -> None:
    index = LexicalIndex()
    assert index.scores({"cat": 1.0}).tolist() == []
    assert index.mean_length == 1.0
    assert index.idf("cat") == pytest.approx(math.log(2))


def test_all_switched_off() -> None:
    index = LexicalIndex()
    index.append(["cat", "cat dog"])
    index.switch_off(0)
    index.switch_off(1)
    assert index.idf("cat") == LexicalIndex().idf("cat")
    assert index.mean_length == 1.0


def test_weights_scale_scores() -> None:
    index = LexicalIndex()
    index.append(["cat dog", "cat"])
    assert index.scores({"cat": 3.0}) == pytest.approx(3 * index.scores({"cat": 1.0}))


def test_rare_terms_weigh_more() -> None:
    index = LexicalIndex()
    index.append(["cat dog", "cat", "cat fish"])
    assert index.idf("unknown") > index.idf("dog") == index.idf("fish") > index.idf("cat") > 0

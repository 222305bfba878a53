"""Which memories answer a question: candidates, then one score with named parts.

    score(m) = dense(m) + LEXICAL * lexical(m) + SPEAKER * speaker(m) + TIME * time(m) - ASKING * asking(m)

Every part has an absolute scale (a cosine, a share of the question's idf, a flag), so a score does not depend on which
other candidates are looked at. A memory borrows from its neighbours in the session, the more the shorter it is: "Yes,
two weeks ago" is about what was said before it. The constants lie on plateaus, measured by
benchmarks/recall_ablation.py (decision record 004).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memos.plaintext.dates import Period
from memos.store.lexical import K1, B
from memos.store.view import NONE, NamespaceView

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

LEXICAL = 0.6  # weight of the lexical part against the cosine; flat from .45 to .7
SPEAKER = 0.2  # what a person is asked about is mostly said by that person; flat from .15 to .3
TIME = 0.2  # agreement with a date in the question; flat from .1 to .5
ASKING = 0.1  # a short question rarely holds an answer; flat from .05 to .15
NEAR, FAR = (
    0.6,
    0.42,
)  # what the first and second neighbour count for a short memory; flat from .5 to .8
SHORT = 12.0  # content words up to which a memory borrows in full from its neighbours; flat from 10 to 20
CONTEXT = 0.5  # share of the neighbourhood in the dense part; flat from .3 to .7
CANDIDATES = 64  # least taken from each of the dense and the lexical ranking; 40 already lose nothing at top_k 10


@dataclass(frozen=True, slots=True)
class Query:
    """A question, analysed. ``vector`` is a unit vector ``[dimension]``; ``terms`` are distinct stems.

    ``depth`` candidates are taken from each of the dense and the lexical ranking.
    """

    vector: NDArray[np.float32]
    terms: tuple[str, ...]
    speaker: int = NONE
    periods: tuple[Period, ...] = ()
    depth: int = CANDIDATES


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows best first, their scores, and the parts each score is the sum of, all ``[rows]``."""

    rows: Rows
    scores: Scores
    parts: Mapping[str, Scores] = field(default_factory=dict)


def rank(view: NamespaceView, query: Query, allowed: NDArray[np.bool_], nearest: Rows | None = None) -> Ranking:
    """Rank the ``allowed`` rows (bool ``[rows]``) of a view.

    ``nearest`` are dense candidates an index has already found; without them the allowed rows are scanned exactly.
    """
    idf = inverse_frequencies(view, query)
    cosines = Cosines(view, query.vector, scan=nearest is None and 2 * int(allowed.sum()) > len(view))
    return scored(view, query, candidates(view, query, idf, allowed, nearest, cosines), cosines)


def scored(view: NamespaceView, query: Query, rows: Rows, cosines: Cosines | None = None) -> Ranking:
    """Rank some rows, whatever brought them here."""
    idf = inverse_frequencies(view, query)
    cosines = cosines or Cosines(view, query.vector, scan=False)
    around = neighbours(view, rows)
    weights = borrowing(view, rows, around)
    parts = {
        "dense": dense(cosines, rows, around, weights),
        "lexical": LEXICAL * lexical(view, idf, rows, around, weights),
        **priors(view, query, rows),
    }
    return ordered(rows, parts)


def ordered(rows: Rows, parts: Mapping[str, Scores]) -> Ranking:
    """Return rows best first by the sum of their parts; of equal scores the newer memory comes first."""
    scores = total(parts)
    order = np.lexsort((-rows, -scores))
    return Ranking(rows[order], scores[order], {name: part[order] for name, part in parts.items()})


def inverse_frequencies(view: NamespaceView, query: Query) -> dict[str, float]:
    """Return what each term of a question tells."""
    return {term: view.lexical.idf(term) for term in query.terms}


# ---------------------------------------------------------------- candidates


class Cosines:
    """Cosines of one question with rows of a view: all computed at once under ``scan``, else as they are asked for."""

    def __init__(self, view: NamespaceView, vector: NDArray[np.float32], *, scan: bool) -> None:
        self._vectors = view.vectors
        self._vector = vector
        self._all: Scores | None = view.vectors @ vector if scan else None

    def of(self, rows: Rows) -> Scores:
        """Return the cosine of each row, in the shape of ``rows``; any value where a row is :data:`NONE`."""
        if self._all is not None:
            return self._all[rows]
        wanted = np.zeros(len(self._vectors), np.bool_)
        wanted[rows] = True
        involved = np.flatnonzero(wanted)
        table = np.empty(len(self._vectors), np.float32)
        table[involved] = self._vectors[involved] @ self._vector
        return table[rows]


def candidates(
    view: NamespaceView,
    query: Query,
    idf: Mapping[str, float],
    allowed: NDArray[np.bool_],
    nearest: Rows | None,
    cosines: Cosines,
) -> Rows:
    """Return the allowed rows worth scoring: the best by cosine, the best by BM25, and the neighbours of both."""
    if nearest is None:
        rows = np.flatnonzero(allowed)
        nearest = rows[best(cosines.of(rows) + total(priors(view, query, rows)), query.depth)]
    mass = max(sum(idf.values()), 1e-9)
    matches = view.lexical.scores({term: LEXICAL * weight / mass for term, weight in idf.items()})
    hit = np.flatnonzero(matches)
    hit = hit[allowed[hit]]
    promising = hit[best(matches[hit] + total(priors(view, query, hit)), query.depth)]
    seeds = np.union1d(nearest, promising)
    found: Rows = np.union1d(seeds, neighbours(view, seeds).ravel())
    found = found[found != NONE]
    return found[allowed[found]]


def nearest_of(view: NamespaceView, query: Query, rows: Rows) -> Rows:
    """Return the ``query.depth`` of ``rows`` nearest to the question, by exact comparison."""
    return rows[best(Cosines(view, query.vector, scan=False).of(rows), query.depth)]


def total(parts: Mapping[str, Scores]) -> Scores:
    """Return the sum of the parts, float32 ``[rows]``."""
    return np.asarray(sum(parts.values()), np.float32)


def best(scores: Scores, count: int) -> Rows:
    """Return the places of the ``count`` largest scores, in no order."""
    if len(scores) <= count:
        return np.arange(len(scores))
    chosen: Rows = np.argpartition(scores, -count)[-count:]
    return chosen


def neighbours(view: NamespaceView, rows: Rows) -> Rows:
    """Return the two rows before and after each row in its session, ``[len(rows), 4]``, :data:`NONE` where missing."""
    before, after = view.chain
    one_back, one_on = before[rows], after[rows]
    return np.stack([one_back, before[one_back], one_on, after[one_on]], axis=1).astype(np.int64)


# ---------------------------------------------------------------- parts of the score


def shortness(view: NamespaceView) -> Scores:
    """Return how much each row depends on its context, ``[all rows]``: 1 up to :data:`SHORT` terms, then falling."""

    def compute() -> Scores:
        return np.minimum(1.0, SHORT / np.maximum(view.lexical.lengths, 1.0)).astype(np.float32)

    return view.derived("shortness", compute)


def asking(view: NamespaceView) -> Scores:
    """Return how much each row looks like a mere question, ``[all rows]``, 0 to 1."""
    return view.derived("asking", lambda: view.asks * shortness(view) ** 2)


def borrowing(view: NamespaceView, rows: Rows, around: Rows) -> Scores:
    """Return what each neighbour counts for its row, ``[len(rows), 4]``."""
    base = np.array([NEAR, FAR, NEAR, FAR], np.float32)
    weights: Scores = np.where(around != NONE, base * shortness(view)[rows, None], np.float32(0))
    return weights


def dense(cosines: Cosines, rows: Rows, around: Rows, weights: Scores) -> Scores:
    """Return half the row's own cosine and half the weighted mean over its neighbourhood."""
    compared = cosines.of(np.column_stack([rows, around]))
    own = compared[:, 0]
    mean = (own + (weights * compared[:, 1:]).sum(axis=1)) / (1 + weights.sum(axis=1))
    mixed: Scores = ((1 - CONTEXT) * own + CONTEXT * mean).astype(np.float32)
    return mixed


def lexical(view: NamespaceView, idf: Mapping[str, float], rows: Rows, around: Rows, weights: Scores) -> Scores:
    """Return BM25F of each row and its neighbourhood, as a share of the question's idf mass.

    Counts of the neighbours are added with their weights before saturation (Zaragoza et al., TREC 2004, the fields
    being the neighbours), so a term said twice counts less than twice.
    """
    if not idf:
        return np.zeros(len(rows), np.float32)
    index = view.lexical
    counts = index.counts(tuple(idf), np.column_stack([rows, around]).ravel())
    kernel = np.column_stack([np.ones(len(rows), np.float32), weights])
    pooled = (counts.reshape(len(idf), *kernel.shape) * kernel).sum(axis=2)
    lengths = np.append(index.lengths, np.float32(0))
    around_length = (lengths[np.column_stack([rows, around])] * kernel).sum(axis=1)
    norms = K1 * (1 - B + B * around_length / context_length(view))
    impacts = pooled * (K1 + 1) / (pooled + norms)
    mass = np.fromiter(idf.values(), np.float32, len(idf))
    return np.asarray(mass @ impacts / mass.sum(), np.float32)


def context_length(view: NamespaceView) -> float:
    """Return the mean length of a live row with its neighbourhood, in terms."""
    return view.derived("context_length", lambda: _context_length(view))


def _context_length(view: NamespaceView) -> float:
    rows = np.flatnonzero(view.current)
    if not len(rows):
        return 1.0
    around = neighbours(view, rows)
    lengths = np.append(view.lexical.lengths, np.float32(0))
    total = lengths[rows] + (borrowing(view, rows, around) * lengths[around]).sum(axis=1)
    return max(float(total.mean(dtype=np.float64)), 1e-9)


def priors(view: NamespaceView, query: Query, rows: Rows) -> dict[str, Scores]:
    """Return the parts that need no comparison with the question's words."""
    return {
        "speaker": SPEAKER * spoken_by(view, query.speaker, rows),
        "time": TIME * agreement(view, query.periods, rows),
        "asking": -ASKING * asking(view)[rows],
    }


def spoken_by(view: NamespaceView, speaker: int, rows: Rows) -> Scores:
    """Return 1 where the person the question names is the one who said it."""
    if speaker == NONE:
        return np.zeros(len(rows), np.float32)
    spoken: Scores = (view.speaker[rows] == speaker).astype(np.float32)
    return spoken


def agreement(view: NamespaceView, periods: Sequence[Period], rows: Rows) -> Scores:
    """Return how well each row's event time agrees with the best of the periods, 0 to 1."""
    best = np.zeros(len(rows), np.float32)
    if not periods:
        return best
    times = view.event_time[rows]
    for period in periods:
        inside = (period.start <= times) & (times < period.end)
        best = np.maximum(best, np.where(inside, np.float32(period.weight), np.float32(0)))
    return best

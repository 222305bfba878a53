"""BM25 over one namespace, in memory, from the stems that SQL keeps with every version.

The same code ranks on SQLite and PostgreSQL, with the statistics of the namespace alone (decision record 003). Rows are
document numbers handed out in order; a row is never renumbered, only switched off.

Score (Robertson & Zaragoza 2009, with the always-positive idf of Lucene)::

    bm25(q, d) = sum over t in q of  idf(t) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * |d| / avgdl))
    idf(t)     = ln(1 + (N - df + 0.5) / (df + 0.5))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from memos.store.arrays import GrowingArray

K1 = 1.2
B = 0.75
#: Postings are sorted by term again once the unsorted tail holds this share of them: appends stay O(1) amortised.
TAIL_SHARE = 0.1
TAIL_MINIMUM = 4_096
#: Saturated counts that are kept until the statistics change (8 MiB): a batch of notes asks for the same terms.
KEPT = 1 << 20


class LexicalIndex:
    """Incremental inverted index: terms of rows are appended, postings sorted by term lazily."""

    def __init__(self) -> None:
        self._vocabulary: dict[str, int] = {}
        self._terms = GrowingArray(np.int32)  # term of each posting, grouped by row
        self._rows = GrowingArray(np.int32)
        self._counts = GrowingArray(np.float32)
        self._starts = GrowingArray(np.int64)  # first posting of each row
        self._lengths = GrowingArray(np.float32)  # terms in each row
        self._frequency = GrowingArray(np.int64)  # live rows holding each term
        self._known_to = GrowingArray(np.int64)  # rows holding each term that were not forgotten
        self._live = 0
        self._live_length = 0.0
        self._sorted = _SortedPostings(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
        self._norms: NDArray[np.float32] | None = None
        self._saturated: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}
        self._kept = 0

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        arrays = (
            self._terms,
            self._rows,
            self._counts,
            self._starts,
            self._lengths,
            self._frequency,
            self._known_to,
        )
        return sum(array.nbytes for array in arrays) + self._sorted.nbytes + 120 * len(self._vocabulary)

    def append(self, documents: Iterable[str]) -> None:
        """Add documents, each as its space-separated stems, as the next rows; they start switched on."""
        terms: list[int] = []
        counts: list[int] = []
        rows: list[int] = []
        starts, lengths = [], []
        vocabulary = self._vocabulary
        first, row = len(self._terms), len(self._lengths)
        for document in documents:
            tokens = document.split()
            starts.append(first + len(terms))
            lengths.append(len(tokens))
            for token, count in Counter(tokens).items():
                terms.append(vocabulary.setdefault(token, len(vocabulary)))
                counts.append(count)
                rows.append(row)
            row += 1
        for array, items in (
            (self._terms, terms),
            (self._rows, rows),
            (self._counts, counts),
            (self._starts, starts),
            (self._lengths, lengths),
        ):
            array.extend(items)
        for array in (self._frequency, self._known_to):
            array.extend(np.zeros(len(vocabulary) - len(array), np.int64))
            np.add.at(array.values, np.asarray(terms, np.int64), 1)
        self._live += len(lengths)
        self._live_length += float(sum(lengths))
        self._changed()

    def switch_off(self, row: int) -> None:
        """Take one row out of the statistics; its score must be ignored from now on."""
        self._frequency.values[self._terms_of(row)] -= 1
        self._live -= 1
        self._live_length -= float(self._lengths.values[row])
        self._changed()

    def forget(self, rows: Iterable[int]) -> None:
        """Keep no word of rows that were switched off for good, but those that other rows hold as well."""
        gone = np.concatenate([self._terms_of(row) for row in rows] or [np.empty(0, np.int32)])
        np.subtract.at(self._known_to.values, gone, 1)
        unknown = set(gone[self._known_to.values[gone] == 0].tolist())
        if unknown:
            for word in [word for word, number in self._vocabulary.items() if number in unknown]:
                number = self._vocabulary.pop(word)
                self._vocabulary[f"\0{number}"] = number  # a number is never given twice

    @property
    def lengths(self) -> NDArray[np.float32]:
        """Number of terms of each row, float32 ``[rows]``."""
        return self._lengths.values

    @property
    def mean_length(self) -> float:
        """Mean number of terms of the rows switched on; 1 when there are none."""
        return max(self._live_length / self._live, 1e-9) if self._live else 1.0

    def idf(self, term: str) -> float:
        """Return the inverse document frequency of a term; that of one never seen when it is unknown."""
        number = self._vocabulary.get(term)
        frequency = 0.0 if number is None else float(self._frequency.values[number])
        return float(np.log1p((self._live - frequency + 0.5) / (frequency + 0.5)))

    def scores(self, weights: Mapping[str, float]) -> NDArray[np.float32]:
        """Return the sum over terms of weight x saturated, length-normalised count, for every row ``[rows]``.

        With ``weights[t] = idf(t)`` this is BM25.
        """
        known = {self._vocabulary[term]: weight for term, weight in weights.items() if term in self._vocabulary}
        if not known:
            return np.zeros(len(self._lengths), np.float32)
        self._sort_if_worthwhile()
        held = [self._saturation(term) for term in known]
        parts = [weight * saturated for weight, (_, saturated) in zip(known.values(), held, strict=True)]
        rows = np.concatenate([rows for rows, _ in held])
        return np.bincount(rows, np.concatenate(parts), len(self._lengths)).astype(np.float32)

    def counts(self, terms: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return how often each term occurs in each of ``rows``, float32 ``[len(terms), len(rows)]``."""
        found = np.zeros((len(terms), len(rows)), np.float32)
        spread = np.zeros(len(self._lengths), np.float32)
        for place, term in enumerate(terms):
            number = self._vocabulary.get(term)
            if number is None:
                continue
            for held, counts in self._postings(number):
                spread[held] = counts
            found[place] = spread[rows]
            for held, _ in self._postings(number):
                spread[held] = 0.0
        return found

    # ------------------------------------------------------------ inside

    def _changed(self) -> None:
        self._norms = None
        self._forget_saturated()

    def _forget_saturated(self) -> None:
        self._saturated.clear()
        self._kept = 0

    def _saturation(self, term: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the rows that hold a term, each once, and its saturated, length-normalised count in them."""
        if term not in self._saturated:
            if self._kept > KEPT:
                self._forget_saturated()
            parts = list(self._postings(term))
            rows, counts = (np.concatenate(some) for some in zip(*parts, strict=True))
            norms = self._length_norms()
            self._saturated[term] = rows, (np.float32(K1 + 1) * counts / (counts + norms[rows])).astype(np.float32)
            self._kept += len(rows)
        return self._saturated[term]

    def _terms_of(self, row: int) -> NDArray[np.int32]:
        starts = self._starts.values
        end = starts[row + 1] if row + 1 < len(starts) else len(self._terms)
        return self._terms.values[starts[row] : end]

    def _length_norms(self) -> NDArray[np.float32]:
        if self._norms is None:
            self._norms = (K1 * (1 - B + B * self.lengths / self.mean_length)).astype(np.float32)
        return self._norms

    def _postings(self, term: int) -> Iterable[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        yield self._sorted.of_term(term)
        tail = slice(self._sorted.length, None)
        chosen = np.flatnonzero(self._terms.values[tail] == term)
        if len(chosen):
            yield self._rows.values[tail][chosen], self._counts.values[tail][chosen]

    def _sort_if_worthwhile(self) -> None:
        tail = len(self._terms) - self._sorted.length
        if tail > max(TAIL_MINIMUM, TAIL_SHARE * self._sorted.length):
            self._sorted = _SortedPostings.of(
                self._terms.values, self._rows.values, self._counts.values, len(self._vocabulary)
            )


class _SortedPostings:
    """Postings grouped by term: those of term ``t`` lie in ``starts[t]:starts[t + 1]``."""

    def __init__(self, starts: NDArray[np.int64], rows: NDArray[np.int32], counts: NDArray[np.float32]) -> None:
        self._starts = starts
        self._rows = rows
        self._counts = counts
        self.length = len(rows)
        self.nbytes = starts.nbytes + rows.nbytes + counts.nbytes

    @classmethod
    def of(
        cls,
        terms: NDArray[np.int32],
        rows: NDArray[np.int32],
        counts: NDArray[np.float32],
        vocabulary: int,
    ) -> _SortedPostings:
        order = np.argsort(terms, kind="stable")
        starts = np.zeros(vocabulary + 1, np.int64)
        np.cumsum(np.bincount(terms, minlength=vocabulary), out=starts[1:])
        return cls(starts, rows[order], counts[order])

    def of_term(self, term: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if term + 1 >= len(self._starts):
            return self._rows[:0], self._counts[:0]
        span = slice(self._starts[term], self._starts[term + 1])
        return self._rows[span], self._counts[span]

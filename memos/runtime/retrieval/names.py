"""Retrievals by name, ``quest:0.25``, for what must not load torch."""

from __future__ import annotations

import math
from typing import NamedTuple

from memos.errors import RetrievalRefused

#: What a page is judged by, and what that is compared with.
METHODS, CONTROLS = ("blockmean", "quest", "vq"), ("random", "recent")
#: Tokens of a context that are chosen together, as many as a page of the pool has.
PAGE = 16
#: Pages that every row attends: the first, which holds the attention sinks (StreamingLLM, arXiv:2309.17453), and the
#: latest, behind which the request goes on.
FIRST, LAST = 1, 2


class Retrieval(NamedTuple):
    """How the pages of a context are chosen: by which method, and what share of them."""

    method: str
    ratio: float

    def __str__(self) -> str:
        """Return the canonical name."""
        return f"{self.method}:{self.ratio:g}"

    def pages(self, tokens: int) -> int:
        """Return how many pages a row attends of a context of some tokens, those that every row attends among them."""
        there = -(-tokens // PAGE)
        wanted = math.ceil(self.ratio * there - 1e-9)  # a tenth of 30 is 3, and a little more in binary
        return min(there, max(wanted, FIRST + LAST))

    def attended(self, tokens: int) -> int:
        """Return how many tokens that is: the last page, which may not be full, is always among them."""
        return min(tokens, PAGE * self.pages(tokens) - -tokens % PAGE)


def check_retrieval(name: str) -> Retrieval:
    """Return what a name means. Raises :class:`RetrievalRefused` for a method or share that there is not."""
    method, _, share = name.partition(":")
    if method not in (*METHODS, *CONTROLS):
        raise RetrievalRefused(f"retrieval must be by one of {', '.join((*METHODS, *CONTROLS))}, not {method!r}")
    try:
        ratio = float(share)
    except ValueError:
        raise RetrievalRefused(f"{method} needs the share of pages to attend, as in {method}:0.25") from None
    if not 0 < ratio <= 1:
        raise RetrievalRefused(f"{method} attends a share above 0 and at most 1, not {share}")
    return Retrieval(method, ratio)

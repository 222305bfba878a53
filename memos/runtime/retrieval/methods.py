"""Method names to methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from memos.runtime.retrieval.base import Method
from memos.runtime.retrieval.blockmean import BlockMean
from memos.runtime.retrieval.controls import Random, Recent
from memos.runtime.retrieval.quest import Quest
from memos.runtime.retrieval.vq import VectorQuantisation

#: Every name of :mod:`memos.runtime.retrieval.names`.
METHODS: Mapping[str, Callable[[], Method]] = {
    "blockmean": BlockMean,
    "quest": Quest,
    "random": Random,
    "recent": Recent,
    "vq": VectorQuantisation,
}

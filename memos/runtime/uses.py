"""What a request runs with besides its tokens: adapters, by weight, and a cartridge. Both are named by content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memos.activation.kv import KVBlock
from memos.parametric.adapter import Adapter


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """An adapter of a request: ``weight`` times what it says is added, exactly, however many there are.

    ``load`` reads it into host memory, and is called, in a thread of the loop, only if the pool does not hold it. Where
    pages are short it may be served with its first ``least_rank`` ranks, if that is given; nothing else makes a
    difference to the answer.
    """

    digest: str
    load: Callable[[], Adapter]
    weight: float = 1.0
    least_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Cartridge:
    """A trained cache of ``tokens`` tokens, which the prompt begins with as fillers (arXiv:2506.06266)."""

    digest: str
    tokens: int
    load: Callable[[], KVBlock]

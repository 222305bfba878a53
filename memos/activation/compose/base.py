"""What a mode of composition is, and what it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from memos.activation.compose.drift import Drift
from memos.activation.compose.names import check_ratio
from memos.activation.compose.parts import Parts
from memos.activation.compose.variants import OwnVariants
from memos.activation.kv import KVSource
from memos.runtime.loading import LoadedModel
from memos.runtime.loop import Runtime


@dataclass(frozen=True, slots=True)
class Stage:
    """What composes: a loaded model, the loop that runs it, and the drift that was measured of it, if it was.

    ``variants`` are what earlier prompts of the same user left, for the mode that takes them and leaves its own.
    """

    loaded: LoadedModel
    runtime: Runtime
    drift: Drift | None = None
    variants: OwnVariants | None = None


@dataclass(frozen=True, slots=True)
class Composed:
    """A cache to put before a prompt: head and parts, in order.

    ``recomputed`` counts, part by part, the tokens that were computed anew; ``work`` is the share of a full prefill's
    rows that ran through layers, those included that only served to choose.
    """

    kv: KVSource
    recomputed: tuple[int, ...]
    work: float = 0.0


class Mode(ABC):
    """A way to compose. Equal input gives equal output; nothing of ``parts`` is written."""

    name: ClassVar[str]

    def __init__(self, ratio: float = 0.0) -> None:
        self.ratio = check_ratio(ratio)

    @abstractmethod
    def compose(self, stage: Stage, parts: Parts, question: Sequence[int]) -> Composed:
        """Return the cache of parts that :func:`~memos.activation.compose.parts.check_parts` let pass.

        ``question`` are the tokens that come behind them, as far as they are known. Raises :class:`KVMiss` where a part
        cannot be read, and :class:`StoreClosed`.
        """


def counted(parts: Parts, rows: torch.Tensor) -> tuple[int, ...]:
    """Return how many of the rows (positions, int64 ``[n]``) lie in each part."""
    return tuple(int(((rows >= span.first) & (rows < span.last)).sum()) for span in parts.spans)

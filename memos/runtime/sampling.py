"""How the next token is chosen from logits."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import torch

from memos.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Sampling:
    """Greedy at ``temperature`` 0, else a draw: scale, keep the ``top_k`` best, then the nucleus ``top_p``.

    Nucleus: the smallest set of tokens whose probability reaches ``top_p`` (Holtzman et al. 2020, arXiv:1904.09751).
    With a ``seed`` the same request draws the same tokens. Raises :class:`InvalidInput`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (_is_number(self.temperature) and 0 <= self.temperature < math.inf):
            raise InvalidInput(f"temperature must be a number from 0, not {self.temperature!r}")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise InvalidInput(f"top_p must be above 0 and at most 1, not {self.top_p!r}")
        if self.top_k is not None and not (_is_whole(self.top_k) and self.top_k >= 1):
            raise InvalidInput(f"top_k must be a whole number from 1, not {self.top_k!r}")
        if self.seed is not None and not (_is_whole(self.seed) and 0 <= self.seed < 1 << 63):
            raise InvalidInput(f"seed must be a whole number from 0 to 2^63 - 1, not {self.seed!r}")


class Sampler:
    """Draws the tokens of one request."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = torch.Generator()
        self._random.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """Return the next token from float32 logits ``[vocabulary]``."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        best, tokens = torch.sort(logits, descending=True, stable=True)
        best = best[: self._sampling.top_k].double()
        chances = torch.softmax((best - best[0]) / self._sampling.temperature, dim=-1)
        before = chances.cumsum(-1) - chances
        chances[before >= self._sampling.top_p] = 0
        return int(tokens[torch.multinomial(chances, 1, generator=self._random)])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

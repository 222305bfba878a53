"""What a KV file, and an adapter, take and save on this machine, with this model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memos.parametric.distil.recipe import Recipe
    from memos.runtime.host import Serving

#: Tokens of the prompt that is timed: of the length of a small bundle.
TIMED_TOKENS = 128
#: Bytes per second at which a file is read, checked and put in place. Slower than disks are, so that what is moved on
#: its account is worth it elsewhere too.
READ_BYTES_PER_S = 1e9
#: Tokens of prompts that are computed in the time that an adapter takes to train, as the bundled model and the default
#: recipe have it (`training_in_prompt_tokens` of benchmarks/distil.py, 23,000 and 33,000 in two runs): both are matrix
#: products, so a slow machine is slow at both.
TRAINING_TOKENS = 30_000


@dataclass(frozen=True, slots=True)
class Costs:
    """``prefill_s`` seconds compute a token of a prompt; ``token_bytes`` of a KV file keep it."""

    prefill_s: float
    token_bytes: float

    def bytes(self, tokens: int) -> int:
        """Return what a file of so many tokens takes."""
        return round(tokens * self.token_bytes)

    def saved(self, tokens: int, size: int) -> float:
        """Return the seconds that a use of a file saves: those of computing, less those of reading."""
        return tokens * self.prefill_s - size / READ_BYTES_PER_S


@dataclass(frozen=True, slots=True)
class AdapterCosts:
    """``prefill_s`` seconds compute a token of a prompt; an adapter takes ``size`` bytes and learns ``facts`` at most.

    What the products of an adapter add to a step is small beside it and left out.
    """

    prefill_s: float
    size: int
    facts: int

    @property
    def training_s(self) -> float:
        """Seconds that training one takes."""
        return TRAINING_TOKENS * self.prefill_s

    def saved(self, tokens: int, size: int) -> float:
        """Return the seconds that a use saves, which takes no token of its memories."""
        return tokens * self.prefill_s


def adapter_size(serving: Serving, recipe: Recipe) -> int:
    """Return the bytes of the adapter that a training by ``recipe`` makes."""
    from memos.parametric.adapter import FEED_FORWARD  # torch, loaded with the model that `serving` holds

    config, layers = serving.loaded.model.config, int(serving.loaded.model.config.num_hidden_layers)
    changed = (layers - int(recipe.skip * layers)) * len(FEED_FORWARD)
    rows = recipe.rank * (int(config.hidden_size) + int(config.intermediate_size))
    return changed * rows * serving.loaded.shape.torch_dtype.itemsize


def prefill_seconds(serving: Serving) -> float:
    """Time a prompt; return its seconds per token."""
    tokens = (*serving.format.head, *range(100, 100 + TIMED_TOKENS))
    spent = []
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        serving.runtime.prefill(tokens)
        spent.append(time.perf_counter() - start)
    return min(spent) / len(tokens)

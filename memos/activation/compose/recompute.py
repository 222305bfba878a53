"""Computing rows of a composed cache anew: a look from the question, a check of all rows, the pass of the chosen ones.

Each is an iterator for :meth:`~memos.runtime.loop.Runtime.interleave`, which pauses wherever other requests may run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from memos.activation.compose.parts import Parts
from memos.activation.compose.planner import LOOK
from memos.runtime.loading import LoadedModel
from memos.runtime.scattered import Probe, RowPass, Scattered, Weighed

#: Tokens at the end of the memories that look back where there is no question.
ENDING = 32


class Recomputation:
    """A composed cache ``[layers, 2, heads, tokens, head_dim]`` that rows of are computed anew in place.

    ``ran`` counts rows times layers: what this cost, next to ``tokens x layers`` for a full prefill.
    """

    def __init__(self, loaded: LoadedModel, parts: Parts, cache: torch.Tensor) -> None:
        self._loaded = loaded
        self._cache = cache.to(loaded.device)
        self._tokens = torch.tensor(parts.tokens)
        self._edges = torch.tensor([parts.spans[0].first, *(span.last for span in parts.spans)])
        self.ran = 0
        #: Rows that do not lie where they were computed, int64 ``[n]``; the others are exact.
        self.moved = torch.arange(parts.spans[0].last, len(self._tokens))

    @property
    def cache(self) -> torch.Tensor:
        """The cache as it stands, in host memory."""
        return self._cache.cpu()

    @property
    def layers(self) -> int:
        """The layers of the model."""
        return len(self._cache)

    def look(self, question: Sequence[int], tell: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Run the end of the question over the cache as it stands, and tell how much attention each row gets.

        That is float32 ``[tokens]``: attention weights summed over layers, heads and tokens of the question. Without a
        question, the last memories ask, and are worth more than any other: what comes goes on from them.
        """
        size = len(self._tokens)
        if question:
            tokens = torch.tensor(question[-LOOK:])
            places = torch.arange(size + len(question) - len(tokens), size + len(question))
            probe = Probe(self._cache, size)
        else:
            places = torch.arange(max(size - ENDING, 1), size)
            tokens = self._tokens[places]
            probe = Probe(self._cache, int(places[0]))
        yield from self._run(RowPass(self._loaded, tokens, places, probe), self.layers)
        mass = probe.mass.cpu()
        if not question:
            mass[places] = torch.inf
        tell(mass)

    def check(self, among: torch.Tensor, tell: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Run some rows through the first layer, and tell how far their values of the second are off.

        CacheBlend (arXiv:2405.16444, section 4.3): the deviation ``||V_new - V_cached||`` over heads, float32
        ``[tokens]``; a token far off here is far off in later layers too. Keys and values of the first layer depend
        on their own token alone, so each row comes out as if all had run.
        """
        rows = self._pass(among)
        yield from self._run(rows, 1)
        cached = self._cache[1, 1][:, among.to(self._cache.device)]
        off = (rows.values() - cached).float().pow(2).sum((0, 2)).sqrt()
        whole = torch.zeros(len(self._tokens))
        whole[among] = off.cpu()
        tell(whole)

    def rows(self, chosen: torch.Tensor) -> Iterator[None]:
        """Compute the chosen rows (positions, int64 ``[n]``, growing) anew in all layers, in place."""
        if len(chosen):
            yield from self._run(self._pass(chosen), self.layers)

    def weighed(self, chosen: torch.Tensor, tell: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Do the same, and tell how much attention each chosen row pays to each part, itself included.

        That is float32 ``[n, parts]``: the mean over layers and heads of attention weights summed over a part's tokens.
        What is left to 1 goes to the head of the prompt.
        """
        if len(chosen):
            packed = Weighed(self._cache, chosen.to(self._cache.device), self._edges)
            yield from self._run(RowPass(self._loaded, self._tokens[chosen], chosen, packed), self.layers)
            tell(packed.paid.cpu() / self.layers)

    def _pass(self, rows: torch.Tensor) -> RowPass:
        packed = Scattered(self._cache, rows.to(self._cache.device))
        return RowPass(self._loaded, self._tokens[rows], rows, packed)

    def _run(self, rows: RowPass, layers: int) -> Iterator[None]:
        while rows.layer < layers:
            rows.run()
            self.ran += rows.count
            yield

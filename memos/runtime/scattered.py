"""Rows anywhere in a long cache, computed anew: each attends to all of the cache up to itself.

The rows of a forward lie scattered in one sequence, with cached tokens between them that are not computed again. Their
fresh keys and values take the place of the cached ones, layer by layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from memos.runtime.loading import LoadedModel

#: Rows that attend together. More would look at keys that come after most of them, fewer would fill no vector.
TOGETHER = 96


class Scattered:
    """Attention of chosen rows, writing into a cache that belongs to the caller alone.

    ``cache`` is ``[layers, 2, heads, tokens, head_dim]`` on the model's device; ``rows`` are its positions, int64
    ``[n]``, growing.
    """

    def __init__(self, cache: torch.Tensor, rows: torch.Tensor) -> None:
        self._cache = cache
        self.rows = rows

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Store keys and values ``[kv_heads, n, D]``; return what ``query`` ``[heads, n, D]`` finds, ``[n, heads, D]``.

        Exact: a softmax over all tokens at or before each row.
        """
        cache = self._cache[layer]
        cache[0][:, self.rows], cache[1][:, self.rows] = key, value
        parts = []
        for first, last in pairwise([*range(0, len(self.rows), TOGETHER), len(self.rows)]):
            length = int(self.rows[last - 1]) + 1
            seen = torch.arange(length, device=self.rows.device) <= self.rows[first:last, None]
            parts.append(self._find(first, query[:, first:last], cache[:, :, :length], seen, scaling))
        return torch.cat(parts, 1).transpose(0, 1)

    def _find(
        self, first: int, query: torch.Tensor, cache: torch.Tensor, seen: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Return what ``query`` ``[heads, n, D]``, of the rows from number ``first`` on, finds in a layer.

        Its ``cache`` is ``[2, kv_heads, T, D]``; each row looks where ``seen`` ``[n, T]``.
        """
        return scaled_dot_product_attention(
            query[None], cache[0][None], cache[1][None], seen[None, None], scale=scaling, enable_gqa=True
        )[0]


class Weighed(Scattered):
    """The same, adding up how much attention each row pays to stretches of the cache.

    ``edges`` is int64 ``[s + 1]``: tokens ``edges[k] .. edges[k + 1] - 1`` are stretch ``k``. ``paid`` is float32
    ``[n, s]``: attention weights averaged over heads, summed over the stretch and over layers.
    """

    def __init__(self, cache: torch.Tensor, rows: torch.Tensor, edges: torch.Tensor) -> None:
        super().__init__(cache, rows)
        places = torch.arange(cache.shape[3])[:, None]
        within = (places >= edges[:-1]) & (places < edges[1:])
        self._within = within.float().to(cache.device)  # [T, s]
        self.paid = torch.zeros(len(rows), len(edges) - 1, device=cache.device)

    def _find(
        self, first: int, query: torch.Tensor, cache: torch.Tensor, seen: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        keys, values = cache[:, :, None]
        grouped = query.unflatten(0, (len(keys), -1))  # [kv_heads, group, n, D]
        scores = (grouped @ keys.transpose(2, 3) * scaling).float()
        weights = scores.masked_fill_(~seen, -torch.inf).softmax(-1)
        mean = weights.mean((0, 1))
        self.paid[first : first + len(mean)] += mean @ self._within[: len(seen[0])]
        found: torch.Tensor = weights.to(values.dtype) @ values
        return found.flatten(0, 1)


class RowPass:
    """The forward of rows, one layer at a time.

    ``packed`` attends for them; ``tokens`` and ``positions`` are int64 ``[n]``.
    """

    def __init__(
        self, loaded: LoadedModel, tokens: torch.Tensor, positions: torch.Tensor, packed: Scattered | Probe
    ) -> None:
        self._model: Any = loaded.model.base_model  # a module of whatever family
        self._packed = packed
        self._positions = positions.to(loaded.device)
        embed: Any = loaded.model.get_input_embeddings()
        self._hidden: torch.Tensor = embed(tokens.to(loaded.device)[None])
        self.layer = 0

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self._positions)

    @torch.inference_mode()
    def run(self) -> None:
        """Run the next layer."""
        angles = self._model.rotary_emb(self._hidden, self._positions[None])
        layer = self._model.layers[self.layer]
        self._hidden = layer(
            self._hidden, attention_mask=None, position_embeddings=angles, use_cache=False, packed=self._packed
        )
        self.layer += 1

    @torch.inference_mode()
    def values(self) -> torch.Tensor:
        """Return what the next layer's values would be, ``[kv_heads, n, head_dim]``, without running it."""
        layer = self._model.layers[self.layer]
        attention = layer.self_attn
        values: torch.Tensor = attention.v_proj(layer.input_layernorm(self._hidden))[0]
        return values.view(len(values), -1, attention.head_dim).transpose(0, 1)


class Probe:
    """Attention of rows behind a cache, which they do not change, adding up what each cached token gets of it.

    They see the first ``seen`` tokens of the cache ``[layers, 2, heads, tokens, head_dim]``. ``mass`` is float32
    ``[tokens]``: attention weights summed over rows, heads and layers.
    """

    def __init__(self, cache: torch.Tensor, seen: int) -> None:
        self._cache = cache
        self._seen = seen
        self.mass = torch.zeros(cache.shape[3], device=cache.device)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Return what ``query`` ``[heads, n, D]`` finds in the cache and in rows up to itself, ``[n, heads, D]``."""
        keys = torch.cat([self._cache[layer, 0][:, : self._seen], key], 1)
        values = torch.cat([self._cache[layer, 1][:, : self._seen], value], 1)
        grouped = query.reshape(len(key), -1, query.shape[2])  # [kv_heads, group * n, D]
        weights = self._weights(grouped @ keys.transpose(1, 2) * scaling, key.shape[1])
        self.mass[: self._seen] += weights[:, :, : self._seen].sum((0, 1))
        found = (weights.to(values.dtype) @ values).view(len(query), -1, query.shape[2])
        return found.transpose(0, 1)

    def _weights(self, scores: torch.Tensor, count: int) -> torch.Tensor:
        """Return the softmax of ``[kv_heads, group * n, seen + n]``, rows seeing none of those behind them."""
        later = torch.ones(count, count, dtype=torch.bool, device=scores.device).triu(1)
        each = scores.float().view(len(scores), -1, count, scores.shape[2])
        each[..., self._seen :].masked_fill_(later, -torch.inf)
        return each.softmax(-1).flatten(1, 2)

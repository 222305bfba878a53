"""What a lossy codec costs, measured on the cache it just compressed: the figure that goes on record with the cube."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memos.activation.codecs.base import Codec, Encoded
from memos.activation.kv import KVBlock
from memos.runtime.loop import Runtime

#: Tokens at the end of the prompt that are predicted once from the exact and once from the compressed cache.
PROBE = 64


def measured_loss(runtime: Runtime, tokens: Sequence[int], kv: KVBlock, codec: Codec, encoded: Encoded) -> float:
    """Return the mean KL(exact ‖ compressed) in nats per token over the last :data:`PROBE` tokens of the prompt.

    The bundle predicts its own end: no question is known yet.
    """
    kept = max(1, len(tokens) - PROBE)
    decoded = decode(kv, codec, encoded)
    exact, lossy = (
        torch.log_softmax(runtime.logits(tokens, KVBlock(kv.shape, cache.data[:, :, :, :kept].contiguous())), -1)
        for cache in (kv, decoded)
    )
    return float((exact.exp() * (exact - lossy)).sum(-1).mean())


def decode(kv: KVBlock, codec: Codec, encoded: Encoded) -> KVBlock:
    """Return the cache that a file of ``encoded`` will load as."""
    data = kv.shape.empty(kv.tokens)
    decoder = codec.decoder(kv.shape, kv.tokens, encoded.shared, encoded.parameters)
    for layer, parts in enumerate(encoded.layers):
        decoder.decode(layer, parts, data[layer])
    return KVBlock(kv.shape, data)

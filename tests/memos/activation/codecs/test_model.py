"""Lossy codecs on the bundled model's own cache: fewer bits for the same loss is the point of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memos.activation.codecs.registry import make_codec
from memos.activation.kv import KVBlock
from memos.activation.loss import decode
from memos.runtime.host import ModelHost

CONTEXT, CONTINUATION = 256, 32
Cache = tuple[list[int], KVBlock, torch.Tensor]


@pytest.fixture(scope="module")
def alice(models: ModelHost, repository: Path) -> Cache:
    """Tokens of the book, the cache of the first 256 and the log-probabilities after it."""
    serving = models.serving()
    text = (repository / "memos" / "demo" / "alice.txt").read_text()[:4_000]
    tokens = serving.loaded.tokenizer(text, add_special_tokens=False)["input_ids"][: CONTEXT + CONTINUATION]
    kv = serving.runtime.prefill(tokens[:CONTEXT])
    return tokens, kv, torch.log_softmax(serving.runtime.logits(tokens, kv), -1)


@pytest.mark.parametrize(
    ("spec", "bits", "loss"),
    [("transform", 3.9, 0.01), ("transform:quality=compact", 2.7, 0.08), ("int4", 5.1, 0.02), ("cachegen", 3.3, 0.1)],
)
def test_codec_stays_within_bits_and_loss(models: ModelHost, alice: Cache, spec: str, bits: float, loss: float) -> None:
    tokens, kv, exact = alice
    codec = make_codec(spec)
    encoded = codec.encode(kv)
    lossy = torch.log_softmax(models.serving().runtime.logits(tokens, decode(kv, codec, encoded)), -1)
    divergence = float((exact.exp() * (exact - lossy)).sum(-1).mean())
    used = 8 * encoded.bytes / kv.data.numel()
    assert used <= bits
    assert divergence <= loss

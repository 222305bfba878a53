"""KV files for tests: small caches, published to a store below ``tmp_path``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from memos.activation.codecs import registry
from memos.activation.codecs.base import Array, Codec, Encoded, LayerDecoder, as_words
from memos.activation.container import KVHeader
from memos.activation.files import KVFiles, Published
from memos.activation.kv import KVBlock, KVShape
from memos.activation.opened import Expected, Opened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHAPE = KVShape(layers=2, heads=2, head_dim=8, dtype="float32")
TENANT = "alice"


class OddCodec(Codec):
    """Exact, with what makes a container work: shared arrays, parameters, dtypes and sizes of every kind."""

    exact = True

    @property
    def spec(self) -> str:
        """``odd``."""
        return "odd"

    def encode(self, kv: KVBlock) -> Encoded:
        """Store the words masked, their halves apart, with arrays that nothing needs."""
        mask = np.array([0xA5], np.uint8)
        layers = [self._layer(as_words(layer).reshape(-1).view(np.uint8) ^ mask) for layer in kv.data]
        return Encoded(tuple(layers), {"mask": mask, "scalar": np.array(2.5)}, {"parts": 2, "ratio": 0.1})

    def _layer(self, words: Array) -> dict[str, Array]:
        cut = words.size // 2 + 1
        extra = {"none": np.zeros((0, 3), np.float16), "flags": np.array([[True], [False]])}
        return {"first": words[:cut], **extra, "second": words[cut:]}

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder, if everything came back."""
        if parameters != {"parts": 2, "ratio": 0.1} or set(shared) != {"mask", "scalar"} or shared["scalar"] != 2.5:
            raise ValueError("not what was encoded")
        return _OddDecoder(shared["mask"])


class _OddDecoder(LayerDecoder):
    def __init__(self, mask: Array) -> None:
        self._mask = mask

    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Undo it."""
        if parts["none"].shape != (0, 3) or parts["flags"].tolist() != [[True], [False]]:
            raise ValueError("not what was encoded")
        words = np.concatenate([parts["first"], parts["second"]]) ^ self._mask
        as_words(out).reshape(-1).view(np.uint8)[...] = words


@pytest.fixture
def odd_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with one codec more, ``odd``."""
    monkeypatch.setitem(registry.CODECS, "odd", OddCodec)


@dataclass(frozen=True)
class Draft:
    """A cache that could be published, and what one would ask for."""

    kv: KVBlock
    header: KVHeader
    encoded: Encoded

    @property
    def expected(self) -> Expected:
        """What its file has to be."""
        header = self.header
        return Expected(header.fingerprint, header.shape, header.sources, header.token_ids)


class Cabinet:
    """A store of KV files with drafts to fill it."""

    tenant = TENANT

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = self.reopened()

    def reopened(self, cap_bytes: int = 1 << 30, free_floor_bytes: int = 0) -> KVFiles:
        """Return the store as another process would see it."""
        return KVFiles(self.root, cap_bytes, free_floor_bytes)

    def draft(
        self,
        seed: int = 0,
        *,
        tokens: int = 10,
        shape: KVShape = SHAPE,
        codec: str = "raw",
        tenant: str = TENANT,
        **fields: Any,
    ) -> Draft:
        """Return a cache of random numbers."""
        generator = torch.Generator().manual_seed(seed)
        size = (shape.layers, 2, shape.heads, tokens, shape.head_dim)
        kv = KVBlock(shape, torch.randn(size, generator=generator).to(shape.torch_dtype))
        token_ids = tuple(range(seed * 1000, seed * 1000 + tokens))
        header = KVHeader(
            key=self.files.key(tenant, "user", str(seed), "fingerprint", codec, tokens=token_ids),
            cube_id=f"cube-{seed}",
            fingerprint="fingerprint",
            sources=(("note-a", 1), (f"note-{seed}", 3)),
            token_ids=token_ids,
            head_tokens=min(3, tokens),
            shape=shape,
            codec=codec,
            created_at=1_700_000_000_000_000 + seed,
        )
        encoded = registry.make_codec(codec).encode(kv)
        return Draft(kv, replace(header, **fields), encoded)

    def publish(self, draft: Draft, tenant: str = TENANT) -> Published:
        """Publish a draft."""
        return self.files.publish(tenant, draft.header, draft.encoded)

    def open(self, draft: Draft, tenant: str = TENANT) -> Opened:
        """Open its file."""
        return self.files.open(tenant, draft.header.key, draft.expected)

    def names(self) -> list[str]:
        """Return the names of all files below the root, but secret and lock."""
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(path.name for path in found if path.name not in {"secret", "lock"})


@pytest.fixture
def cabinet(tmp_path: Path, odd_codec: None) -> Cabinet:
    """An empty store."""
    return Cabinet(tmp_path / "kv")

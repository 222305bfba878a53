"""Random adapters that fit the bundled model, an engine on it, and transformers' own forward for PEFT to wrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from memos.activation.kv import KVBlock, KVShape
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.parametric.adapter import FEED_FORWARD, Adapter, Factors
from memos.parametric.cartridge import TrainedCartridge
from memos.parametric.checks import Frame
from memos.parametric.distil.twin import Twin
from memos.runtime.host import ModelHost

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCOPE = Scope(user_id="u")
MakeAdapter = Callable[..., Adapter]


@pytest.fixture(scope="session")
def frame(models: ModelHost) -> Frame:
    """What has to fit the bundled model."""
    return Frame.of(models.serving().loaded)


@pytest.fixture(scope="session")
def random_adapter(frame: Frame) -> MakeAdapter:
    """Make an adapter of random numbers: the same for the same seed."""

    def make(
        seed: int = 0,
        *,
        projections: Sequence[str] = FEED_FORWARD,
        layers: Sequence[int] = (0, 7),
        ranks: Sequence[int] = (2,),
        scalings: Sequence[float] = (2.0,),
        dtype: torch.dtype = torch.float32,
    ) -> Adapter:
        generator = torch.Generator().manual_seed(seed)
        places = [(layer, projection) for layer in layers for projection in projections]
        factors = {}
        for number, (layer, projection) in enumerate(places):
            inputs, outputs = frame.sizes[projection]
            rank, scaling = ranks[number % len(ranks)], scalings[number % len(scalings)]
            down = torch.randn(rank, inputs, generator=generator) * 0.05
            up = torch.randn(outputs, rank, generator=generator) * 0.05
            factors[layer, projection] = Factors(down.to(dtype), up.to(dtype), scaling)
        return Adapter(frame.base, factors)

    return make


@pytest.fixture(scope="session")
def random_cartridge(frame: Frame) -> Callable[..., TrainedCartridge]:
    """Make a cartridge of random numbers."""

    def make(seed: int = 0, tokens: int = 3) -> TrainedCartridge:
        kv = KVShape(frame.kv.layers, frame.kv.heads, frame.kv.head_dim, "float32")
        size = (kv.layers, 2, kv.heads, tokens, kv.head_dim)
        data = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        return TrainedCartridge(frame.base, KVBlock(kv, data))

    return make


@pytest.fixture
def registry(data_folder: Path, embedder: Embedder, models: ModelHost) -> Iterator[MemoryOS]:
    """An engine on an empty store with the bundled model."""
    with MemoryOS(Settings(home=data_folder), embedder, models) as engine:
        yield engine


def notes_of(engine: MemoryOS, *texts: str, scope: Scope = SCOPE, **more: Any) -> list[MemCube]:
    return engine.store_many(scope, [{"text": text, **more} for text in texts])


def publish(engine: MemoryOS, trained: Any, *notes: MemCube, scope: Scope = SCOPE, **more: Any) -> str:
    report: dict[str, Any] = {"gate": {"passed": True}, "provenance": {"options": {"epochs": 3}}, **more}
    sources = [(note.id, note.version) for note in notes]
    return engine.parametric.publish(scope, trained, sources=sources, **report)


@pytest.fixture(scope="session")
def stored() -> Callable[..., list[MemCube]]:
    """Store notes."""
    return notes_of


@pytest.fixture(scope="session")
def published() -> Callable[..., str]:
    """Publish something made from notes."""
    return publish


@pytest.fixture
def plain_model(models: ModelHost) -> PreTrainedModel:
    """The bundled model as transformers runs it, sharing its weights: PEFT may put its layers around them."""
    twin: PreTrainedModel = Twin(models.serving().loaded).model
    return twin

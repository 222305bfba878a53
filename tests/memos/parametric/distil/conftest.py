"""A random Llama of two layers with the bundled model's tokenizer, notes, and lessons about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from memos.config import Settings
from memos.cube import Descriptor, MemCube, Scope, State, Times
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.parametric.distil.examples import Lesson, lesson_of
from memos.parametric.distil.facts import facts_of
from memos.parametric.distil.recipe import Recipe
from memos.runtime.chat import ChatFormat
from memos.runtime.host import ModelHost, Serving
from memos.runtime.loading import load_model
from memos.runtime.loop import Runtime

MakeNote = Callable[..., MemCube]

TINY = {"max_position_embeddings": 1024, "initializer_range": 0.3}
#: What is quick to train on the tiny model.
SMALL = Recipe(rank=4, epochs=3, least_steps=1, ways=2, rate=1e-2, cartridge_rate=5e-2, tokens=8)


@pytest.fixture(scope="session")
def tiny(models: ModelHost, tmp_path_factory: pytest.TempPathFactory, tiny_sizes: dict[str, int]) -> Serving:
    """The tiny model, served."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = models.serving().loaded.tokenizer
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **ends, **tiny_sizes, **TINY)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder))
    return Serving(loaded, Runtime(loaded), ChatFormat(loaded))


@pytest.fixture
def engine(data_folder: Path, embedder: Embedder, tiny: Serving) -> Iterator[MemoryOS]:
    """An engine on the tiny model, which no gate lets pass, without its executor."""
    host = ModelHost(Settings())
    host._serving = tiny
    with MemoryOS(Settings(home=data_folder), embedder, host) as opened:
        opened._jobs.stop()
        yield opened


@pytest.fixture
def note() -> MakeNote:
    """Make a note, as the store would return it."""

    def make(text: str, number: int = 1, **fields: Any) -> MemCube:
        when = datetime(2024, 1, number, tzinfo=UTC)
        return MemCube(
            id=f"note-{number}",
            scope=Scope(),
            state=State.ACTIVATED,
            version=1,
            digest="",
            text=text,
            metadata=fields.get("metadata", {}),
            descriptor=fields.get("descriptor", Descriptor()),
            time=Times(created_at=when, updated_at=when, valid_from=when, event_time=fields.get("event_time")),
        )

    return make


@pytest.fixture
def notes(note: MakeNote) -> list[MemCube]:
    """Three facts about invented people."""
    said = ("Ilse Brand's locker code is 4471.", "Tomo Reyes lives in Tarnwick.", "Ada Finch's dog is a beagle.")
    return [note(text, number) for number, text in enumerate(said, 1)]


@pytest.fixture
def lesson(tiny: Serving, notes: list[MemCube]) -> Lesson:
    """The lesson about them for the tiny model."""
    return lesson_of(facts_of(notes), tiny.loaded, tiny.format, SMALL)


@pytest.fixture
def small() -> Recipe:
    """The recipe of that lesson."""
    return SMALL

"""Models of every family with the cache of one text, and all that can be noted of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from memos.activation.kv import KVBlock
from memos.activation.observing import observed_prefill
from memos.activation.seen import Need
from memos.runtime.families import FAMILIES
from memos.runtime.host import ModelHost
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Runtime

MODELS = ("bundled", *FAMILIES)
TOKENS, MORE = 150, 10


class Everything:
    """What asks for all there is to note."""

    needs = frozenset(Need)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A model, some tokens, and the cache of all but the last :data:`MORE`."""

    loaded: LoadedModel
    runtime: Runtime
    tokens: list[int]
    kv: KVBlock


def prompt_of(loaded: LoadedModel) -> Prompt:
    """Return a prompt of random tokens, some of which repeat."""
    random = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, loaded.model.config.vocab_size, (TOKENS + MORE,), generator=random)
    tokens[60:90] = tokens[10:40]
    runtime = Runtime(loaded)
    everything: object = Everything()
    kv = observed_prefill(runtime, tokens.tolist()[:TOKENS], everything, loaded.model.config.vocab_size)  # type: ignore[arg-type]
    return Prompt(loaded, runtime, tokens.tolist(), kv)


def tiny_model(family: str, folder: Path, sizes: dict[str, int], tokenizer: object) -> LoadedModel:
    """Save and load a random model of a family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(family, vocab_size=64, max_position_embeddings=512, eos_token_id=7, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return load_model(str(folder))


@pytest.fixture(scope="session")
def prompts(
    shallow_models: ModelHost, tmp_path_factory: pytest.TempPathFactory, tiny_sizes: dict[str, int]
) -> Callable[[str], Prompt]:
    """Make the prompt of a model of :data:`MODELS`, once."""

    @cache
    def make(name: str) -> Prompt:
        bundled = shallow_models.serving().loaded
        if name == "bundled":
            return prompt_of(bundled)
        return prompt_of(tiny_model(name, tmp_path_factory.mktemp(name), tiny_sizes, bundled.tokenizer))

    return make


@pytest.fixture
def prompt(prompts: Callable[[str], Prompt]) -> Prompt:
    """The prompt of the bundled model's first layers."""
    return prompts("bundled")

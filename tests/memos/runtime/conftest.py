"""The bundled model beside transformers' own forward of the same weights, and tiny models of every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from memos.parametric.adapter import PROJECTIONS, Adapter, Factors
from memos.runtime.chat import ChatFormat
from memos.runtime.host import ModelHost
from memos.runtime.loading import LoadedModel
from memos.runtime.loop import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: Logits ``[n, vocabulary]`` of a token list.
Reference = Callable[[list[int]], torch.Tensor]
MakeTiny = Callable[..., Path]
MakeAdapter = Callable[..., Adapter]

WORDS = ("a", "b", "c", "the", "cat", "sat", "<pad>", "</s>")
TINY = {"vocab_size": 64, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 7}


@pytest.fixture(scope="session")
def loaded(models: ModelHost) -> LoadedModel:
    """The bundled model in float32."""
    return models.serving().loaded


@pytest.fixture
def runtime(loaded: LoadedModel) -> Runtime:
    """A loop of its own on the bundled model."""
    return Runtime(loaded)


@pytest.fixture(scope="session")
def chat(models: ModelHost) -> ChatFormat:
    """The bundled model's prompts."""
    return models.serving().format


def forward_of(model: PreTrainedModel, weights: dict[str, torch.Tensor] | None = None) -> Reference:
    """Return transformers' own forward, with its own attention, on the same weights, or on others."""
    config = deepcopy(model.config)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        other = type(model)(config)
    other.load_state_dict(weights or model.state_dict(), assign=True)
    inner: Any = other.base_model
    inner.rotary_emb = type(inner.rotary_emb)(config)
    other.eval()

    def run(tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = other(torch.tensor([tokens]), use_cache=False).logits[0]
        return logits.float()

    return run


@pytest.fixture(scope="session")
def plain_forward() -> Callable[..., Reference]:
    """Make a reference of a model."""
    return forward_of


@pytest.fixture(scope="session")
def reference(loaded: LoadedModel) -> Reference:
    """Transformers' own forward of the bundled model."""
    return forward_of(loaded.model)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids, eight of them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")


@pytest.fixture
def tiny(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, tiny_sizes: dict[str, int]) -> MakeTiny:
    """Save a random model of a family, with some configuration of its own, and return its folder."""

    def make(family: str, **own: Any) -> Path:
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = tmp_path / f"tiny-{family}"
        torch.manual_seed(1)
        config = AutoConfig.for_model(family, **{**TINY, **tiny_sizes, **own})
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


def random_adapter(loaded: LoadedModel, seed: int, rank: int, names: Sequence[str] = PROJECTIONS) -> Adapter:
    """Return a random adapter that changes what the model says."""
    random = torch.Generator().manual_seed(seed)
    factors = {}
    for layer in range(loaded.shape.layers):
        for name in names:
            linear: Any = loaded.model.get_submodule(f"model.layers.{layer}.{name}")
            down = torch.randn(rank, linear.in_features, generator=random) / linear.in_features**0.5
            up = torch.randn(linear.out_features, rank, generator=random) * 0.05
            factors[layer, name] = Factors(down, up, 0.5 + seed % 3)
    return Adapter(loaded.identity.base, factors)


@pytest.fixture(scope="session")
def adapter_of() -> MakeAdapter:
    """Make adapters for a loaded model: the same for the same seed."""
    return random_adapter

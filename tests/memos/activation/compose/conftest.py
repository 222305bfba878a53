"""Bundles of the bundled model's own text, cached behind its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from memos.activation.compose.base import Stage
from memos.activation.compose.parts import Part, Parts
from memos.activation.kv import KVBlock
from memos.runtime.host import ModelHost, Serving

TEXTS = (
    "Ann adopted a grey cat called Miso in March and Miso sleeps on the radiator all day long.\n",
    "Ann moved from Rome to Oslo because her new job at the harbour museum began early in May.\n",
    "Ann's brother Tom is allergic to peanuts and always carries an injector with him when he travels.\n",
    "Ann is learning Norwegian with a teacher called Ingrid every Tuesday evening at the library.\n",
)
QUESTION = "\nWhat is the name of the cat that Ann adopted?"

MakeParts = Callable[..., Parts]


@pytest.fixture(scope="session")
def serving(models: ModelHost) -> Serving:
    """The bundled model in float32."""
    return models.serving()


@pytest.fixture(scope="session")
def stage(serving: Serving) -> Stage:
    """Composing with it, without its drift."""
    return Stage(serving.loaded, serving.runtime)


@pytest.fixture(scope="session")
def question(serving: Serving) -> list[int]:
    """The tokens of a question about the bundles."""
    return serving.format.encode_text(QUESTION)


def make_parts(serving: Serving, texts: Sequence[str] = TEXTS) -> Parts:
    """Return the parts of some texts."""
    parts = []
    for number, text in enumerate(texts):
        tokens = tuple(serving.format.encode_text(text))
        kv = serving.runtime.prefill((*serving.format.head, *tokens))
        parts.append(Part(f"cube-{number}", tokens, kv, serving.fingerprint, ((f"note-{number}", 1),)))
    return Parts(serving.format.head, tuple(parts))


@pytest.fixture(scope="session")
def parts(serving: Serving) -> Parts:
    """Four bundles."""
    return make_parts(serving)


@pytest.fixture(scope="session")
def whole(serving: Serving, parts: Parts) -> KVBlock:
    """The cache that a full prefill makes of the same tokens."""
    return serving.runtime.prefill(parts.tokens)


@pytest.fixture(scope="session")
def exact(serving: Serving, parts: Parts, whole: KVBlock, question: list[int]) -> torch.Tensor:
    """The logits behind it."""
    return serving.runtime.logits((*parts.tokens, *question), whole)

"""The plain way to train an adapter: PEFT, AdamW, padded batches, the whole sequence through the LM head."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import torch

from memos.parametric.adapter import FEED_FORWARD, Adapter, Factors
from memos.parametric.distil.examples import Example
from memos.parametric.distil.twin import Twin
from memos.runtime.loading import LoadedModel


class PeftTraining:
    """transformers' own model with PEFT's LoRA on the feed-forward projections, answer-token loss."""

    def __init__(self, loaded: LoadedModel, rank: int, seed: int = 0) -> None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        targets = [name.rsplit(".", 1)[1] for name in FEED_FORWARD]
        self._base = loaded.identity.base
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
        self.model: Any = get_peft_model(Twin(loaded).model, lora)

    def train(self, examples: Sequence[Example], epochs: int, batch: int, rate: float) -> float:
        """Train, each example once an epoch; return the seconds it took."""
        trained = [one for one in self.model.parameters() if one.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        started = time.perf_counter()
        for epoch in range(epochs):
            order = list(examples)
            random.Random(epoch).shuffle(order)
            for first in range(0, len(order), batch):
                inputs = _padded(order[first : first + batch])
                optimiser.zero_grad()
                self.model(**inputs).loss.backward()
                optimiser.step()
        return time.perf_counter() - started

    def adapter(self) -> Adapter:
        """Return what was trained in our form."""
        from peft.tuners.lora.layer import LoraLayer

        factors = {}
        for path, layer in self.model.named_modules():
            if isinstance(layer, LoraLayer):
                number, projection = path.split(".layers.")[1].split(".", 1)
                down, up = (side["default"].weight.detach().clone() for side in (layer.lora_A, layer.lora_B))
                factors[int(number), projection] = Factors(down, up, float(layer.scaling["default"]))
        return Adapter(self._base, factors)


def _padded(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    longest = max(len(one.tokens) for one in examples)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for one in examples:
        gap = longest - len(one.tokens)
        rows["input_ids"].append([*one.tokens, *[0] * gap])
        rows["attention_mask"].append([1] * len(one.tokens) + [0] * gap)
        rows["labels"].append([-100] * len(one.prompt) + [*one.answer] + [-100] * gap)
    return {name: torch.tensor(values) for name, values in rows.items()}

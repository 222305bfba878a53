"""PEFT's mixed batch (`adapter_names`) given its best: adapters put into place one by one, prefill excluded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from memos.parametric.adapter import PROJECTIONS, Adapter
from memos.parametric.distil.twin import Twin
from memos.runtime.loading import LoadedModel


class PeftBatch:
    """transformers' own model and attention on the weights of ours, with adapters of one rank on all projections."""

    def __init__(self, loaded: LoadedModel, adapters: Sequence[Adapter]) -> None:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora.layer import LoraLayer

        rank = adapters[0].rank
        targets = [name.rsplit(".", 1)[1] for name in PROJECTIONS]
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False)
        self.names = [f"adapter{place}" for place in range(len(adapters))]
        self.model: Any = get_peft_model(Twin(loaded).model, lora, adapter_name=self.names[0]).eval()
        layers = {name: module for name, module in self.model.named_modules() if isinstance(module, LoraLayer)}
        for name, adapter in zip(self.names, adapters, strict=True):
            for path, layer in layers.items():
                if name not in layer.lora_A:
                    layer.update_layer(name, rank, lora_alpha=rank, config=lora)
                number, projection = path.split(".layers.")[1].split(".", 1)
                factors = adapter.factors[int(number), projection]
                layer.lora_A[name].weight = torch.nn.Parameter(factors.down, requires_grad=False)
                layer.lora_B[name].weight = torch.nn.Parameter(factors.up * factors.scaling, requires_grad=False)
        self.model.eval()

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor, steps: int, *, mixed: bool) -> tuple[list[float], list[list[int]]]:
        """Prefill ``tokens`` ``[rows, n]`` and decode greedily; return the seconds of each step and the tokens."""
        how: dict[str, Any] = {"adapter_names": self.names if mixed else ["__base__"] * len(tokens)}
        if not mixed:
            how = {}
            self.model.base_model.disable_adapter_layers()
        output = self.model(tokens, use_cache=True, logits_to_keep=1, **how)
        chosen, seconds = [output.logits[:, -1].argmax(-1)], []
        for _ in range(steps):
            start = time.perf_counter()
            output = self.model(chosen[-1].unsqueeze(1), past_key_values=output.past_key_values, use_cache=True, **how)
            chosen.append(output.logits[:, -1].argmax(-1))
            seconds.append(time.perf_counter() - start)
        if not mixed:
            self.model.base_model.enable_adapter_layers()
        return seconds, torch.stack(chosen, 1).tolist()

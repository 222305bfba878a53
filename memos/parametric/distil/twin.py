"""A twin of the model that serves, to train on: modules of its own around the same weights.

The serving model is never touched. The twin's modules, their hooks and its attention are its own objects; all that both
share are the weight tensors, which nobody writes to: they need no gradient, optimisers never see them, and what is
trained lives in tensors beside them. So requests are answered meanwhile, and no second copy of the weights is made.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from memos.parametric.distil.trie import Packed
from memos.runtime.loading import LoadedModel


class Twin:
    """transformers' own modules and attention on the weights of a loaded model, differentiable."""

    def __init__(self, loaded: LoadedModel) -> None:
        config = deepcopy(loaded.model.config)
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model: Any = type(loaded.model)(config)
        model.load_state_dict(loaded.model.state_dict(), assign=True)
        inner = model.base_model
        inner.rotary_emb = type(inner.rotary_emb)(config)  # its buffers are in no state dict
        self.model = model.eval().requires_grad_(False).to(loaded.device)
        self.config = config
        self.device = loaded.device
        self.dtype = loaded.shape.torch_dtype

    def hidden(self, packed: Packed, past: Any = None, before: int = 0) -> torch.Tensor:
        """Return the last hidden states ``[T, hidden]`` of packed sequences, behind ``before`` cached tokens.

        ``past`` is their cache as transformers takes it, every row of which all of them see.
        """
        visible = packed.visible.to(self.device)
        if before:
            visible = torch.cat([visible.new_ones(len(visible), before), visible], 1)
        output = self.model.base_model(
            input_ids=packed.tokens[None].to(self.device),
            position_ids=packed.positions[None].to(self.device) + before,
            attention_mask=visible[None, None],
            past_key_values=past,
            use_cache=past is not None,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def log_probabilities(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 log probabilities ``[n, vocabulary]`` of the token after each of some hidden states."""
        return torch.log_softmax(self.model.get_output_embeddings()(hidden).float(), -1)

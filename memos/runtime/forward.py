"""One forward of unmodified transformers modules over packed tokens."""

from __future__ import annotations

import torch

from memos.runtime.batch import Batch
from memos.runtime.hooks import running
from memos.runtime.loading import LoadedModel


@torch.inference_mode()
def hidden_states(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    """Run the next tokens of some sequences, writing their caches.

    Returns the last hidden states ``[T, hidden]``. The sequences are not advanced: until they are, running the same
    parts again writes the same places.
    """
    with running(batch):
        output = loaded.model.base_model(
            input_ids=torch.tensor([batch.tokens], device=loaded.device),
            position_ids=torch.tensor([batch.positions], device=loaded.device),
            use_cache=False,
            packed=batch,
        )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


@torch.inference_mode()
def logits_of(loaded: LoadedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return float32 logits ``[n, vocabulary]`` of some rows ``[n, hidden]``, in host memory."""
    head = loaded.model.get_output_embeddings()
    logits: torch.Tensor = head(hidden)
    return logits.float().cpu()

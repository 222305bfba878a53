"""An adapter that is made already, on a twin: to be examined as one that was just trained is."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from memos.parametric.adapter import Adapter
from memos.parametric.distil.trie import Packed
from memos.parametric.distil.twin import Twin
from memos.parametric.naming import module_name


class Graduate:
    """A model with an adapter, of which nothing is trained: ``W x + scaling * up @ (down @ x)`` in float32."""

    def __init__(self, twin: Twin, adapter: Adapter) -> None:
        self.twin = twin
        self._on = False
        for place, one in adapter.sorted():
            linear: Any = twin.model.get_submodule(module_name(*place))
            down, up = (side.to(twin.device).float() for side in (one.down, one.up))
            linear.register_forward_hook(partial(self._add, down, one.scaling * up))

    def hidden(self, packed: Packed) -> torch.Tensor:
        """Run the model with the adapter."""
        self._on = True
        try:
            return self.twin.hidden(packed)
        finally:
            self._on = False

    def base_hidden(self, packed: Packed) -> torch.Tensor:
        """Run the bare model."""
        return self.twin.hidden(packed)

    def _add(
        self,
        down: torch.Tensor,
        up: torch.Tensor,
        module: torch.nn.Module,
        inputs: tuple[torch.Tensor, ...],
        output: torch.Tensor,
    ) -> torch.Tensor | None:
        if not self._on:
            return None
        return output + ((inputs[0].float() @ down.T) @ up.T).to(output.dtype)

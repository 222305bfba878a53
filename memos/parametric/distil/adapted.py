"""A twin with an adapter that can be left out: ``W x + B A x`` beside every chosen projection, W as it is."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from memos.parametric.distil.trie import Packed
from memos.parametric.distil.twin import Twin
from memos.parametric.naming import module_name


class AdaptedTwin:
    """The model with and without what was added to it. The products of the adapter are float32."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self._on = False

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

    def add(self, place: tuple[int, str], down: torch.Tensor, up: torch.Tensor) -> None:
        """Add ``up @ (down @ x)`` to the projection at a place, float32 ``[rank, in]`` and ``[out, rank]``."""
        linear: Any = self.twin.model.get_submodule(module_name(*place))
        linear.register_forward_hook(partial(self._add, down, up))

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

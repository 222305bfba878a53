"""What is trained: an adapter or a cartridge, beside a model that does not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from memos.parametric.checks import Trained
from memos.parametric.distil.examples import Lesson
from memos.parametric.distil.trie import Packed
from memos.parametric.distil.twin import Twin


class Examined(Protocol):
    """What the gate needs of what was trained."""

    twin: Twin

    def hidden(self, packed: Packed) -> torch.Tensor:
        """Return the last hidden states ``[T, hidden]`` of the model with what is trained."""

    def base_hidden(self, packed: Packed) -> torch.Tensor:
        """Return those of the bare model."""


class Student(Examined, Protocol):
    """What the trainer and the checkpoint need besides.

    ``parameters`` are float32 leaves by name, whatever the model's dtype; ``rate`` is their learning rate.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    rate: float

    def begin(self, lesson: Lesson) -> None:
        """Set the parameters to where training starts from."""

    def finish(self) -> Trained:
        """Round the parameters to the model's dtype, in which they are served, and return what they are."""

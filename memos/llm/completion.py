"""What a structured answer needs of a language model, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Spent:
    """What answers cost: calls, tokens, and money in the currency of the configured prices."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )

    def __sub__(self, other: Spent) -> Spent:
        return self + Spent(-other.calls, -other.prompt_tokens, -other.completion_tokens, -other.cost)


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer as it came, and what it cost; ``whole`` is false where it was cut short."""

    text: str
    spent: Spent
    whole: bool = True


class Completer(Protocol):
    """Answers a conversation with JSON of a schema, as far as the model keeps to it."""

    @property
    def name(self) -> str:
        """How provenance names the model."""

    def complete(self, messages: Messages, schema: Mapping[str, Any]) -> Completion:
        """Return the answer. Raises :class:`memos.errors.ModelUnavailable`."""

    def close(self) -> None:
        """Close what is open."""

"""How memories are trained in: every hyperparameter, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from memos.errors import InvalidInput

PAYLOADS = ("lora", "cartridge")
#: Smallest and largest value of each number that can be chosen.
_RANGES: dict[str, tuple[float, float]] = {
    "facts": (1, 512),
    "rank": (1, 256),
    "skip": (0, 0.9),
    "tokens": (2, 4_096),
    "epochs": (1, 1_000),
    "least_steps": (1, 100_000),
    "ways": (1, 64),
    "batch": (1, 256),
    "rate": (1e-6, 1.0),
    "cartridge_rate": (1e-6, 1.0),
    "with_text": (0, 1),
    "teacher": (0, 1),
    "top_k": (1, 1_024),
    "preserve": (0, 1_000),
    "distinguish": (0, 1_000),
    "preserved": (0, 64),
    "questions": (0, 64),
    "strangers": (0, 64),
    "ridge": (1e-6, 1e3),
    "stop_loss": (0, 10),
    "patience": (1, 1_000),
    "seed": (0, 2**31),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters.

    payload      ``lora`` or ``cartridge``
    facts        that are trained into one adapter at most, unless one memory holds more; others go into further ones
    rank         of the adapter, which changes the feed-forward projections; its scaling is 1
    skip         share of the layers, from the first on, that it leaves as they are
    tokens       length of the cartridge
    epochs       passes over the facts; more of them where that makes fewer than ``least_steps`` steps
    ways         questions about each fact in an epoch; the next epoch asks the next ones
    batch        examples in a step
    rate         AdamW's learning rate, which falls to a tenth over the epochs; ``cartridge_rate`` is a cartridge's
    with_text    share of the questions that are also trained with the note in the prompt
    teacher      weight of context distillation; the answer tokens' own loss has the rest
    top_k        logits kept of a teacher, the likeliest
    preserve     weight of the divergence from the base on generic text, and of that on generic questions
    preserved    passages and exchanges of generic text in a step; ``questions`` is the number of generic questions
    distinguish  weight of the divergence from the base on questions about people who do not exist
    strangers    such questions in a step
    ridge        how much the adapter may read of generic text (:mod:`memos.parametric.distil.keys`)
    stop_loss    after ``least_steps``, training ends when an epoch's mean loss is below, in nats per token, with every
                 answer right
    patience     ... or when this many epochs made it no better
    seed         of all that is random
    """

    payload: str = "lora"
    facts: int = 8
    rank: int = 8
    skip: float = 0.2
    tokens: int = 32
    epochs: int = 5
    least_steps: int = 40
    ways: int = 5
    batch: int = 4
    rate: float = 2.5e-3
    cartridge_rate: float = 2e-2
    with_text: float = 0.125
    teacher: float = 0.0
    top_k: int = 16
    preserve: float = 8.0
    preserved: int = 1
    distinguish: float = 0.5
    questions: int = 3
    strangers: int = 1
    ridge: float = 0.1
    stop_loss: float = 0.02
    patience: int = 2
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Recipe:
        """Return the recipe with some of its values chosen. Raises :class:`InvalidInput`."""
        known = {field.name: field.type for field in fields(cls)}
        for name, value in options.items():
            if name not in known:
                raise InvalidInput(f"training has no option {name!r}; there are: {', '.join(known)}")
            _check(name, str(known[name]), value)
        return cls(**options)

    @property
    def plain(self) -> dict[str, Any]:
        """The recipe as plain data."""
        return asdict(self)


def _check(name: str, kind: str, value: Any) -> None:
    if name == "payload":
        if value not in PAYLOADS:
            raise InvalidInput(f"payload must be one of {', '.join(PAYLOADS)}, not {value!r}")
        return
    right = isinstance(value, int) if kind == "int" else isinstance(value, int | float)
    low, high = _RANGES[name]
    if not right or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{name} must be {'a whole number' if kind == 'int' else 'a number'} within {low} to {high}")

"""Whether a model may be served blended prompts: measured once per model, on texts that come with this package.

Blending is no theorem: a model may look at its early tokens, or rotate its keys, in a way that composed caches garble.
So before the first blended prompt, texts are composed and continued, and compared with a full prefill. On other texts
the model's drift is measured meanwhile. Both go on record, under the model's fingerprint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import torch

from memos.activation.compose.base import Stage
from memos.activation.compose.blend import Blend
from memos.activation.compose.drift import Drift, DriftMeter
from memos.activation.compose.moving import frequencies_of
from memos.activation.compose.parts import Part, Parts
from memos.activation.kv import KVBlock
from memos.runtime.host import Serving

#: What blending may cost at :data:`RATIO`: nats per token of the continuation, and how often the likeliest token stays.
MAX_DIVERGENCE, MIN_AGREEMENT = 0.1, 0.8
RATIO = 0.15
#: Prompts that the drift is measured on, stretches of text that blending is checked on; parts of each, their tokens.
MEASURED, CHECKED, PARTS, PART_TOKENS = 3, 2, 5, 160
CONTINUATION = 48
#: How the parts of a prompt begin that the drift is measured on: as memories do.
DATED = "[2025-05-01] "


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: KL(full ‖ blended) in nats, the share of equal likeliest tokens, and the drift."""

    divergence: float
    agreement: float
    drift: Drift

    @property
    def refusal(self) -> str | None:
        """Why the model is not served blended prompts; None if it is."""
        if not (math.isfinite(self.divergence) and bool(self.drift.mean.isfinite().all())):
            return "composed caches make it compute values that are not finite"
        if self.divergence > MAX_DIVERGENCE:
            return f"blending costs {self.divergence:.3f} nats per token, more than {MAX_DIVERGENCE}"
        if self.agreement < MIN_AGREEMENT:
            share = f"{self.agreement:.0%}, not {MIN_AGREEMENT:.0%}"
            return f"blended, its likeliest token stays the same in {share} of places"
        return None


def check_model(serving: Serving) -> Checked:
    """Measure a model's drift and what blending costs it: about half a minute on two cores for a small model.

    Raises :class:`ModelUnsupported` for a model whose keys cannot be moved by turning them, ``PromptTooLong`` where the
    texts do not fit its window.
    """
    frequencies = frequencies_of(serving.loaded)
    text = serving.format.encode_text(files("memos.demo").joinpath("alice.txt").read_text())
    meter = DriftMeter(serving.loaded.shape, frequencies)
    for prompt in range(MEASURED):
        _measure(serving, _apart(serving, text, prompt), meter)
    drift = meter.drift()
    found = [_compared(serving, *_window(serving, text, number), drift) for number in range(CHECKED)]
    divergence, agreement = (sum(one) / len(found) for one in zip(*found, strict=True))
    return Checked(divergence, agreement, drift)


def _apart(serving: Serving, text: Sequence[int], prompt: int) -> Parts:
    """Return dated parts from all over a text, in no order, as memories are: none goes on where another ends."""
    before, after = serving.format.encode_text(DATED), serving.format.encode_text("\n")
    length = PART_TOKENS - len(before) - len(after)
    pieces = []
    for number in range(PARTS):
        place = (prompt * PARTS + number) * 7 % (MEASURED * PARTS)
        first = (len(text) - length) * place // (MEASURED * PARTS)
        pieces.append((*before, *text[first : first + length], *after))
    return _alone(serving, pieces)


def _window(serving: Serving, text: Sequence[int], number: int) -> tuple[Parts, Sequence[int]]:
    """Return a stretch of text in parts, and how it goes on."""
    length = PARTS * PART_TOKENS + CONTINUATION
    first = (len(text) - length) * (number + 1) // (CHECKED + 1)
    window = text[first : first + length]
    pieces = [window[start : start + PART_TOKENS] for start in range(0, length - CONTINUATION, PART_TOKENS)]
    return _alone(serving, pieces), window[-CONTINUATION:]


def _alone(serving: Serving, pieces: Sequence[Sequence[int]]) -> Parts:
    """Return parts, each cached behind the head alone."""
    head = serving.format.head
    parts = [
        Part(str(number), tuple(piece), serving.runtime.prefill((*head, *piece)), serving.fingerprint)
        for number, piece in enumerate(pieces)
    ]
    return Parts(head, tuple(parts))


def _measure(serving: Serving, parts: Parts, meter: DriftMeter) -> None:
    whole = serving.runtime.prefill(parts.tokens)
    for part, span in parts.moved():
        if isinstance(part.kv, KVBlock):
            meter.add(whole, span.first, part.kv, len(parts.head))


def _compared(serving: Serving, parts: Parts, then: Sequence[int], drift: Drift) -> tuple[float, float]:
    """Return the divergence of a blended prompt's continuation, and how often its likeliest token is the same."""
    blended = Blend(RATIO).compose(Stage(serving.loaded, serving.runtime, drift), parts, ())
    tokens = [*parts.tokens, *then]
    whole = serving.runtime.prefill(parts.tokens)
    exact, other = (torch.log_softmax(serving.runtime.logits(tokens, kv), -1) for kv in (whole, blended.kv))
    divergence = (exact.exp() * (exact - other)).sum(-1).mean()
    return float(divergence), float((exact.argmax(-1) == other.argmax(-1)).float().mean())

"""The modes by name, and composing with what was checked."""

from __future__ import annotations

from collections.abc import Sequence

from memos.activation.compose.ape import Ape
from memos.activation.compose.base import Composed, Mode, Stage
from memos.activation.compose.blend import Blend
from memos.activation.compose.concat import Concat
from memos.activation.compose.craft import Craft
from memos.activation.compose.names import check_mode
from memos.activation.compose.parts import Parts, check_parts

MODES: dict[str, type[Mode]] = {mode.name: mode for mode in (Ape, Blend, Concat, Craft)}


def make_mode(name: str, ratio: float) -> Mode:
    """Return a mode. Raises :class:`CompositionRefused` for one that there is not, or a ratio outside 0 to 1."""
    return MODES[check_mode(name)](ratio)


def compose(stage: Stage, mode: Mode, parts: Parts, question: Sequence[int] = ()) -> Composed:
    """Return the cache of parts in one prompt.

    Raises:
        CompositionRefused, PromptTooLong: as :func:`~memos.activation.compose.parts.check_parts`, before any work.
        ModelUnsupported: keys of the model cannot be moved.
        KVMiss: a part cannot be read.
        StoreClosed: the model was closed.
    """
    loaded = stage.loaded
    check_parts(parts, loaded.identity.fingerprint, loaded.shape, loaded.context_window - 1)
    return mode.compose(stage, parts, question)

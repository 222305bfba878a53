"""The modes by name, for what must not load torch."""

from __future__ import annotations

from memos.errors import CompositionRefused

#: One cache, exact, and everything behind it computed.
PREFIX = "prefix"
#: Whatever costs least.
AUTO = "auto"
CONCAT, BLEND, APE, CRAFT = "concat", "blend", "ape", "craft"
MODE_NAMES = (PREFIX, CONCAT, BLEND, APE, CRAFT)


def check_mode(name: object) -> str:
    """Return the name of a mode. Raises :class:`CompositionRefused` for one that there is not."""
    if not isinstance(name, str) or name not in MODE_NAMES:
        raise CompositionRefused(f"mode must be one of {', '.join(MODE_NAMES)}, not {name!r}")
    return name


def check_choice(name: object) -> str:
    """Return the name of a mode, or :data:`AUTO`. Raises :class:`CompositionRefused` for anything else."""
    return AUTO if name == AUTO else check_mode(name)


def check_ratio(ratio: float) -> float:
    """Return a share of tokens. Raises :class:`CompositionRefused` outside 0 to 1."""
    if not 0 <= ratio <= 1:
        raise CompositionRefused(f"the ratio of recomputed tokens must be from 0 to 1, not {ratio!r}")
    return float(ratio)

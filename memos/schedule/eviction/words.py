"""Numbers as the reasons of an eviction give them."""

from __future__ import annotations


def lasting(seconds: float) -> str:
    """Return a time span, such as ``3.2 h``."""
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def times(uses: float) -> str:
    """Return how often something was used, such as ``used once`` or ``used 2.5 times``."""
    return "used once" if uses == 1 else f"used {uses:.3g} times"


def size(count: int) -> str:
    """Return a number of bytes, such as ``24.7 MB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"

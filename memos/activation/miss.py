"""Why a KV file cannot be used. Never an error for a caller: the tokens are computed again."""

from __future__ import annotations


class KVMiss(Exception):
    """A KV file that is not used, with a short stable ``reason`` and a ``message`` for people.

    =============  ==================================================
    absent         there is no such file
    io             it cannot be opened or read
    truncated      it is shorter than its header says
    format         it is not a container of this version
    seal           the header is not what this tenant's secret sealed
    key            it was sealed under another key: swapped or renamed
    fingerprint    it was made by another model, or for another shape
    sources        it was made from other note versions
    tokens         it is a cache of other tokens
    checksum       a tensor is not what was written
    codec          its codec is unknown or cannot decode it
    =============  ==================================================
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

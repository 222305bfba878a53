"""Blocks of prompts that are computed already: found by content, shared by any number of requests.

A block's key chains the tokens before it, the adapters and cartridge they ran with, by content, and whose they are. So
the cache of one adapter is never served for another, whatever they are called, nor one user's to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from memos.runtime.pool import PAGE_TOKENS


def block_keys(tokens: Sequence[int], root: Iterable[str]) -> list[bytes]:
    """Return the keys of all whole blocks of 16 tokens. ``root`` names all that decides their cache besides tokens."""
    before = hashlib.blake2b(repr(tuple(root)).encode(), digest_size=16).digest()
    ids = np.asarray(tokens, np.int32)
    keys = []
    for start in range(0, len(ids) - PAGE_TOKENS + 1, PAGE_TOKENS):
        before = hashlib.blake2b(before + ids[start : start + PAGE_TOKENS].tobytes(), digest_size=16).digest()
        keys.append(before)
    return keys

"""Keys of the blocks of prompts: equal as far as the prompts are, and all that decides their cache is."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.activation.kv import KVBlock, KVShape
from memos.parametric.adapter import Adapter
from memos.runtime.pool import PAGE_TOKENS
from memos.runtime.prompts import block_keys
from memos.runtime.request import Job
from memos.runtime.sequence import Sequence
from memos.runtime.uses import AdapterUse, Cartridge

SHAPE = KVShape(1, 1, 2, "float32")
PROMPT = list(range(40))


def unread() -> Adapter:
    raise AssertionError("a key needs no adapter")


def untrained() -> KVBlock:
    raise AssertionError("a key needs no cartridge")


def use(digest: str, weight: float = 1.0) -> AdapterUse:
    return AdapterUse(digest, unread, weight)


def cartridge(digest: str, tokens: int = 3) -> Cartridge:
    return Cartridge(digest, tokens, untrained)


@given(st.lists(st.integers(0, 3), max_size=70), st.lists(st.integers(0, 3), max_size=70), st.integers(0, 70))
def test_keys_agree_as_far_as_whole_blocks_do(one: list[int], other: list[int], common: int) -> None:
    other = [*one[:common], *other]
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    first, second = block_keys(one, ["root"]), block_keys(other, ["root"])
    assert (len(first), len(second)) == (len(one) // PAGE_TOKENS, len(other) // PAGE_TOKENS)
    whole = alike // PAGE_TOKENS
    assert first[:whole] == second[:whole]
    assert not set(first[whole:]) & set(second[whole:])


def test_equal_blocks_in_other_places_have_other_keys() -> None:
    assert len(set(block_keys([5] * 160, ["root"]))) == 10


@pytest.mark.parametrize("root", [["ab"], ["b", "a"], ["a"], ["a", "b", ""], ["a\0b"], ["a', 'b"], [], ["\ud800"]])
def test_root_separates(root: list[str]) -> None:
    assert block_keys(PROMPT, root)[0] != block_keys(PROMPT, ["a", "b"])[0]


def test_whatever_decides_the_cache_separates() -> None:
    kinds: list[dict[str, object]] = [
        {},
        {"owner": "t\0u"},
        {"owner": "t\0v"},
        {"owner": "s\0u"},
        {"adapters": (use("x"),)},
        {"adapters": (use("y"),)},
        {"adapters": (use("x", 0.5),)},
        {"adapters": (use("x"), use("y"))},
        {"owner": "t\0u", "adapters": (use("x"),)},
        {"cartridge": cartridge("x")},
        {"cartridge": cartridge("y")},
        {"cartridge": cartridge("x"), "adapters": (use("x"),)},
    ]
    jobs = [Job(Sequence(PROMPT, SHAPE), share=True, **kind) for kind in kinds]  # type: ignore[arg-type]
    assert [len(job.blocks) for job in jobs] == [2] * len(kinds)
    assert len({key for job in jobs for key in job.blocks}) == 2 * len(kinds)
    again = [Job(Sequence(PROMPT, SHAPE), share=True, **kind) for kind in kinds]  # type: ignore[arg-type]
    assert [job.blocks for job in again] == [job.blocks for job in jobs]


def test_prompt_that_shares_nothing_has_no_keys() -> None:
    assert Job(Sequence(PROMPT, SHAPE)).blocks == []
    assert block_keys(PROMPT[:15], ["root"]) == []

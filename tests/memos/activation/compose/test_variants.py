"""Variants as they are kept: whose, how many, which go, and what takes them along."""

from __future__ import annotations

from collections.abc import Collection

import torch

from memos.activation.compose.scores import Paid
from memos.activation.compose.variants import EACH, OwnVariants, Variant, Variants
from memos.activation.hot import HotFiles
from memos.activation.kv import KVBlock, KVShape
from memos.store.lineage import Source

SHAPE = KVShape(layers=2, heads=2, head_dim=8, dtype="float32")
ANN, BOB = "default\0ann", "default\0bob"


def variant(bundle: str, *context: str, ghost: str | None = None) -> Variant:
    """A bundle behind others, one of which once stood behind a ``ghost``."""
    within = {bundle, *context} | ({ghost} if ghost is not None else set())
    return Variant(
        bundle=bundle,
        context=context,
        first=9,
        kv=KVBlock(SHAPE, torch.zeros(SHAPE.empty(5).shape)),
        paid=Paid(torch.ones(5, len(context)), torch.ones(5), (5,) * len(context)),
        bundles=frozenset(within),
        sources=frozenset((f"note-{one}", 1) for one in within),
    )


SIZE = variant("a", "x").bytes


def room(count: int) -> Variants:
    """Room for so many variants behind one bundle."""
    return Variants(HotFiles(2 * count * SIZE))


def test_variants_of_a_bundle_are_bounded_and_the_least_useful_goes() -> None:
    variants = room(100)
    made = [variant("a", f"x{number}") for number in range(EACH)]
    for one in made:
        variants.put(ANN, one)
    variants.count(ANN, made[0], 0.5)
    variants.count(ANN, made[1], 0.0)  # served as it is: worth more than one that had to be mended
    for number in range(2 * EACH):
        variants.put(ANN, variant("a", f"y{number}"))
    kept = variants.of(ANN, ["a"])
    assert len(kept) == EACH
    assert made[1] in kept
    assert made[0] not in kept
    assert variants.bytes == EACH * SIZE


def test_bytes_are_bounded_and_taken_from_the_room_for_caches() -> None:
    hot = HotFiles(6 * SIZE)
    variants = Variants(hot)
    for bundle in "abcde":
        variants.put(ANN, variant(bundle, "x"))
        assert variants.bytes == hot.bytes <= 3 * SIZE
    assert len(variants.of(ANN, "abcde")) == 3
    assert variants.of(ANN, "e")  # what was just made stays
    variants.drop_all()
    assert (variants.bytes, hot.bytes, variants.of(ANN, "abcde")) == (0, 0, [])


def test_one_larger_than_the_room_is_not_kept() -> None:
    variants = Variants(HotFiles(SIZE))
    variants.put(ANN, variant("a", "x"))
    assert (variants.of(ANN, "a"), variants.bytes) == ([], 0)


def test_what_was_useful_long_ago_goes_in_the_end() -> None:
    variants, old = room(2), variant("a", "x")
    variants.put(ANN, old)
    variants.count(ANN, old, 1.0)
    for number in range(6):
        variants.put(ANN, variant(f"b{number}", "x"))
    assert variants.of(ANN, "a") == []


def test_newer_variant_of_the_same_context_takes_the_place_of_the_older() -> None:
    variants, newer = room(9), variant("a", "x")
    variants.put(ANN, variant("a", "x"))
    variants.put(ANN, newer)
    assert variants.of(ANN, "a") == [newer]
    assert variants.bytes == SIZE


def test_forgetting_a_bundle_takes_along_all_that_depends_on_it() -> None:
    variants = room(9)
    stays = variant("a", "x")
    for one in (variant("a", "y", "b"), stays, variant("b", "x"), variant("a", "z", ghost="b")):
        variants.put(ANN, one)
    variants.forget(["b"])
    assert variants.of(ANN, "ab") == [stays]
    assert variants.bytes == SIZE


def test_nobody_sees_the_variants_of_another() -> None:
    variants = room(9)
    variants.put(ANN, variant("a", "x"))
    assert OwnVariants(variants, BOB, list).of("a") == []
    assert len(OwnVariants(variants, ANN, list).of("a")) == 1


def test_variant_with_a_note_that_does_not_stand_is_not_served() -> None:
    variants, stays = room(9), variant("a", "x")

    def live(sources: Collection[Source]) -> set[Source]:
        return set(sources) - {("note-b", 1)}

    for one in (stays, variant("a", "b"), variant("a", "y", ghost="b")):
        variants.put(ANN, one)
    assert OwnVariants(variants, ANN, live).of("a") == [stays]


def test_variant_of_a_note_forgotten_meanwhile_is_not_kept() -> None:
    variants = room(9)
    OwnVariants(variants, ANN, lambda sources: ()).put([variant("a", "x")])
    assert (variants.of(ANN, "a"), variants.bytes) == ([], 0)

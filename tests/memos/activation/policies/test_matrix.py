"""Every policy on every model: what is kept, what it weighs, and that it can be gone on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from memos.activation.codecs.registry import make_codec
from memos.activation.kv import KVShape
from memos.activation.layered import RaggedKV
from memos.activation.loader import load
from memos.activation.loss import decode, measured_loss
from memos.activation.miss import KVMiss
from memos.activation.policies import MERGERS, POLICIES
from memos.activation.ragged import RaggedBlock
from memos.errors import InvalidInput
from memos.runtime.families import FAMILIES
from memos.runtime.loop import Request

if TYPE_CHECKING:
    from memos.activation.codecs.base import Encoded

pytestmark = pytest.mark.timeout(300)  # the first test loads the model

MODELS = ("bundled", *FAMILIES)
CHAINS = ("snapkv:0.5+d2o", "cake:0.5+transform", "razor:0.5+int4", "ems:0.3+pca:0.5+int8", "chelsea:0.4+zipcache")
MERGING = {"chelsea", "d2o", "elastic", "ems", "kvmerger", "razor"}

Prompts = Callable[[str], Any]


def ragged(prompt: Any, spec: str) -> tuple[Encoded, RaggedBlock]:
    codec = make_codec(spec)
    encoded = codec.encode(prompt.kv)
    block = decode(prompt.kv, codec, encoded)
    assert isinstance(block, RaggedBlock)
    return encoded, block


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_share_is_kept_and_weighed(prompts: Prompts, name: str, model: str) -> None:
    prompt = prompts(model)
    shape, tokens, before = prompt.kv.shape, prompt.kv.tokens, prompt.kv.data.clone()
    for ratio in (0.5, 0.2):
        encoded, block = ragged(prompt, f"{name}:{ratio}")
        entries = round(ratio * tokens) * shape.layers * shape.heads
        assert block.layout.entries == entries
        assert block.layout.lengths.min() >= 1
        payload = 2 * shape.head_dim * 4 * entries
        assert sum(part.nbytes for part in block.data) == payload
        assert (
            payload
            <= encoded.bytes
            <= payload
            + shape.layers * (shape.heads * tokens // 8 + 4 + shape.heads)
            + (2 * entries + 64 if name in MERGING else 0)
        )
        assert block.tokens == tokens
        logits = prompt.runtime.logits(prompt.tokens, block)
        assert logits.shape[0] == len(prompt.tokens) - tokens
        assert logits.isfinite().all()
    assert torch.equal(prompt.kv.data, before)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_what_is_kept_stays_itself_at_its_position(prompt: Any, name: str) -> None:
    _, block = ragged(prompt, f"{name}:0.5")
    counts = block.layout.counts
    start = 0
    for index, data in enumerate(block.data):
        kept = torch.from_numpy(block.layout.kept[index])
        same = (data == prompt.kv.data[index][:, kept]).all(-1).all(0)
        alone = torch.ones(len(same), dtype=torch.bool)
        if counts is not None:
            alone = torch.from_numpy(counts[start : start + len(same)].astype(np.int64) == 1)
        assert same[alone].all()
        assert counts is not None or same.all()
        start += len(same)


@pytest.mark.parametrize("name", ["chelsea", "elastic", "kvmerger", "razor"])
def test_merging_everything_loses_no_count(prompt: Any, name: str) -> None:
    _, block = ragged(prompt, f"{name}:0.5,read=0")
    counts = block.layout.counts
    assert counts is not None
    lost = 0 if name != "elastic" else counts.sum() // 4  # what is nearest to a sink is dropped
    everything = prompt.kv.shape.layers * prompt.kv.shape.heads * prompt.kv.tokens
    assert everything - lost <= counts.sum() <= everything


@pytest.mark.parametrize("spec", [*(f"{name}:0.3" for name in sorted(POLICIES)), *CHAINS])
def test_same_cache_gives_same_bytes(prompt: Any, spec: str) -> None:
    first, second = (make_codec(make_codec(spec).spec).encode(prompt.kv) for _ in range(2))
    assert first.shared.keys() == second.shared.keys()
    for one, other in zip((first.shared, *first.layers), (second.shared, *second.layers), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_ratio_1_is_the_identity(name: str) -> None:
    assert make_codec(f"{name}:1").spec == "raw"
    assert make_codec(f"{name}:1.0+pca:1+int4:group=32").spec == "int4:group=32"


@pytest.mark.parametrize("model", MODELS)
def test_all_entries_in_ragged_form_say_what_the_cache_does(prompts: Prompts, model: str) -> None:
    prompt = prompts(model)
    _, block = ragged(prompt, "keydiff:0.999")
    assert block.layout.kept.all()
    exact = prompt.runtime.logits(prompt.tokens, prompt.kv)
    assert torch.allclose(prompt.runtime.logits(prompt.tokens, block), exact, atol=1e-4)


@pytest.mark.parametrize("spec", [*(f"{name}:0.5" for name in sorted(POLICIES)), *CHAINS])
def test_saved_and_loaded_it_is_as_small_and_the_same(prompt: Any, cabinet: Any, spec: str) -> None:
    codec = make_codec(spec)
    encoded = codec.encode(prompt.kv)
    draft = cabinet.draft(tokens=prompt.kv.tokens, shape=prompt.kv.shape)
    draft = type(draft)(prompt.kv, type(draft.header)(**fields(draft.header) | {"codec": codec.spec}), encoded)
    published = cabinet.publish(draft)
    assert encoded.bytes <= published.bytes <= encoded.bytes + 3_000 + 400 * sum(map(len, encoded.layers))
    loaded = load(cabinet.open(draft))
    assert isinstance(loaded, RaggedKV)
    block, again = decode(prompt.kv, codec, encoded), loaded.ragged()
    assert isinstance(block, RaggedBlock)
    assert loaded.bytes == block.bytes < 0.6 * prompt.kv.data.nbytes
    assert all(torch.equal(one, other) for one, other in zip(block.data, again.data, strict=True))
    with pytest.raises(KVMiss):
        loaded.layer(0)
    request = Request(tuple(prompt.tokens), prefix=loaded, max_tokens=4)
    answer = prompt.runtime.generate(request).finish()
    assert answer.reused_tokens == prompt.kv.tokens
    assert torch.equal(prompt.runtime.logits(prompt.tokens, loaded), prompt.runtime.logits(prompt.tokens, block))


def fields(header: Any) -> dict[str, Any]:
    return {name: getattr(header, name) for name in header.__dataclass_fields__}


@pytest.mark.parametrize("spec", ["keydiff:0.5", *CHAINS])
def test_loss_is_measured(prompt: Any, spec: str) -> None:
    codec = make_codec(spec)
    tokens = prompt.tokens[: prompt.kv.tokens]
    loss = measured_loss(prompt.runtime, tokens, prompt.kv, codec, codec.encode(prompt.kv))
    assert 0 < loss < 10


@pytest.mark.parametrize(
    "spec",
    [
        "keydiff", "keydiff:", "keydiff:0", "keydiff:1.01", "keydiff:-0.5", "keydiff:nan", "keydiff:half",
        "keydiff:0.5+nothing", "keydiff:0.5,window=0", "keydiff:0.5,windows=2", "snapkv:0.5,kernel=4", "nothing:0.5",
        "cake:0.5,tau1=0", "cake:0.5,gamma=nan", "keydiff:0.5+keydiff:0.5", "chelsea:0.5+d2o", "d2o:0.5+d2o", "pca",
        "keydiff:0.5,read=1", "keydiff:0.5,read=-0.1", "keydiff:0.5,read=nan", "kvzip:0.5,read=0.5", "pca:0",
        "recent:0.5,read=0", "pca:2+int4", "int4+int4", "keydiff:0.5+d2o+elastic", "", "+", "keydiff:0.5+",
    ],
)  # fmt: skip
def test_what_is_no_chain_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput):
        make_codec(spec)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_what_was_not_noted_is_said_to_be_missing(prompt: Any, name: str) -> None:
    codec, kv = make_codec(f"{name}:0.5"), prompt.kv.first(50)
    if not codec.needs:
        assert codec.encode(kv).bytes > 0
        return
    with pytest.raises(ValueError, match="not noted"):
        codec.encode(kv)


def test_every_merger_stands_behind_a_selector(prompt: Any) -> None:
    for merger in MERGERS:
        _, block = ragged(prompt, f"keydiff:0.5+{merger}")
        assert block.layout.counts is not None


@pytest.mark.parametrize("tokens", [1, 2, 7])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_shortest_caches(prompt: Any, name: str, tokens: int) -> None:
    codec = make_codec(f"{name}:0.5")
    kv = prompt.runtime.prefill(prompt.tokens[:tokens], codec.needs)
    if "razor" in name:
        kv = replace(kv, seen=replace(kv.seen, copying=prompt.kv.seen.copying))
    block = decode(kv, codec, codec.encode(kv))
    assert isinstance(block, RaggedBlock)
    assert prompt.runtime.logits(prompt.tokens[: tokens + 2], block).isfinite().all()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("kept", np.zeros((1, 1, 1), np.uint8)),
        ("counts", np.zeros(4, np.uint8)),
        ("counts", np.zeros((2, 2), np.uint8)),
        ("counts", np.frombuffer(b"(\xb5/\xfd\x20\x02\x11\x00\x00\x00\x00", np.uint8)),
    ],
)
def test_damaged_layout_is_refused(prompt: Any, part: str, value: Any) -> None:
    codec = make_codec("elastic:0.5")
    encoded = codec.encode(prompt.kv)
    with pytest.raises(ValueError, match=r"count|kept"):
        codec.decoder(prompt.kv.shape, prompt.kv.tokens, {**encoded.shared, part: value}, {})


def test_layer_of_another_size_is_refused(prompt: Any) -> None:
    codec = make_codec("keydiff:0.5+int8")
    encoded = codec.encode(prompt.kv)
    decoder = codec.decoder(prompt.kv.shape, prompt.kv.tokens, encoded.shared, {})
    with pytest.raises(ValueError, match="fit"):
        decoder.decode(0, encoded.layers[0], KVShape(1, 1, 8, "float32").empty(3)[0])

"""From file to memory: right, in order, shared, and never more than what was written."""

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from memos.activation.buffers import PAGE, BufferPool, scratch
from memos.activation.codecs import registry
from memos.activation.hot import HotFiles
from memos.activation.kv import KVShape
from memos.activation.loader import load
from memos.activation.miss import KVMiss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memos.activation.codecs.base import Array, Encoded
    from memos.activation.layered import LayeredKV

EXACT = [name for name, make in registry.CODECS.items() if make().exact]
PARAMETERS = {"parts": 2, "ratio": 0.1}  # of the codec `odd`
SHAPE = KVShape(layers=5, heads=2, head_dim=16, dtype="bfloat16")


def bits(tensor: torch.Tensor) -> bytes:
    """Return what a tensor holds, NaN or not."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def loaded(cabinet: Any) -> Callable[..., LayeredKV]:
    """Publish a draft and begin to load it."""

    def publish_and_load(*args: Any, **kwargs: Any) -> LayeredKV:
        draft = cabinet.draft(*args, **kwargs)
        cabinet.publish(draft)
        return load(cabinet.open(draft))

    return publish_and_load


# ------------------------------------------------------------ exactness


@pytest.mark.parametrize("codec", [*EXACT, "odd"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tokens", [1, 7, 80])
def test_loaded_cache_is_the_published_one(cabinet: Any, codec: str, dtype: str, tokens: int) -> None:
    draft = cabinet.draft(3, tokens=tokens, codec=codec, shape=KVShape(3, 2, 16, dtype))
    cabinet.publish(draft)
    kv = load(cabinet.open(draft))
    assert (kv.shape, kv.tokens, kv.bytes) == (draft.kv.shape, tokens, draft.kv.data.nbytes)
    for layer in range(3):
        keys, values = kv.layer(layer)
        assert keys.shape == values.shape == (2, tokens, 16)
        assert bits(keys) == bits(draft.kv.data[layer, 0])
        assert bits(values) == bits(draft.kv.data[layer, 1])
    assert bits(kv.wait().data) == bits(draft.kv.data)


def test_load_says_where_time_went(loaded: Callable[..., LayeredKV]) -> None:
    kv = loaded(codec="odd", tokens=300)
    kv.wait()
    assert set(kv.milliseconds) == {"lookup", "read", "decode", "load"}
    assert all(value > 0 for value in kv.milliseconds.values())
    assert kv.file_bytes > kv.bytes


def test_raw_layers_are_read_into_place(loaded: Callable[..., LayeredKV]) -> None:
    """At the address, modulo pages, that they have in the file."""
    kv = loaded(tokens=64)
    data = kv.wait().data
    assert data.is_contiguous()
    assert data.data_ptr() % 64 == 0


# ------------------------------------------------------------ while it loads


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Make the codec ``odd`` call something with each layer's number before it decodes it."""

    def hook(before: Callable[[int], None]) -> None:
        make = registry.CODECS["odd"]
        kind = type(make().decoder(SHAPE, 1, {"mask": np.zeros(1, np.uint8), "scalar": np.array(2.5)}, PARAMETERS))
        decode = kind.decode

        def hooked(self: Any, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
            before(layer)
            decode(self, layer, parts, out)

        monkeypatch.setattr(kind, "decode", hooked)

    return hook


def test_early_layers_are_used_while_later_ones_load(
    cabinet: Any, decoded: Callable[[Callable[[int], None]], None]
) -> None:
    draft = cabinet.draft(codec="odd", shape=SHAPE)
    cabinet.publish(draft)
    go_on = threading.Event()
    decoded(lambda layer: None if layer < 2 else (go_on.wait(30), None)[1])
    kv = load(cabinet.open(draft))
    assert bits(kv.layer(0)[0]) == bits(draft.kv.data[0, 0])
    assert bits(kv.layer(1)[1]) == bits(draft.kv.data[1, 1])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(kv.wait)
        assert not waiting.done()
        go_on.set()
        assert bits(waiting.result().data) == bits(draft.kv.data)


def test_layers_arrive_in_order(cabinet: Any, decoded: Callable[[Callable[[int], None]], None]) -> None:
    draft = cabinet.draft(codec="odd", shape=KVShape(20, 1, 8, "float32"))
    cabinet.publish(draft)
    begun: list[tuple[int, int]] = []
    decoded(lambda layer: begun.append((threading.get_ident(), layer)))
    load(cabinet.open(draft)).wait()
    assert sorted(layer for _, layer in begun) == list(range(20))
    for thread in {thread for thread, _ in begun}:
        mine = [layer for each, layer in begun if each == thread]
        assert mine == sorted(mine)


def test_many_requests_read_one_cache(cabinet: Any) -> None:
    draft = cabinet.draft(codec="odd", shape=SHAPE, tokens=200)
    cabinet.publish(draft)
    kv = load(cabinet.open(draft))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda layer: bits(torch.stack(kv.layer(layer))), list(range(5)) * 4))
    assert read == [bits(layer) for layer in draft.kv.data] * 4


def test_file_may_go_while_it_is_loaded(cabinet: Any, decoded: Callable[[Callable[[int], None]], None]) -> None:
    draft, other = cabinet.draft(codec="odd", shape=SHAPE), cabinet.draft(9, codec="odd", shape=SHAPE)
    path, replacement = cabinet.publish(draft).path, cabinet.publish(other).path

    def swap(layer: int) -> None:
        if layer == 1:
            replacement.replace(path)

    decoded(swap)
    opened = cabinet.open(draft)
    assert bits(load(opened).wait().data) == bits(draft.kv.data)
    assert opened.file.closed
    assert cabinet.files.verify("alice", draft.header.key).startswith("key")


# ------------------------------------------------------------ what goes wrong


def damaged(cabinet: Any, draft: Any, layer: int) -> None:
    """Flip a bit of a layer of a published file."""
    path = cabinet.publish(draft).path
    with cabinet.open(draft) as opened:
        place = opened.layers[layer][0].start
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("codec", ["raw", "odd"])
def test_flipped_bit_is_a_miss_of_its_layer(cabinet: Any, codec: str) -> None:
    draft = cabinet.draft(codec=codec, shape=SHAPE)
    damaged(cabinet, draft, layer=3)
    kv = load(cabinet.open(draft))
    for attempt in (lambda: kv.layer(3), kv.wait, kv.wait):
        with pytest.raises(KVMiss, match=r"layer\.003") as miss:
            attempt()
        assert miss.value.reason == "checksum"
    assert kv.failure is not None


def test_change_after_opening_is_a_miss(cabinet: Any) -> None:
    draft = cabinet.draft(tokens=50)
    path = cabinet.publish(draft).path
    opened = cabinet.open(draft)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    with pytest.raises(KVMiss, match="checksum"):
        load(opened).wait()


def test_truncation_after_opening_is_a_miss(cabinet: Any) -> None:
    draft = cabinet.draft(tokens=50)
    path = cabinet.publish(draft).path
    opened = cabinet.open(draft)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(KVMiss, match="truncated"):
        load(opened).wait()


def test_failing_disk_is_a_miss(cabinet: Any, tmp_path: Any) -> None:
    """Reads that the system refuses, here because the file is open for writing only."""
    draft = cabinet.draft()
    cabinet.publish(draft)
    opened = cabinet.open(draft)
    handle = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, opened.file.fileno(), inheritable=False)
    os.close(handle)
    with pytest.raises(KVMiss, match="io"):
        load(opened).wait()


def test_unknown_codec_is_a_miss(cabinet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = cabinet.draft(codec="odd")
    cabinet.publish(draft)
    monkeypatch.delitem(registry.CODECS, "odd")
    opened = cabinet.open(draft)
    with pytest.raises(KVMiss, match="codec"):
        load(opened)
    assert opened.file.closed


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, IndexError, RuntimeError, ZeroDivisionError, NotImplementedError]
)
def test_decoder_that_fails_is_a_miss(
    cabinet: Any, decoded: Callable[[Callable[[int], None]], None], error: type[Exception]
) -> None:
    draft = cabinet.draft(codec="odd", shape=SHAPE)
    cabinet.publish(draft)

    def fail(layer: int) -> None:
        if layer == 2:
            raise error("no")

    decoded(fail)
    kv = load(cabinet.open(draft))
    with pytest.raises(KVMiss, match="codec"):
        kv.wait()


def test_decoder_that_fails_in_a_way_nobody_thought_of(
    cabinet: Any, decoded: Callable[[Callable[[int], None]], None]
) -> None:
    draft = cabinet.draft(codec="odd", shape=SHAPE)
    cabinet.publish(draft)

    def fail(layer: int) -> None:
        raise EOFError

    decoded(fail)
    kv = load(cabinet.open(draft))
    with pytest.raises(KVMiss, match="codec"):
        kv.wait()


@pytest.mark.parametrize("change", ["parameters", "part", "dtype", "size"])
def test_arrays_that_do_not_fit_the_codec(cabinet: Any, change: str) -> None:
    draft = cabinet.draft(codec="odd" if change == "parameters" else "raw")
    encoded: Encoded = draft.encoded
    parts = [dict(layer) for layer in encoded.layers]
    match change:
        case "parameters":
            encoded = replace(encoded, parameters={})
        case "part":
            parts[1] = {"other": parts[1]["kv"]}
        case "dtype":
            parts[1] = {"kv": parts[1]["kv"].astype(np.uint8)}
        case "size":
            parts[1] = {"kv": parts[1]["kv"][:1]}
    cabinet.publish(replace(draft, encoded=replace(encoded, layers=tuple(parts))))
    with pytest.raises(KVMiss, match="codec"):
        load(cabinet.open(draft)).wait()


# ------------------------------------------------------------ memory


def test_buffer_comes_back_when_nobody_holds_it() -> None:
    pool = BufferPool(1 << 20)
    memory = pool.take(10_000, 64)
    address = memory.ctypes.data
    assert address % PAGE == 64
    tensor = torch.from_numpy(memory).view(torch.float32).view(50, 50)[3:, 1]
    del memory
    gc.collect()
    assert pool.spare_bytes == 0
    tensor.fill_(1.0)
    del tensor
    assert pool.spare_bytes > 0
    again = pool.take(9_000)
    assert again.ctypes.data == address - 64
    assert pool.spare_bytes == 0


def test_pool_keeps_no_more_than_its_limit() -> None:
    pool = BufferPool(30_000)
    buffers = [pool.take(10_000) for _ in range(5)]
    del buffers
    assert 0 < pool.spare_bytes <= 30_000


def test_pool_refuses_what_no_machine_has() -> None:
    for size in (1 << 62, 1 << 70):
        with pytest.raises(MemoryError):
            BufferPool().take(size)


def test_loaded_cache_outlives_everything(cabinet: Any) -> None:
    """A layer that a request holds is not overwritten by later loads."""
    draft = cabinet.draft(codec="odd", shape=SHAPE)
    cabinet.publish(draft)
    held = load(cabinet.open(draft)).wait().layer(2)[0]
    others = [cabinet.draft(seed, codec="odd", shape=SHAPE) for seed in range(1, 6)]
    for other in others:
        cabinet.publish(other)
        load(cabinet.open(other)).wait()
    assert bits(held) == bits(draft.kv.data[2, 0])


@pytest.mark.parametrize("phase", [0, 64, 4095])
def test_scratch_is_where_it_should_be(phase: int) -> None:
    room = scratch(100, phase)
    assert room.ctypes.data % PAGE == phase
    assert room.size == 100


# ------------------------------------------------------------ hot files


def test_hot_file_is_loaded_once(cabinet: Any) -> None:
    draft = cabinet.draft()
    cabinet.publish(draft)
    hot = HotFiles(1 << 20)
    first = hot.get("a", lambda: load(cabinet.open(draft)))
    assert hot.get("a", pytest.fail) is first
    stats = hot.stats()
    assert (stats.hits, stats.misses, stats.bytes, stats.caches) == (1, 1, first.bytes, 1)


def test_callers_at_the_same_time_share_a_load(loaded: Callable[..., LayeredKV]) -> None:
    hot, calls = HotFiles(1 << 20), []
    kv = loaded()

    def slowly() -> LayeredKV:
        calls.append(1)
        time.sleep(0.05)
        return kv

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: hot.get("a", slowly), range(8))) == {kv}
    assert len(calls) == 1


def test_failed_load_is_told_to_all_and_not_kept(loaded: Callable[..., LayeredKV]) -> None:
    hot = HotFiles(1 << 20)

    def fail() -> LayeredKV:
        time.sleep(0.02)
        raise KVMiss("absent", "there is no such file")

    def reason(_: int) -> str:
        with pytest.raises(KVMiss) as miss:
            hot.get("a", fail)
        return miss.value.reason

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(reason, range(4))) == {"absent"}
    kv = loaded()
    assert hot.get("a", lambda: kv) is kv


def test_cache_that_turned_out_bad_is_loaded_anew(cabinet: Any) -> None:
    draft = cabinet.draft(shape=SHAPE)
    damaged(cabinet, draft, layer=4)
    hot = HotFiles(1 << 20)
    bad = hot.get("a", lambda: load(cabinet.open(draft)))
    with pytest.raises(KVMiss):
        bad.wait()
    good = hot.get("a", lambda: load(cabinet.open(draft)))
    assert good is not bad
    assert hot.stats().misses == 2


def test_least_recently_used_goes_first(loaded: Callable[..., LayeredKV]) -> None:
    caches = {name: loaded(seed) for seed, name in enumerate("abcd")}
    size = caches["a"].bytes
    hot = HotFiles(3 * size)
    for name in "abc":
        hot.put(name, caches[name])
    hot.get("a", pytest.fail)
    hot.put("d", caches["d"])
    assert hot.bytes == 3 * size
    for name in "acd":
        assert hot.get(name, pytest.fail) is caches[name]
    assert hot.get("b", lambda: caches["b"]) is caches["b"]
    assert hot.stats().misses == 1


def test_cache_larger_than_the_limit_is_not_kept(loaded: Callable[..., LayeredKV]) -> None:
    kv = loaded()
    hot = HotFiles(kv.bytes - 1)
    assert hot.get("a", lambda: kv) is kv
    assert hot.bytes == 0


def test_evicted_cache_stays_valid(cabinet: Any) -> None:
    draft = cabinet.draft(shape=SHAPE)
    cabinet.publish(draft)
    hot = HotFiles(1 << 20)
    kv = hot.get("a", lambda: load(cabinet.open(draft)))
    hot.drop_all()
    assert hot.bytes == 0
    assert bits(kv.wait().data) == bits(draft.kv.data)


def test_dropped_while_loading_is_not_kept(loaded: Callable[..., LayeredKV]) -> None:
    """Forgetting a memory must not lose against a prefetch of it."""
    hot, kv = HotFiles(1 << 20), loaded()
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> LayeredKV:
        begun.set()
        assert go_on.wait(30)
        return kv

    hot.prefetch("a", slowly)
    assert begun.wait(30)
    hot.drop("a")
    go_on.set()
    other = loaded(1)
    assert hot.get("a", lambda: other) is other
    time.sleep(0.02)
    assert hot.get("a", pytest.fail) is other


def test_prefetch(loaded: Callable[..., LayeredKV]) -> None:
    hot, kv = HotFiles(1 << 20), loaded()
    begun = threading.Event()

    def quickly() -> LayeredKV:
        begun.set()
        return kv

    def fail() -> LayeredKV:
        raise KVMiss("absent", "there is no such file")

    hot.prefetch("bad", fail)
    hot.prefetch("a", quickly)
    assert begun.wait(30)
    assert hot.get("a", pytest.fail) is kv
    hot.prefetch("a", pytest.fail)
    assert hot.stats().caches == 1

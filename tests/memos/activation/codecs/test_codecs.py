"""Every codec on caches of odd sizes: what it returns, what it refuses, and that rubbish never gets through."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos.activation.codecs.base import Codec, Encoded
from memos.activation.codecs.registry import CODECS, make_codec
from memos.activation.kv import DTYPES, KVBlock, KVShape
from memos.errors import InvalidInput

#: A spec per method and the largest relative error (root mean square) it may make on the caches below.
ERRORS = {
    "raw": 0.0,
    "lossless": 0.0,
    "lossless:level=9": 0.0,
    "int8": 0.02,
    "int4": 0.2,
    "int4:group=32": 0.2,
    "int3": 0.4,
    "int2": 0.9,
    "cachegen": 0.6,
    "zipcache": 0.7,
    "mikv": 0.9,
    "mikv:important=0.5,bits=4": 0.3,
    "gear": 0.8,
    "gear:bits=4,rank=2,outliers=0": 0.2,
    "transform": 0.5,
    "transform:quality=0.2": 0.3,
}
SIZES = ((1, 1, 64), (7, 3, 8), (130, 2, 16), (300, 1, 64))


def cache(tokens: int, heads: int, head_dim: int, dtype: str = "float32", seed: int = 0) -> KVBlock:
    """Keys with channels of their own offset and size, values without, as real ones are."""
    generator = torch.Generator().manual_seed(seed)
    shape = KVShape(3, heads, head_dim, dtype)
    data = torch.randn(shape.empty(tokens).shape, generator=generator)
    data[:, 0] = data[:, 0] * torch.linspace(0.3, 3, head_dim) + torch.linspace(-4, 4, head_dim)
    return KVBlock(shape, data.to(DTYPES[dtype]))


def decoded(codec: Codec, kv: KVBlock, encoded: Encoded, order: Any = None) -> torch.Tensor:
    out = kv.shape.empty(kv.tokens).zero_()
    decoder = codec.decoder(kv.shape, kv.tokens, encoded.shared, encoded.parameters)
    for layer in order or range(kv.shape.layers):
        decoder.decode(layer, encoded.layers[layer], out[layer])
    return out


def test_every_method_is_tested() -> None:
    assert {spec.partition(":")[0] for spec in ERRORS} == CODECS.keys()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spec", ERRORS)
def test_error_is_bounded(spec: str, size: tuple[int, int, int]) -> None:
    codec, kv = make_codec(spec), cache(*size)
    out = decoded(codec, kv, codec.encode(kv)).double()
    error = (out - kv.data).square().mean().sqrt() / kv.data.double().square().mean().sqrt()
    assert float(error) <= ERRORS[spec]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", ERRORS)
def test_dtype_is_kept_and_exact_means_exact(spec: str, dtype: str) -> None:
    codec, kv = make_codec(spec), cache(70, 3, 16, dtype)
    out = decoded(codec, kv, codec.encode(kv))
    assert (out.dtype, out.shape) == (kv.data.dtype, kv.data.shape)
    assert torch.equal(out, kv.data) or not codec.exact


@pytest.mark.parametrize("spec", ERRORS)
def test_encoding_is_deterministic_and_its_spec_makes_the_same_codec(spec: str) -> None:
    kv = cache(140, 2, 16)
    encodings = [make_codec(name).encode(kv) for name in (spec, spec, make_codec(spec).spec)]
    listed = [[{k: v.tobytes() for k, v in layer.items()} for layer in one.layers] for one in encodings]
    assert listed[0] == listed[1] == listed[2]


@pytest.mark.parametrize("spec", ERRORS)
def test_layers_decode_in_any_order_and_from_threads(spec: str) -> None:
    codec, kv = make_codec(spec), cache(70, 2, 16)
    encoded = codec.encode(kv)
    expected = decoded(codec, kv, encoded)
    assert torch.equal(decoded(codec, kv, encoded, order=[2, 0, 1]), expected)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: decoded(codec, kv, encoded), range(8)))
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("spec", ERRORS)
def test_encoding_leaves_the_cache_alone(spec: str) -> None:
    kv = cache(70, 2, 16)
    before = kv.data.clone()
    make_codec(spec).encode(kv)
    assert torch.equal(kv.data, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("spec", ERRORS)
def test_what_is_not_finite_is_kept_or_refused(spec: str, value: float) -> None:
    codec, kv = make_codec(spec), cache(20, 1, 8)
    kv.data[1, 0, 0, 3, 2] = value
    if codec.exact:
        words = decoded(codec, kv, codec.encode(kv)).view(torch.int32)
        assert torch.equal(words, kv.data.view(torch.int32))
    else:
        with pytest.raises(ValueError, match=r"\w"):
            codec.encode(kv)


@pytest.mark.parametrize("spec", ["int4", "transform", "cachegen", "gear"])
def test_lossy_codec_beats_the_lossless_one(spec: str) -> None:
    kv = cache(300, 1, 64)
    sizes = {name: make_codec(name).encode(kv).bytes for name in ("raw", "lossless", spec)}
    assert sizes[spec] < sizes["lossless"] < sizes["raw"]


@pytest.mark.parametrize("spec", ERRORS)
@given(data=st.data())
def test_damaged_arrays_are_refused_or_decoded_to_numbers(spec: str, data: st.DataObject) -> None:
    """A seal and checksums stand before a decoder; behind them it may still neither crash nor hang."""
    codec, kv = make_codec(spec), cache(33, 1, 8)
    encoded = codec.encode(kv)
    parts = dict(encoded.layers[0])
    name = data.draw(st.sampled_from(sorted(parts)))
    array = np.array(parts[name])
    kind = data.draw(st.sampled_from(("cut", "noise", "dtype", "gone", "more")))
    if kind == "gone":
        del parts[name]
    elif kind == "cut":
        parts[name] = array.reshape(-1)[: data.draw(st.integers(0, max(array.size - 1, 0)))]
    elif kind == "more":
        parts[name] = np.concatenate([array.reshape(-1), array.reshape(-1)])
    elif kind == "dtype":
        parts[name] = array.astype(np.float64)
    else:
        noise = np.random.default_rng(data.draw(st.integers(0, 1 << 16))).integers(0, 256, array.nbytes, np.uint8)
        parts[name] = noise.view(array.dtype).reshape(array.shape)
    out = kv.shape.empty(kv.tokens)
    decoder = codec.decoder(kv.shape, kv.tokens, encoded.shared, encoded.parameters)
    try:
        decoder.decode(0, parts, out[0])
    except ValueError:
        return
    assert out[0].shape == (2, 1, 33, 8)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "zip",
        "int4:group=0",
        "int4:group=x",
        "int4:no=1",
        "int4:group",
        "lossless:level=99",
        "zipcache:salient=2",
        "mikv:bits=7",
        "gear:rank=-1",
        "transform:quality=no",
        "transform:quality=nan",
    ],
)
def test_unknown_codec_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput):
        make_codec(spec)

"""What is inside a KV file: readable by anyone, believed only when it is sealed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from memos.activation.container import KVHeader, from_metadata, to_metadata
from memos.activation.fingerprint import CONTAINER_VERSION
from memos.activation.kv import KVShape
from memos.activation.layout import ALIGNMENT, check_seal, compose, parse_table
from memos.activation.miss import KVMiss

SECRET = bytes(32)


@pytest.fixture
def draft(cabinet: Any) -> Any:
    """A cache with arrays of odd sizes."""
    return cabinet.draft(1, codec="odd", loss=0.25)


def test_stock_safetensors_reads_the_file(cabinet: Any) -> None:
    draft = cabinet.draft(4, shape=KVShape(3, 2, 8, "bfloat16"))
    path = cabinet.publish(draft).path
    with safe_open(path, "pt") as file:
        assert {"token_ids", "layer.000.kv", "layer.002.kv"} <= set(file.keys())
        assert file.get_tensor("token_ids").tolist() == list(draft.header.token_ids)
        layer = file.get_tensor("layer.001.kv").view(torch.bfloat16)
        assert torch.equal(layer, draft.kv.data[1])
        metadata = file.metadata()
    assert metadata["version"] == str(CONTAINER_VERSION)
    assert json.loads(metadata["sources"]) == [["note-a", 1], ["note-4", 3]]
    assert "alice" not in json.dumps(metadata)


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_stock_safetensors_reads_arrays_of_every_dtype(cabinet: Any, draft: Any, framework: str) -> None:
    path = cabinet.publish(draft).path
    with safe_open(path, framework) as file:
        first = np.asarray(file.get_tensor("layer.001.first"))
        assert np.array_equal(first, draft.encoded.layers[1]["first"])
        assert np.asarray(file.get_tensor("shared.scalar")) == 2.5
        assert np.asarray(file.get_tensor("layer.000.flags")).tolist() == [[True], [False]]


def test_tensors_are_aligned_and_in_order(draft: Any) -> None:
    pieces = compose(draft.header, draft.encoded, SECRET)
    table = bytes(pieces[0])[8:]
    _, tensors = parse_table(table, sum(piece.nbytes for piece in pieces))
    names = [tensor.name for tensor in tensors if not tensor.name.startswith("pad.")]
    assert all(tensor.start % ALIGNMENT == 0 for tensor in tensors if not tensor.name.startswith("pad."))
    assert names[:4] == ["shared.mask", "shared.scalar", "token_ids", "layer.000.first"]
    assert names[-1] == "layer.001.second"


def test_big_arrays_are_not_copied(cabinet: Any) -> None:
    draft = cabinet.draft(tokens=8)
    pieces = compose(draft.header, draft.encoded, SECRET)
    addresses = {np.frombuffer(piece, np.uint8).ctypes.data for piece in pieces if piece.nbytes}
    assert {draft.kv.data[0].data_ptr(), draft.kv.data[1].data_ptr()} <= addresses


def test_header_survives_its_metadata(draft: Any) -> None:
    header = replace(draft.header, parameters={"a": [1, 0.1, None, "é"]})
    assert from_metadata(to_metadata(header), header.token_ids) == header


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", "11"),
        ("tokens", "-1"),
        ("tokens", "1e3"),
        ("tokens", "9" * 400),
        ("head_tokens", "11"),
        ("layers", "0"),
        ("layers", "99999999"),
        ("heads", "two"),
        ("head_dim", "٣"),
        ("dtype", "float8"),
        ("sources", "{}"),
        ("sources", '[["a",0]]'),
        ("sources", '[["a",1,2]]'),
        ("sources", '[[1,"a"]]'),
        ("parameters", "[]"),
        ("parameters", "NaN"),
        ("parameters", '{"a":1,"a":2}'),
        ("parameters", "[" * 100_000),
        ("loss", '"much"'),
        ("loss", "1e999"),
        ("created_at", ""),
    ],
)
def test_metadata_that_makes_no_header(draft: Any, name: str, value: str) -> None:
    metadata = {**to_metadata(draft.header), name: value}
    with pytest.raises(KVMiss, match="format"):
        from_metadata(metadata, draft.header.token_ids)


@pytest.mark.parametrize("name", [*to_metadata(KVHeader("", "", "", (), (), 0, KVShape(1, 1, 1, ""), "", 0))][1:])
def test_metadata_without_a_field(draft: Any, name: str) -> None:
    metadata = to_metadata(draft.header)
    del metadata[name]
    with pytest.raises(KVMiss, match="format"):
        from_metadata(metadata, draft.header.token_ids)


def test_seal_covers_every_bit_of_the_header(cabinet: Any) -> None:
    draft = cabinet.draft()
    table = bytes(compose(draft.header, draft.encoded, SECRET)[0])[8:]
    check_seal(table, SECRET)
    for bit in range(0, 8 * len(table), 3):
        changed = bytearray(table)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(KVMiss, match=r"seal|format"):
            check_seal(bytes(changed), SECRET)


def test_seal_of_another_secret(draft: Any) -> None:
    table = bytes(compose(draft.header, draft.encoded, SECRET)[0])[8:]
    with pytest.raises(KVMiss, match="seal"):
        check_seal(table, bytes([1]) * 32)


def test_arrays_safetensors_cannot_hold(draft: Any) -> None:
    encoded = replace(draft.encoded, shared={"complex": np.zeros(3, np.complex64)})
    with pytest.raises(ValueError, match="complex64"):
        compose(draft.header, encoded, SECRET)


def test_file_of_another_version(draft: Any) -> None:
    table = bytes(compose(draft.header, draft.encoded, SECRET)[0])[8:]
    other = table.replace(b'"version":"%d"' % CONTAINER_VERSION, b'"version":"9"')
    with pytest.raises(KVMiss, match="version 9"):
        parse_table(other, 1 << 20)

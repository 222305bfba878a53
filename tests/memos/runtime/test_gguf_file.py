"""The GGUF reader against the reference implementation, and on files that are none."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from memos.runtime.gguf_file import GGUFFile

Kind = gguf.GGMLQuantizationType


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q4_1, Kind.Q8_0])
def test_tensor_is_dequantised_as_by_the_reference(tmp_path: Path, kind: Kind) -> None:
    path, values = tmp_path / "model.gguf", np.random.default_rng(1).normal(size=(6, 64)).astype(np.float32)
    stored = gguf.quants.quantize(values, kind)
    write(path, stored, kind)
    file = GGUFFile(path)
    assert file.metadata["names"] == ["a", "ß"]
    assert file.metadata["theta"] == 1e5
    assert torch.equal(file.tensor("weight", torch.float32), torch.from_numpy(gguf.quants.dequantize(stored, kind)))


def test_unknown_quantisation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, np.ones((2, 64), np.float16), Kind.F16)
    with pytest.raises(ValueError, match="type 1"):
        GGUFFile(path).tensor("weight", torch.float32)


def test_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="not a GGUF file"):
        GGUFFile(path)


def write(path: Path, stored: np.ndarray, kind: Kind) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("names", ["a", "ß"])
    writer.add_float32("theta", 1e5)
    writer.add_tensor("weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

"""Loading the bundled model, folders of every family, and what cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memos.errors import InvalidInput, ModelUnavailable, ModelUnsupported
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Request, Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MakeTiny = Callable[..., Path]
Forward = Callable[["PreTrainedModel"], Callable[[list[int]], torch.Tensor]]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_bundled_model_is_described(loaded: LoadedModel) -> None:
    assert loaded.name == "SmolLM2-135M-Instruct"
    assert (loaded.shape.layers, loaded.shape.heads, loaded.shape.head_dim) == (30, 3, 64)
    assert loaded.context_window == 8192
    assert loaded.tokenizer.convert_ids_to_tokens(sorted(loaded.eos_ids)) == ["<|im_end|>"]
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_bundled_model_knows_a_fact(loaded: LoadedModel, runtime: Runtime) -> None:
    tokens = tuple(loaded.tokenizer.encode("The capital of France is"))
    assert runtime.generate(Request(tokens, max_tokens=1)).finish().text == " Paris"


@pytest.mark.parametrize(
    ("family", "own"),
    [
        ("llama", {}),
        ("llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 4}),
        ("qwen2", {"num_key_value_heads": 1}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"sliding_window": None}),
    ],
)
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_folder_of_each_family_runs_as_in_transformers(
    tiny: MakeTiny, plain_forward: Forward, family: str, own: dict[str, Any], dtype: str, most: float
) -> None:
    loaded = load_model(str(tiny(family, **own)), dtype=dtype)
    runtime, tokens = Runtime(loaded), [place * 7 % 64 for place in range(100)]
    want = plain_forward(loaded.model)(tokens)
    prefix = runtime.prefill(tokens[:60])
    assert (runtime.logits(tokens) - want).abs().max() <= most
    assert (runtime.logits(tokens, prefix) - want[60:]).abs().max() <= most


def test_identity_is_of_content_and_not_of_place(tiny: MakeTiny) -> None:
    folder = tiny("llama")
    first = load_model(str(folder)).identity
    moved = folder.rename(folder.with_name("elsewhere"))
    edit_config(moved, transformers_version="9.9", _name_or_path="x", architectures=["LlamaForCausalLM"])
    again = load_model(str(moved)).identity
    assert again.fingerprint == first.fingerprint
    assert load_model(str(moved), dtype="bfloat16").identity.fingerprint != first.fingerprint
    assert replace(first, rope={**first.rope, "rope_theta": 5.0}).fingerprint != first.fingerprint


def test_identity_changes_with_one_weight(tiny: MakeTiny) -> None:
    folder = tiny("llama")
    first = load_model(str(folder)).identity
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(folder)).identity.fingerprint != first.fingerprint


def test_sharded_folder_is_loaded(tiny: MakeTiny, plain_forward: Forward) -> None:
    folder = tiny("llama")
    whole = load_model(str(folder))
    whole.model.save_pretrained(folder / "shards", max_shard_size="20KB")
    whole.tokenizer.save_pretrained(folder / "shards")
    sharded = load_model(str(folder / "shards"))
    assert len(list((folder / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(Runtime(sharded).logits([1, 2, 3]), Runtime(whole).logits([1, 2, 3]))


def test_pickled_weights_are_refused(tiny: MakeTiny) -> None:
    folder = tiny("llama")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_model(str(folder))


def test_folder_with_code_of_its_own_never_runs_it(tiny: MakeTiny) -> None:
    folder = tiny("llama")
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    edit_config(folder, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(ModelUnsupported, match="'evil'"):
        load_model(str(folder))
    edit_config(folder, model_type="llama")
    assert load_model(str(folder)).model.config.model_type == "llama"


def test_checkpoint_without_a_weight_is_refused(tiny: MakeTiny) -> None:
    folder = tiny("llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"lacks weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder))


def test_dynamic_rope_in_a_folder_is_refused(tiny: MakeTiny) -> None:
    folder = tiny("llama")
    edit_config(folder, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(ModelUnsupported, match="'dynamic'"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("damage", "content"),
    [("model.safetensors", b"\0" * 40), ("config.json", b"{"), ("tokenizer.json", b"{}"), ("config.json", b"[]")],
)
def test_damaged_folder_is_unavailable(tiny: MakeTiny, damage: str, content: bytes) -> None:
    folder = tiny("llama")
    (folder / damage).write_bytes(content)
    with pytest.raises((ModelUnavailable, ModelUnsupported)):
        load_model(str(folder))


@pytest.mark.parametrize(
    "fields",
    [{"hidden_size": "wide"}, {"hidden_act": None}, {"num_attention_heads": 0}, {"dtype": "x"}, {"vocab_size": 65}],
)
def test_senseless_configuration_is_unavailable(tiny: MakeTiny, fields: dict[str, Any]) -> None:
    folder = tiny("llama")
    edit_config(folder, **fields)
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "", "/no/such/folder"])
def test_unknown_name_is_unavailable_and_says_what_would_do(name: str) -> None:
    with pytest.raises(ModelUnavailable, match="folder with"):
        load_model(name)


def test_unknown_dtype_and_device_are_refused() -> None:
    with pytest.raises(InvalidInput, match="int8"):
        load_model(dtype="int8")
    with pytest.raises(InvalidInput, match="abacus"):
        load_model(device="abacus")
    with pytest.raises(ModelUnavailable, match="cuda:99"):
        load_model(device="cuda:99")


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

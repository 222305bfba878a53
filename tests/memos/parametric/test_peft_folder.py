"""PEFT's form: what PEFT makes of an exported adapter, what is made of PEFT's own, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from memos.errors import AdapterRefused, InvalidInput
from memos.parametric.adapter import ATTENTION, PROJECTIONS, Adapter
from memos.parametric.checks import Frame, check
from memos.parametric.peft_folder import CONFIG, WEIGHTS, read_folder, write_folder
from memos.runtime.host import ModelHost
from memos.runtime.uses import AdapterUse

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = pytest.mark.timeout(300)  # the first one loads the model
MOST = 1 << 30
MakeAdapter = Callable[..., Adapter]


def ours(models: ModelHost, adapter: Adapter, tokens: list[int]) -> torch.Tensor:
    use = AdapterUse(adapter.digest, lambda: adapter)
    return models.serving().runtime.logits(tokens, adapters=[use])


def theirs(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


TOKENS = [1, 57, 1042, 9, 300, 17, 4]
SHAPES: dict[str, dict[str, Any]] = {
    "feed forward": {"layers": range(30)},
    "attention of two layers": {"projections": ATTENTION, "layers": (3, 20), "ranks": (4,)},
    "ranks and scalings of all kinds": {
        "projections": PROJECTIONS,
        "layers": (0, 11, 29),
        "ranks": (1, 3, 8),
        "scalings": (2.0, 0.5, 1 / 3),
    },
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_peft_gives_the_same_logits(
    shape: dict[str, Any], random_adapter: MakeAdapter, models: ModelHost, plain_model: PreTrainedModel, tmp_path: Path
) -> None:
    adapter = random_adapter(**shape)
    write_folder(adapter, tmp_path / "adapter")
    base = theirs(plain_model, TOKENS)
    found = theirs(peft.PeftModel.from_pretrained(plain_model, str(tmp_path / "adapter")), TOKENS)
    assert (found - base).abs().max() > 0.05, "it changes something"
    torch.testing.assert_close(ours(models, adapter, TOKENS), found, atol=1e-4, rtol=1e-4)


def test_uneven_layers_are_named_one_by_one(
    random_adapter: MakeAdapter, frame: Frame, models: ModelHost, plain_model: PreTrainedModel, tmp_path: Path
) -> None:
    factors = {**random_adapter(layers=(2,)).factors, **random_adapter(projections=ATTENTION[:1]).factors}
    adapter = Adapter(frame.base, factors)
    write_folder(adapter, tmp_path / "adapter")
    found = theirs(peft.PeftModel.from_pretrained(plain_model, str(tmp_path / "adapter")), TOKENS)
    torch.testing.assert_close(ours(models, adapter, TOKENS), found, atol=1e-4, rtol=1e-4)


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8},
    "all linear, rank-stabilised": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": "all-linear"},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"down_proj": 2, "^model.layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"layers.0.mlp.up_proj": 3, "up_proj": 16},
    },
    "some layers": {"layers_to_transform": [0, 29], "init_lora_weights": "gaussian", "lora_dropout": 0.5},
}


def peft_adapter(model: Any, folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """Save what PEFT makes of a configuration, with nothing left at zero."""
    options = {"target_modules": ["up_proj", "down_proj"], "layers_to_transform": [0, 1], **config}
    if options["target_modules"] == "all-linear":
        del options["layers_to_transform"]
    made = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options), autocast_adapter_dtype=False)
    torch.manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn_like(parameter) * 0.03).to(dtype)
    made.eval().save_pretrained(str(folder))
    return made


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_imported_adapter_gives_the_logits_of_peft(
    config: dict[str, Any], frame: Frame, models: ModelHost, plain_model: PreTrainedModel, tmp_path: Path
) -> None:
    expected = theirs(peft_adapter(plain_model, tmp_path, **config), TOKENS)
    adapter, _ = read_folder(tmp_path, frame.base, MOST)
    check(adapter, frame, 256)
    torch.testing.assert_close(ours(models, adapter, TOKENS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_stay_as_they_are(
    dtype: torch.dtype, frame: Frame, plain_model: PreTrainedModel, tmp_path: Path
) -> None:
    peft_adapter(plain_model, tmp_path, dtype)
    adapter, _ = read_folder(tmp_path, frame.base, MOST)
    check(adapter, frame, 256)
    assert {factors.down.dtype for factors in adapter.factors.values()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip_keeps_the_identity(
    dtype: torch.dtype, random_adapter: MakeAdapter, frame: Frame, tmp_path: Path
) -> None:
    adapter = random_adapter(ranks=(1, 4), scalings=(2.0, 0.5), dtype=dtype)
    write_folder(adapter, tmp_path / "a")
    assert read_folder(tmp_path / "a", frame.base, MOST)[0].digest == adapter.digest


# ------------------------------------------------------------ refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other method": ({"peft_type": "IA3"}, "peft_type"),
    "no method": ({"peft_type": None}, "peft_type"),
    "DoRA": ({"use_dora": True}, "use_dora"),
    "modules to save": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": ({"bias": "all"}, "bias"),
    "bias of the factors": ({"lora_bias": True}, "lora_bias"),
    "activated LoRA": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "repeated layers": ({"layer_replication": [[0, 4]]}, "layer_replication"),
    "changed base weights": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "something new": ({"use_what_comes_next": True}, "use_what_comes_next"),
    "a rank that is none": ({"r": 0}, "no rank"),
    "another rank": ({"r": 3}, "rank 2, where the configuration says 3"),
    "a truth value as rank": ({"r": True}, "no rank"),
    "no alpha": ({"lora_alpha": "16"}, "no lora_alpha"),
    "a pattern without ranks": ({"rank_pattern": {"down_proj": "x"}}, "no rank"),
    "a pattern that runs for ever": ({"rank_pattern": {"(.+)+x": 2}}, "rank_pattern"),
    "a pattern that is none": ({"alpha_pattern": ["down_proj"]}, "alpha_pattern"),
}


@pytest.fixture
def folder(random_adapter: MakeAdapter, tmp_path: Path) -> Path:
    """An exported adapter."""
    write_folder(random_adapter(), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=list(REFUSED))
def test_configuration_beyond_plain_lora_is_refused(
    change: dict[str, Any], said: str, folder: Path, frame: Frame
) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterRefused, match=said):
        read_folder(folder, frame.base, MOST)


def test_infinite_alpha_is_refused(folder: Path, frame: Frame) -> None:
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace('"lora_alpha": 4', '"lora_alpha": 1e999'))
    with pytest.raises(AdapterRefused, match="no lora_alpha"):
        read_folder(folder, frame.base, MOST)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"r": NaN}'])
def test_configuration_that_is_none_is_refused(text: str, folder: Path, frame: Frame) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(AdapterRefused):
        read_folder(folder, frame.base, MOST)


NAMES = {
    "embedding": "base_model.model.model.embed_tokens.lora_embedding_A",
    "head": "base_model.model.lm_head.lora_A.weight",
    "norm": "base_model.model.model.norm.weight",
    "unknown projection": "base_model.model.model.layers.0.mlp.other_proj.lora_A.weight",
    "magnitude": "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector.weight",
    "bias": "base_model.model.model.layers.0.mlp.up_proj.lora_B.bias",
    "named adapter": "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight",
    "leading zero": "base_model.model.model.layers.00.mlp.up_proj.lora_A.weight",
    "half a pair": "base_model.model.model.layers.5.mlp.up_proj.lora_A.weight",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_tensor_beyond_the_projections_is_refused(name: str, folder: Path, frame: Frame) -> None:
    save_file({**load_file(folder / WEIGHTS), name: torch.ones(2, 576)}, folder / WEIGHTS)
    with pytest.raises(AdapterRefused):
        read_folder(folder, frame.base, MOST)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 0.5, 0.999])
def test_truncated_weights_are_refused(kept: float, folder: Path, frame: Frame) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    with pytest.raises(AdapterRefused):
        read_folder(folder, frame.base, MOST)


def test_pickled_weights_are_refused_unread(folder: Path, frame: Frame, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(tmp_path))
    with pytest.raises(AdapterRefused, match="pickled"):
        read_folder(folder, frame.base, MOST)


def test_adapter_of_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(AdapterRefused, match="another model"):
        read_folder(folder, "0" * 64, MOST)


def test_weights_beyond_the_limit_are_not_read(folder: Path, frame: Frame) -> None:
    with pytest.raises(AdapterRefused, match="are allowed"):
        read_folder(folder, frame.base, 1_000)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_folder_without_its_files_is_refused(missing: str, folder: Path, frame: Frame) -> None:
    (folder / missing).unlink()
    with pytest.raises(AdapterRefused, match=missing):
        read_folder(folder, frame.base, MOST)


def test_no_folder_is_refused(tmp_path: Path, frame: Frame) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        read_folder(tmp_path / "nothing", frame.base, MOST)


def test_export_leaves_what_is_there_alone(random_adapter: MakeAdapter, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for taken in ("a", "file"):
        with pytest.raises(InvalidInput, match="is there already"):
            write_folder(random_adapter(), tmp_path / taken)
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_folder(random_adapter(), tmp_path / "no" / "such")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"]

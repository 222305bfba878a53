"""Adapters as PEFT keeps them: a folder of ``adapter_config.json`` and ``adapter_model.safetensors``.

Only what this runtime does exactly is read: plain LoRA on the projections of decoder layers, with ranks, alphas, their
patterns and rsLoRA (arXiv:2312.03732). Whatever else a configuration switches on is refused by name.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from memos.activation.keys import sync_folder
from memos.errors import AdapterRefused, InvalidInput, StoreFull
from memos.parametric.adapter import Adapter
from memos.parametric.container import metadata_of, read_tensors
from memos.parametric.naming import adapter_of, module_name, tensors_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")
_MAX_CONFIG = 1 << 20
#: Where a folder says which model its adapter was made for, in the metadata of the weights.
_BASE = "memos.base"
#: What is understood, and what changes nothing about a finished adapter. All else has to be off.
_USED = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "bias"}
_NO_MATTER = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
#: Ways to begin that leave the weights of the model as they are; PiSSA, OLoRA, CorDA and LoftQ do not.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
#: A module's path or its end. PEFT takes any regular expression, which from a stranger could run for ever.
_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")


# ------------------------------------------------------------ reading


def read_folder(folder: Path, base: str, most_bytes: int) -> tuple[Adapter, dict[str, Any]]:
    """Return the adapter of a folder, for the model ``base``, and its configuration.

    Weights are float32, bfloat16 or float16 and stay so. Raises :class:`AdapterRefused`, and :class:`InvalidInput` for
    what is no such folder.
    """
    config = _config(folder)
    data = _contents(folder / WEIGHTS, most_bytes)
    made_for = metadata_of(data).get(_BASE, base)
    if made_for != base:
        raise AdapterRefused("it was made for another model")

    def scaling(module: str, rank: int) -> float:
        said = _matching(config["rank_pattern"], module, config["r"])
        if said != rank:
            raise AdapterRefused(f"{module} has rank {rank}, where the configuration says {said}")
        alpha = _matching(config["alpha_pattern"], module, config["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if config["use_rslora"] else rank))

    return adapter_of(base, read_tensors(data), scaling), config


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder; name one with {CONFIG} and {WEIGHTS}")
    if not (folder / WEIGHTS).exists() and any(next(folder.glob(kind), None) for kind in _PICKLES):
        raise AdapterRefused(f"its weights are pickled, which can run any code; save them as {WEIGHTS}")
    try:
        given = json.loads(_contents(folder / CONFIG, _MAX_CONFIG))
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(f"{CONFIG} is not JSON") from error
    if not isinstance(given, dict):
        raise AdapterRefused(f"{CONFIG} is not an object")
    _check_method(given)
    return _numbers(given)


def _check_method(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterRefused(f"peft_type {config.get('peft_type')!r} is not supported; LORA is")
    if config.get("bias", "none") != "none":
        raise AdapterRefused(f"bias {config['bias']!r} is not supported; adapters change no biases here")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise AdapterRefused(f"init_lora_weights {start!r} is not supported: it changes the model's own weights")
    for name, value in config.items():
        if name not in _USED and name not in _NO_MATTER and value:
            raise AdapterRefused(f"{name} is not supported; plain LoRA is")


def _numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with what scalings are made of checked and filled in."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    for name, pattern in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if not isinstance(pattern, dict) or not all(_PATTERN.fullmatch(key) for key in pattern):
            raise AdapterRefused(f"{name} may name modules by their path or its end, nothing else")
    for value in (rank, *ranks.values()):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise AdapterRefused(f"{value!r} is no rank")
    for value in (alpha, *alphas.values()):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise AdapterRefused(f"{value!r} is no lora_alpha")
    scaled = bool(config.get("use_rslora"))
    numbers = {"r": rank, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": scaled}
    return {**config, **numbers}


def _matching(pattern: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """Return what the first key says that a module matches, as PEFT decides it."""
    for key, value in pattern.items():
        whole = key.startswith("^")
        if module == key.removeprefix("^") or (not whole and module.endswith(f".{key}")):
            return value
    return otherwise


def _contents(path: Path, most_bytes: int) -> bytes:
    try:
        if not path.is_file():
            raise AdapterRefused(f"there is no file {path.name} in it")
        if path.stat().st_size > most_bytes:
            raise AdapterRefused(f"{path.name} has {path.stat().st_size:,} bytes, {most_bytes:,} are allowed")
        return path.read_bytes()
    except OSError as error:
        raise AdapterRefused(f"{path.name} cannot be read: {error.strerror}") from error


# ------------------------------------------------------------ writing


def write_folder(adapter: Adapter, folder: Path, model: str | None = None) -> None:
    """Write an adapter so that ``peft.PeftModel.from_pretrained(model, folder)`` gives the same logits.

    The folder is made whole or not at all. Raises :class:`InvalidInput` if it is there already and not empty, or cannot
    be written, and :class:`StoreFull`.
    """
    target = folder.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InvalidInput(f"{folder} is there already; name a new or an empty folder")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}")
    metadata = {"format": "pt", _BASE: adapter.base}
    config = json.dumps(config_of(adapter, model), indent=2, sort_keys=True) + "\n"
    try:
        temporary.mkdir(mode=0o700)
        _write(temporary / CONFIG, config.encode())
        _write(temporary / WEIGHTS, save(tensors_of(adapter), metadata))
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFull(f"no space left to write {folder}; nothing was written") from error
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def config_of(adapter: Adapter, model: str | None = None) -> dict[str, Any]:
    """Return what PEFT has to know: the commonest rank and alpha, and every module that differs from them."""
    ranks = {module_name(*place): factors.rank for place, factors in adapter.sorted()}
    alphas = {module_name(*place): _alpha(factors.scaling * factors.rank) for place, factors in adapter.sorted()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "inference_mode": True,
        **_targets(adapter),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {module: value for module, value in alphas.items() if value != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _targets(adapter: Adapter) -> dict[str, Any]:
    """Name projections and layers, or every module where the layers differ in their projections."""
    projections = {projection for _, projection in adapter.factors}
    layers = {layer for layer, _ in adapter.factors}
    if len(adapter.factors) < len(projections) * len(layers):
        return {"target_modules": [module_name(*place) for place, _ in adapter.sorted()]}
    names = sorted(projection.rpartition(".")[2] for projection in projections)
    return {"target_modules": names, "layers_to_transform": sorted(layers)}


def _alpha(value: float) -> float:
    """Return a whole alpha as PEFT writes it."""
    nearest = round(value)
    return nearest if math.isclose(value, nearest, rel_tol=1e-12) else value


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

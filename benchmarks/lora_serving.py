"""Serving many LoRA adapters in one batch with the bundled model, float32, greedy, two threads.

step          decode steps of 64 rows: the bare model, 64 distinct adapters of rank 8 on all projections and on q, k, v
              and o, mixed ranks; against PEFT's mixed batch on transformers' own attention, its adapters put into place
              one by one (its own registration is O(N)), prefill excluded. Texts of both are checked to be equal first
throughput    requests of 5 and of 2,000 registered adapters (rank 8 on q, k, v and o, files on disk), by Zipf's law and
              uniformly, all waiting from the start, a pool that holds a small part of them
alone         64 requests together against one after the other
register      what registering one more adapter takes when there are so many
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Report, parser, table

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.parametric.adapter import ATTENTION, PROJECTIONS, Adapter, Factors
from memos.runtime.chat import ChatFormat
from memos.runtime.host import ModelHost, Serving
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Generated, Request, Runtime
from memos.runtime.uses import AdapterUse
from memos.store.adapters import AdapterRecord

ROWS, RANK, PROMPT = 64, 8, 32
MIXED = (2, 4, 8, 16)
#: The few adapters that many are compared with, and the pool: an eighth of 2,000 adapters.
FEW, POOL = 5, 1 << 30


class TimedRuntime(Runtime):
    """Keeps what every step took."""

    def __init__(self, loaded: LoadedModel, pool_bytes: int) -> None:
        super().__init__(loaded, pool_bytes)
        self.seconds: list[float] = []

    def step(self) -> None:
        """Run and time a step."""
        start = time.perf_counter()
        super().step()
        self.seconds.append(time.perf_counter() - start)


def main() -> int:
    """Measure everything."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--steps", action="store_true", help="measure only the decode steps again")
    options = arguments.parse_args()
    torch.set_num_threads(2)
    report = Report("lora_serving", options)
    loaded = load_model()
    if options.steps:
        report.resume()
        report.rows = [row for row in report.rows if row["figure"] != "step"]
        _steps(report, loaded, steps=16, rounds=5)
        report.finish()
        return 0
    _steps(report, loaded, steps=6 if options.quick else 16, rounds=2 if options.quick else 5)
    _alone(report, loaded, tokens=16 if options.quick else 32)
    _throughput(report, loaded, *((200, 64, 1) if options.quick else (2_000, 192, 7)))
    report.finish()
    return 0


# ------------------------------------------------------------ what is served


def adapter_of(loaded: LoadedModel, seed: int, rank: int, names: Sequence[str]) -> Adapter:
    """Return a random adapter that changes what the model says a little."""
    random = torch.Generator().manual_seed(seed)
    factors = {}
    for layer in range(loaded.shape.layers):
        for name in names:
            linear: Any = loaded.model.get_submodule(f"model.layers.{layer}.{name}")
            down = torch.randn(rank, linear.in_features, generator=random) / linear.in_features**0.5
            factors[layer, name] = Factors(down, torch.randn(linear.out_features, rank, generator=random) * 0.02)
    return Adapter(loaded.identity.base, factors)


def use_of(adapter: Adapter) -> AdapterUse:
    """Return how a request names an adapter that is in memory."""
    return AdapterUse(adapter.digest, lambda: adapter)


def prompts_of(loaded: LoadedModel, count: int, length: int) -> list[tuple[int, ...]]:
    """Return prompts of random tokens."""
    random = np.random.default_rng(5)
    return [tuple(random.integers(100, loaded.model.config.vocab_size, length).tolist()) for _ in range(count)]


# ------------------------------------------------------------ steps


def _steps(report: Report, loaded: LoadedModel, steps: int, rounds: int) -> None:
    """Time decode steps of all arms, interleaved."""
    prompts = prompts_of(loaded, ROWS, PROMPT)
    kinds: dict[str, list[Adapter]] = {
        "all": [adapter_of(loaded, seed, RANK, PROJECTIONS) for seed in range(ROWS)],
        "qkvo": [adapter_of(loaded, seed, RANK, ATTENTION) for seed in range(ROWS)],
        "mixed ranks, all": [adapter_of(loaded, seed, MIXED[seed % 4], PROJECTIONS) for seed in range(ROWS)],
    }
    runtime = TimedRuntime(loaded, 3 << 30)
    arms: dict[str, Callable[[], list[float]]] = {"base": lambda: _decode(runtime, prompts, [()] * ROWS, steps)[0]}
    for name, adapters in kinds.items():
        uses = [(use_of(adapter),) for adapter in adapters]
        arms[name] = lambda uses=uses: _decode(runtime, prompts, uses, steps)[0]  # type: ignore[misc]
    peft = _peft(report, loaded, prompts, kinds["all"], steps, runtime)
    arms |= peft
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            spent[name] += arm()
    median = {name: statistics.median(each) for name, each in spent.items()}
    for name in arms:
        base = median["transformers" if name.startswith(("peft", "transformers")) else "base"]
        row = {
            "arm": name,
            "step_ms": median[name] * 1e3,
            "p99_ms": float(np.quantile(spent[name], 0.99)) * 1e3,
            "of_base": median[name] / base,
        }
        report.rows.append({"figure": "step", **row})
    steps_told = [row for row in report.rows if row["figure"] == "step"]
    table([{key: value for key, value in row.items() if key != "figure"} for row in steps_told])
    report.figures["step_ratio_64_all"] = median["all"] / median["base"]
    report.figures["step_ratio_64_qkvo"] = median["qkvo"] / median["base"]
    report.figures["step_ratio_64_mixed"] = median["mixed ranks, all"] / median["base"]
    if "peft" in median:
        report.figures["step_ratio_64_all_peft"] = median["peft"] / median["transformers"]
        report.figures["step_64_all_vs_peft"] = median["all"] / median["peft"]


def _decode(
    runtime: TimedRuntime, prompts: Sequence[tuple[int, ...]], uses: Sequence[tuple[AdapterUse, ...]], steps: int
) -> tuple[list[float], list[Generated]]:
    """Run all prompts together; return the seconds of the steps in which all of them decoded."""
    runtime.seconds = []
    requests = [
        Request(prompt, max_tokens=steps + 1, adapters=use, share=False)
        for prompt, use in zip(prompts, uses, strict=True)
    ]
    answers = runtime.answers(requests)
    return runtime.seconds[-steps:][:-1], answers


def _peft(
    report: Report,
    loaded: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    adapters: Sequence[Adapter],
    steps: int,
    runtime: TimedRuntime,
) -> dict[str, Callable[[], list[float]]]:
    """Return PEFT's mixed batch and its bare model, once they are seen to say what ours say."""
    try:
        from peers.peft_batch import PeftBatch
    except ImportError:
        report.missing("step_ratio_64_all_peft", "peft is not installed")
        return {}
    peer = PeftBatch(loaded, adapters)
    tokens = torch.tensor(prompts)
    ours = _decode(runtime, prompts, [(use_of(adapter),) for adapter in adapters], 4)[1]
    theirs = peer.decode(tokens, 5, mixed=True)[1]
    equal = sum(
        answer.tokens[:5] == tuple(row)[: len(answer.tokens[:5])] for answer, row in zip(ours, theirs, strict=True)
    )
    report.figures["texts_equal_peft"] = equal / len(prompts)
    return {
        "transformers": lambda: peer.decode(tokens, steps, mixed=False)[0],
        "peft": lambda: peer.decode(tokens, max(2, steps // 4), mixed=True)[0],
    }


# ------------------------------------------------------------ together or alone


def _alone(report: Report, loaded: LoadedModel, tokens: int) -> None:
    """Compare tokens per second of 64 requests together with those of requests one by one."""
    prompts = prompts_of(loaded, ROWS, PROMPT)
    adapters = [adapter_of(loaded, seed, RANK, ATTENTION) for seed in range(ROWS)]
    requests = [
        Request(prompt, max_tokens=tokens, adapters=(use_of(adapter),), share=False)
        for prompt, adapter in zip(prompts, adapters, strict=True)
    ]
    runtime = Runtime(loaded, 2 << 30)
    runtime.answers(requests)  # every adapter is there from now on
    some = requests[:: 4 if tokens > 8 else 8]
    start = time.perf_counter()
    alone = [runtime.answers([request])[0] for request in some]
    middle = time.perf_counter()
    together = runtime.answers(requests)
    end = time.perf_counter()
    written = sum(len(answer.tokens) for answer in together)
    rate = written / (end - middle)
    rate_alone = sum(len(answer.tokens) for answer in alone) / (middle - start)
    equal = all(
        one.tokens == other.tokens for one, other in zip(alone, together[:: len(requests) // len(some)], strict=True)
    )
    report.rows.append({"figure": "alone", "tokens_per_s": rate, "alone_tokens_per_s": rate_alone, "equal": equal})
    report.figures["batch64_speedup"] = rate / rate_alone


# ------------------------------------------------------------ throughput


def _throughput(report: Report, loaded: LoadedModel, registered: int, requests: int, rounds: int) -> None:
    """Register adapters in a data directory; serve requests of few and of all of them."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), adapter_bytes=1 << 40, kv_free_bytes=0)
        models = Loaded(settings, loaded)
        with MemoryOS(settings, models=models) as engine:
            records = _register(report, engine, loaded, registered)
            traces = {
                (popularity, count): _trace(engine, loaded, records[:count], popularity, requests)
                for popularity in ("zipf", "uniform")
                for count in (FEW, registered)
            }
            runtimes = {arm: TimedRuntime(loaded, POOL) for arm in traces}
            seconds: dict[tuple[str, int], list[float]] = {arm: [] for arm in traces}
            for _ in range(rounds):
                for arm, trace in traces.items():
                    runtimes[arm].seconds = []
                    start = time.perf_counter()
                    runtimes[arm].answers(trace)
                    seconds[arm].append(time.perf_counter() - start)
            _told(report, registered, requests, seconds, runtimes)


def _told(
    report: Report,
    registered: int,
    requests: int,
    seconds: dict[tuple[str, int], list[float]],
    runtimes: dict[tuple[str, int], TimedRuntime],
) -> None:
    rows = []
    for arm, spent in seconds.items():
        use, steps = runtimes[arm].pool, np.array(runtimes[arm].seconds) * 1e3
        rows.append({
            "popularity": arm[0],
            "adapters": arm[1],
            "requests_per_s": requests / statistics.median(spent),
            "step_p50_ms": float(np.quantile(steps, 0.5)),
            "step_p99_ms": float(np.quantile(steps, 0.99)),
            "hit_rate": use.hits / (use.hits + use.misses),
            "read_mb": use.misses * 3.7,
            "evicted": use.evicted,
        })  # fmt: skip
    table(rows)
    report.rows += [{"figure": "throughput", **row} for row in rows]
    for popularity in ("zipf", "uniform"):
        ratios = [
            few / many for few, many in zip(seconds[popularity, FEW], seconds[popularity, registered], strict=True)
        ]
        key = f"throughput_{registered}_vs_{FEW}_{popularity}"
        report.figures[key] = statistics.median(ratios)
        if registered != 2_000:
            report.missing(f"throughput_2000_vs_{FEW}_{popularity}", f"--quick registers {registered}: {key}")


def _register(report: Report, engine: MemoryOS, loaded: LoadedModel, count: int) -> list[AdapterRecord]:
    """Publish adapters, files and rows; time each."""
    scope, spent = Scope(user_id="bench"), []
    for seed in range(count):
        adapter = adapter_of(loaded, seed, RANK, ATTENTION)
        start = time.perf_counter()
        engine.parametric.publish(
            scope, adapter, sources=(), gate=None, provenance={"source": "import"}, name=f"adapter {seed}"
        )
        spent.append((time.perf_counter() - start) * 1e3)
    row = {
        "figure": "register",
        "first_20_ms": statistics.median(spent[:20]),
        "last_20_ms": statistics.median(spent[-20:]),
    }
    report.rows.append(row)
    report.figures["register_2000th_ms"] = row["last_20_ms"] if count == 2_000 else None
    if count != 2_000:
        report.missing("register_2000th_ms", f"--quick registers {count}: {row['last_20_ms']:.1f} ms")
    names = {info.name: info.cube_id for info in engine.adapters(scope)}
    return [engine.parametric.named(scope, names[f"adapter {seed}"]) for seed in range(count)]


def _trace(
    engine: MemoryOS, loaded: LoadedModel, records: Sequence[AdapterRecord], popularity: str, count: int
) -> list[Request]:
    """Return requests with prompts and answers of 8 to 64 tokens, adapters by Zipf's law (exponent 1) or uniformly."""
    random = np.random.default_rng(11)
    weights = 1 / np.arange(1, len(records) + 1) if popularity == "zipf" else np.ones(len(records))
    chosen = random.choice(len(records), count, p=weights / weights.sum())
    sizes = random.integers(8, 65, (count, 2))
    scope = Scope(user_id="bench")
    return [
        Request(
            tuple(random.integers(100, loaded.model.config.vocab_size, int(length)).tolist()),
            max_tokens=int(most),
            adapters=(AdapterUse(records[at].digest, partial(engine.parametric.load, scope, records[at])),),  # type: ignore[arg-type]
            share=False,
        )
        for at, (length, most) in zip(chosen.tolist(), sizes.tolist(), strict=True)
    ]


class Loaded(ModelHost):
    """The model that is loaded already."""

    def __init__(self, settings: Settings, loaded: LoadedModel) -> None:
        super().__init__(settings)
        self._loaded = loaded

    def _load(self) -> Serving:
        return Serving(self._loaded, Runtime(self._loaded), ChatFormat(self._loaded))


if __name__ == "__main__":
    raise SystemExit(main())

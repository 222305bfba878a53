"""Kernels on the CPU against their bounds and peers, all arms of a kernel interleaved in one run, medians.

gather        pages to contiguous memory, against torch's copy of the same bytes
load          dequantise, rotate and gather int4 and int8 pages to bfloat16, 4,096 tokens of the bundled model's
              shape, against the bound (compressed read + raw written) / memory bandwidth, where copying N bytes moves
              2 N, and against the same in eager PyTorch
decode        64 sequences of 512 tokens, against the fastest form of torch's SDPA on contiguous padded K/V
prefill       16 rows behind 2,048 tokens in 30 layers, against torch's flash attention on contiguous K/V
lora          all adapters of one 576 × 576 projection, 64 and 2,000 distinct ones of rank 8, in shuffled pages of 16
              slots as a model serves them, cold (modules are cycled that do not fit the caches together), against the
              kernels lora_shrink + lora_expand with every slot elsewhere, a bmm on contiguous adapters and PEFT's loop
compile       the first call of everything, with an empty cache on disk and with a full one
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from harness import ROOT, Report, parser, table
from torch.nn.functional import scaled_dot_product_attention

from memos_kernels import (
    LoraPlan,
    QuantisedPages,
    RankRows,
    apply_adapters,
    delta_angles,
    dequant_rotate_gather,
    gather_pages,
    lora_expand,
    lora_shrink,
    paged_attention_decode,
    paged_attention_prefill,
    plan_lora,
    quantise_pages,
    rotate_keys,
    scatter_pages,
)
from memos_kernels.load.reference import dequant_rotate_gather as eager_load
from memos_kernels.memory import huge_tensor
from memos_kernels.workloads import adapter_step, random_tensor, shuffled_table

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, WIDTH, RANK = 30, 9, 3, 64, 576, 192, 8
SCALING = HEAD_DIM**-0.5

Arm = Callable[[], Any]


def main() -> int:
    """Measure every kernel."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    rounds = 7 if options.quick else 21
    report = Report("kernels", options)
    tokens = 1_024 if options.quick else 4_096
    for size in (16, 64):
        _copies(report, size, tokens, rounds)
    for bits, size in ((4, 16), (4, 64), (8, 16), (8, 64)):
        _load(report, bits, size, tokens, rounds)
    for dtype in (torch.float32, torch.bfloat16):
        _decode(report, dtype, rounds)
        _prefill(report, dtype, rounds)
    _lora(report, 64, 12 if options.quick else 60, rounds)
    _lora(report, 2_000, 2, rounds)
    _compile(report)
    report.notes.append("Measured on the CPU only; the GPU forms are compiled and interpreted in tests, not timed.")
    report.finish()
    return 0


def timed(arms: dict[str, Arm], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each arm; arms take turns."""
    for arm in arms.values():
        arm()
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            spent[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in spent.items()}


def _row(report: Report, kernel: str, **values: Any) -> None:
    report.rows.append({"kernel": kernel, **values})
    table([report.rows[-1]])


def _copies(report: Report, size: int, tokens: int, rounds: int) -> None:
    """Gather, scatter and rotate against memcpy."""
    cache = random_tensor((2 * LAYERS, KV_HEADS, tokens, HEAD_DIM), torch.bfloat16)
    out = torch.empty_like(cache)
    angles = delta_angles(torch.zeros(1), torch.full((1,), 100.0), torch.linspace(0, 1, HEAD_DIM // 2))
    flat, blocks = cache.view(-1, tokens, HEAD_DIM), tokens // size
    pool = random_tensor((2 * LAYERS * blocks, KV_HEADS, size, HEAD_DIM), torch.bfloat16)
    pages = shuffled_table(2 * LAYERS, blocks)
    arms: dict[str, Arm] = {
        "memcpy": lambda: out.copy_(cache),
        "gather": lambda: gather_pages(pool, pages, out),
        "scatter": lambda: scatter_pages(cache, pool, pages),
        "rotate": lambda: rotate_keys(flat, *angles, out.view(flat.shape)),
    }
    spent = timed(arms, rounds)
    shares = {f"{name}_vs_memcpy": spent["memcpy"] / spent[name] for name in ("gather", "scatter", "rotate")}
    _row(report, "gather", page_tokens=size, megabytes=cache.nbytes / 1e6, **_milliseconds(spent), **shares)
    if size == 16:
        report.figures["gather_vs_memcpy"] = shares["gather_vs_memcpy"]


def _load(report: Report, bits: int, size: int, tokens: int, rounds: int) -> None:
    """The load path against its bound; keys of all tokens move by the same distance."""
    cache = random_tensor((LAYERS, 2, KV_HEADS, tokens, HEAD_DIM), torch.bfloat16)
    out = torch.empty_like(cache)
    frequencies = 1e5 ** (torch.arange(0, HEAD_DIM, 2) / -HEAD_DIM)
    angles = delta_angles(torch.zeros(1), torch.full((1,), 777.0), frequencies)
    blocks = tokens // size
    pool = QuantisedPages.empty(LAYERS * blocks, KV_HEADS, size, HEAD_DIM, bits)
    pages = shuffled_table(LAYERS, blocks)
    quantise_pages(cache, pool, pages)
    targets = torch.arange(2 * LAYERS, dtype=torch.int32).view(LAYERS, 2, 1)
    arms: dict[str, Arm] = {
        "memcpy": lambda: out.copy_(cache),
        "ours": lambda: dequant_rotate_gather(pool, pages, tokens, out.flatten(0, 1), targets, angles),
    }
    spent = timed(arms, rounds)
    eager: dict[str, Arm] = {
        "eager": lambda: eager_load(pool, pages, tokens, out.flatten(0, 1), targets, *angles, True)
    }
    spent |= timed(eager, 3)
    bound = spent["memcpy"] * (pool.bytes + out.nbytes) / (2 * out.nbytes)
    _row(
        report, f"load int{bits}", page_tokens=size, megabytes=out.nbytes / 1e6, **_milliseconds(spent),
        bound_ms=bound, over_bound=spent["ours"] / bound, eager_over_memcpy=spent["eager"] / spent["memcpy"],
    )  # fmt: skip
    if size == 64:
        report.figures[f"dequant_rotate_over_bound_int{bits}"] = spent["ours"] / bound


def _decode(report: Report, dtype: torch.dtype, rounds: int) -> None:
    batch, length, size = 64, 512, 16
    blocks = length // size
    pool = random_tensor((2 * batch * blocks, KV_HEADS, size, HEAD_DIM), dtype)
    pages = shuffled_table(2 * batch, blocks).view(batch, 2, blocks)
    query = random_tensor((batch, HEADS, HEAD_DIM), dtype, 1)
    lengths = torch.full((batch,), length, dtype=torch.int32)
    keys, values = (random_tensor((batch, KV_HEADS, length, HEAD_DIM), dtype, seed) for seed in (2, 3))
    rows = query.unsqueeze(2)
    folded = query.view(batch, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM)
    spread = [part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (keys, values)]
    arms: dict[str, Arm] = {
        "ours": lambda: paged_attention_decode(query, pool, pool, pages, lengths, scaling=SCALING),
        "sdpa_gqa": lambda: scaled_dot_product_attention(rows, keys, values, enable_gqa=True),
        "sdpa_repeated": lambda: scaled_dot_product_attention(rows, *spread),
        "sdpa_folded": lambda: scaled_dot_product_attention(folded, keys, values),
    }
    spent = timed(arms, rounds)
    best = min(value for name, value in spent.items() if name != "ours")
    _row(report, "decode", dtype=_name(dtype), **_milliseconds(spent), vs_fastest_sdpa=spent["ours"] / best)
    suffix = "" if dtype == torch.float32 else f"_{_name(dtype)}"
    report.figures[f"paged_decode_vs_sdpa{suffix}"] = spent["ours"] / best


def _prefill(report: Report, dtype: torch.dtype, rounds: int) -> None:
    rows, length, size = 16, 2_048, 16
    shape = (LAYERS, 2, KV_HEADS, length, HEAD_DIM)
    cache = random_tensor(shape, dtype)
    blocks = length // size
    pages = shuffled_table(2 * LAYERS, blocks)
    pool = torch.empty((2 * LAYERS * blocks, KV_HEADS, size, HEAD_DIM), dtype=dtype)
    scatter_pages(cache.flatten(0, 1), pool, pages)
    query = random_tensor((rows, HEADS, HEAD_DIM), dtype, 1)
    starts, lengths = torch.tensor([0, rows], dtype=torch.int32), torch.tensor([length], dtype=torch.int32)
    whole = torch.zeros((1, 2, 1), dtype=torch.int32)
    folded = query.transpose(0, 1).reshape(1, KV_HEADS, -1, HEAD_DIM)

    def over_pages() -> None:
        for layer in range(LAYERS):
            paged_attention_prefill(
                query, starts, pool, pool, pages[2 * layer : 2 * layer + 2].unsqueeze(0), lengths, scaling=SCALING,
                causal=False,
            )  # fmt: skip

    def contiguous() -> None:
        for layer in cache:
            paged_attention_prefill(query, starts, layer[:1], layer[1:], whole, lengths, scaling=SCALING, causal=False)

    def flash() -> None:
        for layer in cache:
            scaled_dot_product_attention(folded, layer[:1], layer[1:])

    spent = timed({"paged": over_pages, "one_page": contiguous, "sdpa_folded": flash}, rounds)
    gigaflop = 4 * rows * HEADS * HEAD_DIM * length * LAYERS / 1e9
    _row(
        report, "prefill", dtype=_name(dtype), **_milliseconds(spent), gflop_per_s=gigaflop / spent["paged"] * 1e3,
        vs_sdpa=spent["paged"] / spent["sdpa_folded"],
    )  # fmt: skip


class Module:
    """One projection's adapters: in shuffled pages, in slots shuffled one by one, and contiguous."""

    def __init__(self, adapters: int, seed: int) -> None:
        chunks = HIDDEN // WIDTH
        uses = [[(adapter, 1.0)] for adapter in range(adapters)]
        self.pool, self.step, _ = adapter_step([[RANK]] * adapters, [(chunks, chunks)], WIDTH, uses, order=seed)
        rows = adapters * RANK
        self.slots = huge_tensor((2 * rows * chunks, WIDTH), torch.float32).normal_()
        pages = shuffled_table(2 * rows, chunks, seed)
        starts = torch.arange(0, rows + 1, RANK, dtype=torch.int32)
        self.down, self.up = RankRows(pages[:rows].clone(), starts), RankRows(pages[rows:].clone(), starts)
        self.a, self.b = huge_tensor((2, adapters, RANK, HIDDEN), torch.float32).normal_()

    def paged(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Add what the adapters say, as a model serves them."""
        apply_adapters(x, self.pool, self.step, 0, out)

    def apart(self, x: torch.Tensor, plan: LoraPlan, out: torch.Tensor) -> None:
        """The same by two kernels."""
        lora_expand(lora_shrink(x, self.slots, self.down, plan), self.slots, self.up, plan, out)

    def bmm(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """The same with one adapter per token, in order, contiguous."""
        inner = torch.bmm(self.a, x.unsqueeze(2))
        out += torch.bmm(inner.transpose(1, 2), self.b).squeeze(1)


def _lora(report: Report, adapters: int, modules: int, rounds: int) -> None:
    """Time per module; all modules are cycled, so that each is cold when its turn comes."""
    cycle = [Module(adapters, 10 * seed) for seed in range(modules)]
    x, out = random_tensor((adapters, HIDDEN)), torch.zeros(adapters, HIDDEN)
    plan = plan_lora([[(adapter, 1.0)] for adapter in range(adapters)], cycle[0].down.starts)

    def paged() -> None:
        for module in cycle:
            module.paged(x, out)

    def apart() -> None:
        for module in cycle:
            module.apart(x, plan, out)

    def bmm() -> None:
        for module in cycle:
            module.bmm(x, out)

    block = huge_tensor((max(1, 240 // modules), 131_072 * modules), torch.float32).normal_()
    arms: dict[str, Arm] = {"ours": paged, "shrink_expand": apart, "bmm": bmm, "read": lambda: block.sum()}
    peft = _peft(adapters, modules) if adapters == 64 else None
    if peft is not None:
        arms |= {"peft": lambda: peft[0](x), "base": lambda: peft[1](x)}
    spent = timed(arms, rounds)
    bandwidth = block.nbytes / spent["read"]
    each = {name: value / modules for name, value in spent.items() if name != "read"}
    share = adapters * RANK * 2 * HIDDEN * 4 / each["ours"] / bandwidth
    row = {name: each.get(name) for name in ("ours", "shrink_expand", "bmm")}
    row["peft"] = each["peft"] - each["base"] if peft is not None else None
    _row(report, "lora", adapters=adapters, modules=modules, **_milliseconds(row), share_of_read_bandwidth=share)
    report.figures[f"lora_{adapters}_ms"] = each["ours"]
    report.figures[f"lora_{adapters}_read_bandwidth"] = share
    report.figures[f"lora_{adapters}_vs_bmm"] = each["ours"] / each["bmm"]
    if row["peft"] is not None:
        report.figures["lora_64_vs_peft"] = each["ours"] / row["peft"]
    elif adapters == 64:
        report.missing("lora_64_vs_peft", "peft is not installed")


def _peft(adapters: int, modules: int) -> tuple[Arm, Arm] | None:
    """Return PEFT's mixed batch over a chain of projections, and the projections alone."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return None
    names = [f"adapter{number}" for number in range(adapters)]
    base = torch.nn.Sequential(*(torch.nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(modules)))
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=[str(i) for i in range(modules)], init_lora_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a Sequential has no configuration of a model
        model: Any = get_peft_model(base, config, adapter_name=names[0])
        for name in names[1:]:
            model.add_adapter(name, config)
    layers = [model.base_model.model[i] for i in range(modules)]
    for layer in layers:
        layer.eval()

    def mixed(x: torch.Tensor) -> None:
        for layer in layers:
            layer(x, adapter_names=names)

    def alone(x: torch.Tensor) -> None:
        for layer in layers:
            layer.base_layer(x)

    return mixed, alone


def _compile(report: Report) -> None:
    """Time to a first result in a new process, and what of it is compilation."""
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=ROOT) as folder:
        seconds = [_first_calls(folder) for _ in range(2)]
    report.figures["compile_first_s"], report.figures["compile_cached_s"] = seconds
    _row(report, "compile", empty_cache_s=seconds[0], full_cache_s=seconds[1])


def _first_calls(cache: str) -> float:
    command = [sys.executable, "-m", "memos_kernels.warm"]
    run = subprocess.run(
        command, env={**os.environ, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=True
    )
    return float(run.stdout.split()[-2])


def _milliseconds(spent: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}_ms": value for name, value in spent.items()}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main())

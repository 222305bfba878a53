"""Time to first token with a memory's KV cache reloaded from its file, against computing it; and how exact that is.

Arms, interleaved round by round on the bundled model, float32 unless a row says otherwise:
  recompute   prefill of memory and question together
  question    prefill of the question alone: nothing with a memory can be faster, so (recompute / question) is the
              ceiling of the gain
  reload      look up and open the file (warm), read, verify and decode it, prefill the question behind it
  hot         the same with the cache in host memory
Then: logits and greedy text of reload against recompute, the load path against memcpy, and dump and load of a small
cache against upstream's pickle. llama.cpp does the same with its own state file, on quantised weights: compare each
one's gain over its own prefill.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import ROOT, Report, parser, table
from peers import llama_state, memoryos_kv

from memos.activation.codecs.registry import make_codec
from memos.activation.container import KVHeader
from memos.activation.files import KVFiles
from memos.activation.kv import KVBlock, KVShape, KVSource
from memos.activation.layered import LayeredKV
from memos.activation.loader import load, overlap_pays
from memos.activation.opened import Expected
from memos.clock import now_us
from memos.ids import new_id
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Request, Runtime

TENANT = "bench"
MEMORY, QUESTION = 2_048, 16
CODECS = ("raw", "lossless")
#: Between arms: threads of one's parallel loops turn for a while after it, at the cost of the next.
PAUSE_S = 0.05
TEXT = ROOT / "memos" / "demo" / "alice.txt"


@dataclass(frozen=True, slots=True)
class Stored:
    """A cache on disk, and what it has to be to be used."""

    key: str
    expected: Expected
    bytes: int


class Shelf:
    """KV files in a temporary folder."""

    def __init__(self, folder: Path, shape: KVShape, fingerprint: str) -> None:
        self.files = KVFiles(folder, 1 << 40, 0)
        self._shape = shape
        self._fingerprint = fingerprint

    def store(self, tokens: Sequence[int], kv: KVBlock, codec: str) -> Stored:
        """Encode and publish a cache."""
        name = make_codec(codec)
        key = self.files.key(TENANT, codec, new_id(), tokens=tokens)
        header = KVHeader(
            key=key,
            cube_id=new_id(),
            fingerprint=self._fingerprint,
            sources=((new_id(), 1),),
            token_ids=tuple(tokens),
            head_tokens=0,
            shape=self._shape,
            codec=name.spec,
            created_at=now_us(),
        )
        published = self.files.publish(TENANT, header, name.encode(kv))
        return Stored(key, Expected(self._fingerprint, self._shape, header.sources, tokens), published.bytes)

    def load(self, stored: Stored) -> LayeredKV:
        """Open and load; where cores are left for it, layers arrive while earlier ones are in use."""
        kv = load(self.files.open(TENANT, stored.key, stored.expected))
        if not overlap_pays():
            kv.wait()
        return kv


def main() -> int:
    """Run every part."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(2)
    report = Report("activation_ttft", options)
    loaded = load_model()
    runtime = Runtime(loaded)
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=ROOT) as folder:
        shelf = Shelf(Path(folder), loaded.shape, loaded.identity.fingerprint)
        _ttft(report, loaded, runtime, shelf, rounds=5 if options.quick else 11)
        _exactness(report, loaded, runtime, shelf, prompts=10 if options.quick else 50)
        _load_path(report, loaded.shape, shelf, rounds=15 if options.quick else 41)
        _dump_load(report, Path(folder), rounds=5 if options.quick else 15)
    _llama(report, loaded, rounds=3 if options.quick else 7)
    table([row for row in report.rows if row["arm"] != "dump and load"])
    report.finish()
    return 0


# ------------------------------------------------------------ time to first token


def _ttft(report: Report, loaded: LoadedModel, runtime: Runtime, shelf: Shelf, *, rounds: int) -> None:
    tokens = _text_tokens(loaded, MEMORY + QUESTION)
    memory, question = tokens[:MEMORY], tokens[MEMORY:]
    kv = runtime.prefill(memory)
    stored = {codec: shelf.store(memory, kv, codec) for codec in CODECS}

    def first(prompt: Sequence[int], prefix: KVSource | None = None) -> float:
        start = time.perf_counter()
        next(iter(runtime.generate(Request(tuple(prompt), prefix=prefix, max_tokens=1, share=False))), None)
        return (time.perf_counter() - start) * 1e3

    def reload(codec: str) -> float:
        start = time.perf_counter()
        cache = shelf.load(stored[codec])
        opened = (time.perf_counter() - start) * 1e3
        return opened + first(tokens, cache)

    arms: dict[str, Callable[[], float]] = {"recompute": lambda: first(tokens), "question": lambda: first(question)}
    arms |= {f"reload {codec}": lambda codec=codec: reload(codec) for codec in CODECS}  # type: ignore[misc]
    arms["hot"] = lambda: first(tokens, kv)
    times = _interleaved(arms, rounds)
    ceiling = _ratio(times["recompute"], times["question"])
    for arm, taken in times.items():
        gain = _ratio(times["recompute"], taken)
        size = stored[arm.removeprefix("reload ")].bytes if arm.startswith("reload") else None
        row = {"arm": arm, "ms": statistics.median(taken), "gain": gain, "share_of_ceiling": gain / ceiling}
        report.rows.append({**row, "file_bytes": size})
    chosen = next(row for row in report.rows if row["arm"] == "reload raw")
    exact = next(row for row in report.rows if row["arm"] == "reload lossless")
    report.figures["ttft_speedup"] = chosen["gain"]
    report.figures["ttft_share_of_ceiling"] = chosen["share_of_ceiling"]
    report.figures["ttft_speedup_lossless"] = exact["gain"]
    report.figures["ttft_share_of_ceiling_lossless"] = exact["share_of_ceiling"]
    report.figures["ttft_ceiling"] = ceiling
    report.notes.append(
        f"{MEMORY}-token memory, {QUESTION}-token question, {rounds} rounds; gains are medians of the ratios within a "
        f"round; the raw codec keeps {stored['raw'].bytes / 1e6:.1f} MB, lossless {stored['lossless'].bytes / 1e6:.1f}"
    )


# ------------------------------------------------------------ exactness


def _exactness(report: Report, loaded: LoadedModel, runtime: Runtime, shelf: Shelf, *, prompts: int) -> None:
    """Compare logits behind the cache and greedy text, prompt by prompt, each on another stretch of the book.

    Recompute is what the runtime does when a file is missing, and, beside it, with steps that know no seam; on some
    prompts both, and reload, are compared with transformers' own forward in float64.
    """
    worst, unaligned, identical = 0.0, 0.0, 0
    errors: dict[str, float] = {"recompute": 0.0, "reload": 0.0}
    double = copy.deepcopy(loaded.model).double()
    double.set_attn_implementation("sdpa")
    text = _text_tokens(loaded, 30_000)
    for number in range(prompts):
        length, start = 128 + 8 * number, 97 * number
        tokens = text[start : start + length + QUESTION]
        memory = tokens[:length]
        stored = shelf.store(memory, runtime.prefill(memory), CODECS[number % 2])
        cache = shelf.load(stored).wait()
        whole, behind = runtime.logits(tokens, seam=length)[length:], runtime.logits(tokens, cache)
        worst = max(worst, float((whole - behind).abs().max()))
        unaligned = max(unaligned, float((runtime.logits(tokens)[length:] - behind).abs().max()))
        if number % 10 == 0:
            with torch.inference_mode():
                exact = double(torch.tensor([tokens]), use_cache=False).logits[0, length:]
            for name, logits in (("recompute", whole), ("reload", behind)):
                errors[name] = max(errors[name], float((logits - exact).abs().max()))
        texts = [
            runtime.generate(Request(tuple(tokens), prefix=prefix, max_tokens=24, seam=length)).finish().tokens
            for prefix in (None, cache)
        ]
        identical += texts[0] == texts[1]
        shelf.files.remove(stored.key)
    report.figures["prefix_logit_max_diff"] = worst
    report.figures["prefix_logit_max_diff_other_steps"] = unaligned
    report.figures |= {f"logit_error_{name}_vs_float64": error for name, error in errors.items()}
    report.figures["greedy_identical"] = identical / prompts
    report.notes.append(
        f"exactness over {prompts} prompts of 144 to {128 + 8 * prompts + 8} tokens, 24 greedy tokens each"
    )


# ------------------------------------------------------------ the load path


def _load_path(report: Report, shape: KVShape, shelf: Shelf, *, rounds: int) -> None:
    """Load a raw file into memory, checked, against copying as many bytes from memory to memory."""
    tokens = list(range(MEMORY))
    kv = KVBlock(shape, torch.randn(shape.empty(MEMORY).shape))
    stored = {codec: shelf.store(tokens, kv, codec) for codec in CODECS}
    target = torch.empty_like(kv.data)
    arms: dict[str, Callable[[], float]] = {"memcpy": lambda: _timed(lambda: target.copy_(kv.data))}
    for codec in CODECS:
        arms[f"load {codec}"] = lambda codec=codec: _timed(lambda: shelf.load(stored[codec]).wait())  # type: ignore[misc]
    times = _interleaved(arms, rounds)
    size = shape.bytes(MEMORY)
    for arm, taken in times.items():
        speed = _ratio(times["memcpy"], taken)
        row = {"arm": arm, "ms": statistics.median(taken), "gain": None, "share_of_ceiling": speed}
        report.rows.append({**row, "file_bytes": stored[arm.removeprefix("load ")].bytes if "load" in arm else size})
    report.figures["load_vs_memcpy"] = _ratio(times["memcpy"], times["load raw"])
    report.figures["load_vs_memcpy_lossless"] = _ratio(times["memcpy"], times["load lossless"])
    report.figures["memcpy_gb_s"] = size / 1e6 / statistics.median(times["memcpy"])


def _dump_load(report: Report, folder: Path, *, rounds: int) -> None:
    """Dump and load 1,072 tokens: ours with checksums and fsync, upstream's pickle with neither."""
    for name, form in memoryos_kv.SHAPES.items():
        shape = KVShape(form.layers, form.heads, form.head_dim, form.dtype)
        kv = KVBlock(shape, torch.randn(shape.empty(form.tokens).shape).to(shape.torch_dtype))
        shelf, tokens = Shelf(folder / name, shape, "f" * 64), list(range(form.tokens))
        peer = memoryos_kv.measure(form, report.notes, rounds=rounds)
        row: dict[str, object] = {"arm": "dump and load", "shape": name}
        for codec in CODECS:
            taken = [_dump_and_load(shelf, tokens, kv, codec) for _ in range(rounds + 1)][1:]
            row[f"{codec}_ms"] = statistics.median(taken)
        row["upstream_ms"] = peer and peer["dump_ms"] + peer["load_ms"]
        row["upstream_fsync_ms"] = peer and peer["dump_fsync_ms"] + peer["load_ms"]
        report.rows.append(row)
        for label, key in (("", "upstream_ms"), ("_fsync", "upstream_fsync_ms")):
            figure = f"dump_load{label}_vs_upstream_{name}"
            if peer is None:
                report.missing(figure, "upstream could not be run")
            else:
                report.figures[figure] = float(row["raw_ms"]) / float(row[key])  # type: ignore[arg-type]


def _dump_and_load(shelf: Shelf, tokens: Sequence[int], kv: KVBlock, codec: str) -> float:
    start = time.perf_counter()
    stored = shelf.store(tokens, kv, codec)
    shelf.load(stored).wait()
    taken = (time.perf_counter() - start) * 1e3
    shelf.files.remove(stored.key)
    return taken


def _llama(report: Report, loaded: LoadedModel, *, rounds: int) -> None:
    tokens = _text_tokens(loaded, MEMORY + QUESTION)
    peer = llama_state.measure(tokens[:MEMORY], tokens[MEMORY:], report.notes, rounds=rounds)
    if peer is None:
        report.missing("ttft_speedup_llama_cpp", "llama.cpp could not be run")
        return
    gain, ceiling = peer["ttft_full_ms"] / peer["ttft_file_ms"], peer["ttft_full_ms"] / peer["suffix_ms"]
    report.figures["ttft_speedup_llama_cpp"] = gain
    row = {"arm": "llama.cpp state file", "ms": peer["ttft_file_ms"], "gain": gain, "share_of_ceiling": gain / ceiling}
    report.rows.append({**row, "file_bytes": peer["file_bytes"]})


# ------------------------------------------------------------ inside


def _text_tokens(loaded: LoadedModel, count: int) -> list[int]:
    found: list[int] = loaded.tokenizer(TEXT.read_text(), add_special_tokens=False)["input_ids"]
    return (found * (count // len(found) + 1))[:count]


def _timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def _interleaved(arms: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of every arm, round by round; one round before is not counted."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds + 1):
        for arm, act in arms.items():
            time.sleep(PAUSE_S)
            taken = act()
            if number:
                times[arm].append(taken)
    return times


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median([one / other for one, other in zip(above, below, strict=True)])


if __name__ == "__main__":
    sys.exit(main())

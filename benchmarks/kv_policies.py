"""Policies that choose what to keep of a KV cache, at 50 % and 20 % of its entries, and chains of policy and codec.

Everything is compared at equal bytes with two controls that keep the sinks too: tokens at random, and the latest. A
policy gives half of its budget to what a second reading of the context looks at; with `,read=0` it is as published.
  continuation   KL(full ‖ pruned) per token over the 256 tokens after a context of 1,024
  finding        negative log-likelihood of an answer that stands in the context, and how often it would be given
                 greedily, word for word: a value by its key (8 pairs of UUIDs), a number in an essay; with the question
                 hidden (asked after pruning, which is how a memory is used) and shown (pruned with the context)
  chains         bits per element of the published file, every byte counted, against that KL
  cost           of 2,048 tokens, medians of rounds in turn: computing, noting and encoding a cache for a policy, and a
                 decode step behind what is left, beside the whole cache
Chains and options were chosen on wikitext2 and prose; essays and kv-retrieval were only measured on.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from activation_ttft import TENANT, Shelf
from finding import Item, answered, items
from harness import ROOT, Report, parser, table
from kv_codecs import CONTEXT, Window, texts_of, windows_of
from pareto import scatter
from peers import kvpress_policies

from memos.activation.codecs.registry import make_codec
from memos.activation.kv import KVBlock
from memos.activation.layered import RaggedKV
from memos.activation.loader import load
from memos.activation.loss import decode
from memos.activation.observing import observed_prefill
from memos.activation.policies import CONTROLS, POLICIES
from memos.activation.seen import Need, Seen
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Request, Runtime

RATIOS = (0.5, 0.2)
NAMES = sorted(POLICIES.keys() - set(CONTROLS))
PUBLISHED = [f"{name},read=0" for name in NAMES if name != "kvzip"]
EVERYTHING = (*CONTROLS, *NAMES, *PUBLISHED)
CHAINS = [
    *(f"transform:quality={step}" for step in (0.7, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7)),
    *(
        f"{name}:{ratio}{merger}+transform:quality={step}"
        for name, merger in (("prefixkv", "+d2o"), ("ems", ""), ("d2o", ""), ("chelsea", ""))
        for ratio in (0.2, 0.25, 0.3, 0.4)
        for step in (0.9, 1.2)
    ),
    *(f"{name}:0.3+transform:quality=1.2" for name in ("cake", "expected", "kvzip", "lazy", "razor", "snapkv")),
    *(f"cake:{ratio},read=0+transform:quality=1.2" for ratio in (0.6, 0.7)),
    "ems:0.3+pca:0.75+int4",
    "ems:0.3+int4",
    "ems:0.3+zipcache",
    "pca:0.75+int4",
]
QUICK_CHAINS = ["transform:quality=1.5", "ems:0.3+transform:quality=1.2"]
#: What is timed behind how many tokens, how often, and the tokens that are decoded.
TIMED, LONG, ROUNDS, DECODED = ("ems:0.3,read=0", "ems:0.3"), 2_048, 5, 17
#: The whole cache, a row among the others.
FULL = "raw"
BAR = 0.03


class Noting:
    """Prefills with everything noted that any policy needs; which heads copy is found once."""

    def __init__(self, loaded: LoadedModel, runtime: Runtime) -> None:
        self._runtime = runtime
        vocabulary = loaded.model.config.vocab_size
        self._copying = observed_prefill(runtime, [vocabulary - 1] * 4, make_codec("razor:0.5"), vocabulary).seen

    def prefill(self, tokens: Sequence[int]) -> KVBlock:
        """Return the cache of some tokens, from position 0."""
        kv = self._runtime.prefill(tokens, frozenset(Need) - {Need.COPYING})
        return replace(kv, seen=replace(_noted(kv.seen), copying=_noted(self._copying).copying))


def _noted(seen: Seen | None) -> Seen:
    if seen is None:
        raise LookupError("nothing was noted")
    return seen


PARTS = ("continuation", "finding", "chains", "kvpress", "cost")


def main() -> int:
    """Measure continuation, finding, chains and the peer, or some of them."""
    options = parser(__doc__ or "", data=True, parts=PARTS).parse_args()
    torch.set_num_threads(2)
    report = Report("kv_policies", options)
    if options.data is None:
        return report.without_data("policies_beating_random", "policies_total", "best_chain_bits_at_kl_03")
    parts = report.begin(PARTS)
    _Measuring(report, Path(options.data), quick=options.quick).run(parts)
    _figures(report)
    if options.json:
        _picture(report, Path(options.json).with_suffix(".svg"))
    report.finish()
    return 0


class _Measuring:
    """The parts, on one model and the same windows."""

    def __init__(self, report: Report, data: Path, *, quick: bool) -> None:
        self._report, self._data, self._quick = report, data, quick
        self._loaded = load_model()
        self._runtime = Runtime(self._loaded)
        self._noting = Noting(self._loaded, self._runtime)
        self._windows = self._windows_of(each=1 if quick else 2)
        self._ratios = RATIOS[:1] if quick else RATIOS

    def _windows_of(self, each: int) -> list[Window]:
        windows = windows_of(self._loaded, self._runtime, texts_of(self._data), each=each)
        for window in windows:
            window.kv = self._noting.prefill(window.tokens[:CONTEXT])
        return windows

    def run(self, parts: Sequence[str]) -> None:
        """Measure some parts, in their order."""
        for part in PARTS:
            if part in parts:
                getattr(self, f"_{part}")()

    def _continuation(self) -> None:
        for row in _continuations(self._runtime, self._windows, self._ratios):
            _add(self._report, row)

    def _finding(self) -> None:
        for item in items(self._loaded, self._data, each=1 if self._quick else 8):
            self._report.rows += _found(self._runtime, self._noting, item, self._ratios)
            self._report.save()

    def _chains(self) -> None:
        """On the windows that codecs alone were measured on."""
        windows = self._windows if self._quick else self._windows_of(each=4)
        with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=ROOT) as folder:
            shelf = Shelf(Path(folder), self._loaded.shape, self._loaded.identity.fingerprint)
            for spec in QUICK_CHAINS if self._quick else CHAINS:
                _add(self._report, _chain(self._runtime, shelf, windows, spec))

    def _cost(self) -> None:
        text = texts_of(self._data)["essays"][: 8 * LONG]
        tokens = self._loaded.tokenizer(text, add_special_tokens=False)["input_ids"][: LONG + 1]
        self._report.rows += _costs(self._runtime, tokens, self._loaded.model.config.vocab_size)

    def _kvpress(self) -> None:
        windows = [(window.text, window.tokens) for window in self._windows]
        kvpress_policies.measure(self._report, self._loaded, windows, CONTEXT, self._ratios)


def _add(report: Report, row: dict[str, Any]) -> None:
    report.rows.append(row)
    table([row])
    report.save()


def _figures(report: Report) -> None:
    """Figures and their notes from all rows, those of earlier runs too."""
    report.figures.clear()
    report.notes = [note for note in report.notes if note.startswith(("parts of it", "kvpress was not"))]
    _continuation_figures(report)
    _finding_figures(report)
    _chain_figures(report)
    _peer_figures(report)
    _cost_figures(report)


# ------------------------------------------------------------ continuation


def _continuations(runtime: Runtime, windows: Sequence[Window], ratios: Sequence[float]) -> Iterator[dict[str, Any]]:
    for ratio in ratios:
        for name in EVERYTHING:
            codec = make_codec(_spec(name, ratio))
            scores, sizes = [], []
            for window in windows:
                encoded = codec.encode(window.kv)
                logits = runtime.logits(window.tokens, decode(window.kv, codec, encoded))
                scores.append((window.text, *window.compare(logits)))
                sizes.append(8 * encoded.bytes / window.kv.data.numel())
            yield {"part": "continuation", "policy": name, "kept": ratio, **_means(scores), "bits": _mean(sizes)}


def _means(scores: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    texts = dict.fromkeys(score[0] for score in scores)
    found = {f"kl_{text}": _mean([kl for name, kl, _ in scores if name == text]) for text in texts}
    return {**found, "kl": _mean([kl for _, kl, _ in scores]), "top1": _mean([top for _, _, top in scores])}


def _continuation_figures(report: Report) -> None:
    rows = [row for row in report.rows if row["part"] == "continuation"]
    report.figures |= {"policies_total": len(NAMES), "policies_published": len(PUBLISHED)}
    _counts(report, rows, "policies_beating", lambda row: row["kl"])


def _counts(report: Report, rows: Sequence[dict[str, Any]], key: str, loss: Callable[[dict[str, Any]], float]) -> None:
    """Count the policies, as they are and as published, that lose less than each control at every share kept."""
    losses = {(row["policy"], row["kept"]): loss(row) for row in rows}
    ratios = dict.fromkeys(row["kept"] for row in rows)
    for control in CONTROLS:
        for names, what in ((NAMES, control), (PUBLISHED, f"{control}_published")):
            behind = [
                (name, ratio) for name in names for ratio in ratios if losses[name, ratio] >= losses[control, ratio]
            ]
            report.figures[f"{key}_{what}"] = len(names) - len({name for name, _ in behind})
            if behind:
                told = ", ".join(f"{name.removesuffix(',read=0')}:{ratio}" for name, ratio in behind)
                report.notes.append(f"{key}_{what}: not better are {told}")


def _spec(name: str, ratio: float) -> str:
    """Return the codec of a policy with its options, such as ``h2o,read=0``, at a share kept."""
    policy, _, options = name.partition(",")
    return f"{policy}:{ratio}" + (f",{options}" if options else "")


# ------------------------------------------------------------ finding


def _found(runtime: Runtime, noting: Noting, item: Item, ratios: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield how well the answer is found, with the question hidden and shown, by every policy and the whole cache."""
    for shown in (False, True):
        known = [*item.context, *item.question] if shown else list(item.context)
        asked = [*item.context, *item.question, *item.answer]
        kv = noting.prefill(known[:-1] if shown else known)
        pruned = [(ratio, name) for ratio in ratios for name in EVERYTHING]
        for ratio, name in [(1.0, FULL), *pruned]:
            codec = make_codec(name if name == FULL else _spec(name, ratio))
            logits = runtime.logits(asked, decode(kv, codec, codec.encode(kv)))
            row = {"part": "finding", "kind": item.kind, "question": "shown" if shown else "hidden"}
            yield {**row, "policy": name, "kept": ratio, **answered(logits, item.answer)}


def _finding_figures(report: Report) -> None:
    report.rows = [row for row in report.rows if row.get("kind") != "all"]
    for question in ("hidden", "shown"):
        rows = [row for row in report.rows if row["part"] == "finding" and row["question"] == question]
        means = [
            {
                "part": "finding",
                "kind": "all",
                "question": question,
                "policy": name,
                "kept": kept,
                **_summary(rows, name, kept),
            }
            for name, kept in dict.fromkeys((row["policy"], row["kept"]) for row in rows)
        ]
        table(means)
        report.rows += means
        _counts(report, [row for row in means if row["policy"] != FULL], f"finding_{question}", lambda row: row["nll"])


def _summary(rows: Sequence[dict[str, Any]], name: str, kept: float) -> dict[str, float]:
    mine = [row for row in rows if row["policy"] == name and row["kept"] == kept]
    by_kind = {
        f"{what}_{kind}": _mean([row[what] for row in mine if row["kind"] == kind])
        for kind in dict.fromkeys(row["kind"] for row in mine)
        for what in ("nll", "recalled")
    }
    return {"nll": _mean([row["nll"] for row in mine]), **by_kind}


# ------------------------------------------------------------ chains


def _chain(runtime: Runtime, shelf: Shelf, windows: Sequence[Window], spec: str) -> dict[str, Any]:
    scores, sizes, held = [], [], []
    for window in windows:
        stored = shelf.store(window.tokens[:CONTEXT], window.kv, spec)
        cache = load(shelf.files.open(TENANT, stored.key, stored.expected))
        cache.settle()
        scores.append((window.text, *window.compare(runtime.logits(window.tokens, cache))))
        sizes.append(8 * stored.bytes / window.kv.data.numel())
        held.append(cache.bytes / window.kv.data.nbytes if isinstance(cache, RaggedKV) else 1.0)
        shelf.files.remove(stored.key)
    return {"part": "chains", "chain": spec, "bits": _mean(sizes), "memory": _mean(held), **_means(scores)}


def _chain_figures(report: Report) -> None:
    rows = [row for row in report.rows if row["part"] == "chains"]
    for key, mine in {
        "best_chain_bits_at_kl_03": [row for row in rows if row["chain"].split(":")[0] in POLICIES],
        "published_chain_bits_at_kl_03": [row for row in rows if ",read=0" in row["chain"]],
        "codec_bits_at_kl_03": [row for row in rows if row["chain"].startswith("transform")],
    }.items():
        within = [row for row in mine if max(row["kl_wikitext2"], row["kl_essays"]) <= BAR]
        best = min(within, key=lambda row: row["bits"], default=None)
        if best is None:
            report.missing(key, f"nothing that was measured stays within {BAR} on both texts")
        else:
            report.figures[key] = best["bits"]
            report.notes.append(f"{key} is {best['chain']}'s")


# ------------------------------------------------------------ the peer


def _peer_figures(report: Report) -> None:
    """Of the methods that both have, at each share kept: how many lose no more than kvpress's, and how many published.

    Bytes are equal but for rounding to whole entries.
    """
    for published, key in ((False, "kl_at_or_below_kvpress"), (True, "kl_at_or_below_kvpress_published")):
        pairs = list(_pairs(report, published=published))
        if not pairs:
            report.missing(key, "kvpress was not measured")
            continue
        behind = [f"{name} ({ours:.4f}, kvpress {theirs:.4f})" for name, ours, theirs in pairs if ours > theirs]
        report.figures |= {key: len(pairs) - len(behind), "kl_beside_kvpress": len(pairs)}
        if behind:
            report.notes.append(f"{key}: kvpress loses less than {', '.join(behind)}")


def _pairs(report: Report, *, published: bool) -> Iterator[tuple[str, float, float]]:
    """Yield the methods that both have at each share kept, with our KL and theirs."""
    rows = {
        (row["policy"], row["kept"]): row["kl"] for row in report.rows if row["part"] in ("continuation", "kvpress")
    }
    for name, press in kvpress_policies.SHARED.items():
        own = f"{name},read=0" if published and f"{name},read=0" in PUBLISHED else name
        for kept in RATIOS:
            if (own, kept) in rows and (press, kept) in rows:
                yield _spec(own, kept), rows[own, kept], rows[press, kept]


# ------------------------------------------------------------ cost


def _costs(runtime: Runtime, tokens: Sequence[int], vocabulary: int) -> Iterator[dict[str, Any]]:
    making: dict[str, list[float]] = {spec: [] for spec in (FULL, *TIMED)}
    steps: dict[str, list[float]] = {spec: [] for spec in making}
    for _ in range(ROUNDS):
        for spec in making:
            codec, start = make_codec(spec), time.perf_counter()
            kv = observed_prefill(runtime, tokens[:-1], codec, vocabulary)
            encoded = codec.encode(kv)
            making[spec].append((time.perf_counter() - start) * 1e3)
            request = Request(tuple(tokens), prefix=decode(kv, codec, encoded), max_tokens=DECODED)
            answer = runtime.generate(request).finish()
            steps[spec].append((answer.total_ms - answer.first_token_ms) / max(len(answer.tokens) - 1, 1))
    for spec in making:
        medians = {"making_ms": statistics.median(making[spec]), "step_ms": statistics.median(steps[spec])}
        yield {"part": "cost", "codec": spec, "tokens": len(tokens) - 1, **medians}


def _cost_figures(report: Report) -> None:
    rows = {row["codec"]: row for row in report.rows if row["part"] == "cost"}
    if not rows:
        report.missing("making_with_reading_vs_published", "the part `cost` was not measured")
        return
    table(list(rows.values()))
    whole, published, own = (rows[spec] for spec in (FULL, *TIMED))
    report.figures |= {
        "making_with_reading_vs_published": own["making_ms"] / published["making_ms"],
        "making_with_reading_vs_whole": own["making_ms"] / whole["making_ms"],
        "step_behind_pruned_vs_whole": own["step_ms"] / whole["step_ms"],
    }


def _picture(report: Report, path: Path) -> None:
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for row in report.rows:
        if row["part"] == "chains":
            groups.setdefault(_group(row["chain"]), []).append(_point(row, row["chain"]))
        elif row["part"] == "kvpress":
            groups.setdefault("kvpress 0.5.5", []).append(_point(row, f"{row['policy']}, {row['kept']} kept"))
    path.write_text(scatter(groups, "bits per element of the whole cache, every byte counted", "KL, nats", BAR))


def _group(chain: str) -> str:
    name = chain.split(":")[0]
    if name not in POLICIES:
        return "codec alone"
    if ",read=0" in chain:
        return "policy as published"
    return name if name in ("prefixkv", "ems", "d2o", "chelsea") else "other policies"


def _point(row: dict[str, Any], label: str) -> tuple[float, float, str]:
    return row["bits"], max(row["kl_wikitext2"], row["kl_essays"]), label


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    sys.exit(main())

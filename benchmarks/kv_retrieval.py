"""Retrieval while decoding: of a long loaded context, each row attends a share of its pages.

Every method at equal shares, beside exact attention and two controls: pages at random, and the latest (with the first,
what StreamingLLM keeps). All attend the first page and the last two.
  continuation   KL(exact ‖ sparse) per token over the tokens after contexts of several lengths, two texts
  step           a decode step of one request on one thread / exact attention's, the least of several rounds,
                 interleaved: by the clock, and time of the processor, which neighbours on the machine disturb less
  finding        negative log-likelihood of an answer that stands in the context, and how often it would be given
                 greedily, word for word: a value by its key (8 pairs of UUIDs), a number in an essay
  heads          continuation with a page worth, to query heads that share keys, the sum of what it is worth to each
A quick run measures one length, and finding on one item of each kind.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from finding import answered, items
from harness import Report, parser, table

from memos.activation.kv import KVBlock
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Request, Runtime
from memos.runtime.retrieval import attending
from memos.runtime.retrieval.names import CONTROLS, METHODS, check_retrieval

LENGTHS, QUICK_LENGTHS = (2048, 4096, 6000), (4096,)
RATIOS = (0.1, 0.25, 0.5)
#: Tokens after a context, decoded tokens of a timed answer and how often it is given.
BEHIND, TIMED, ROUNDS = 32, 9, 3
#: Where the sum over heads is measured too.
SUMMED_LENGTH, SUMMED = 4096, 0.25
NAMES = [f"{method}:{ratio}" for ratio in RATIOS for method in (*CONTROLS, *METHODS)]
TEXTS = {"essays": "niah", "prose": "prose"}
PARTS = ("continuation", "step", "finding")
FIGURES = (
    "retrieval_beating_controls",
    "retrieval_finding_controls",
    "retrieval_kl_quest_25",
    "retrieval_step_quest_25",
)


@dataclass
class Context:
    """Tokens and the cache of the first of them; log probabilities of all behind, by exact attention."""

    text: str
    tokens: list[int]
    kv: KVBlock
    exact: torch.Tensor


def main() -> int:
    """Measure continuation, steps, finding and the sum over heads, or some of them."""
    options = parser(__doc__ or "", data=True, parts=PARTS).parse_args()
    report = Report("kv_retrieval", options)
    if options.data is None:
        return report.without_data(*FIGURES)
    parts = report.begin(PARTS)
    if "continuation" in parts:
        report.rows = [row for row in report.rows if row["part"] != "heads"]
    loaded = load_model()
    runtime = Runtime(loaded)
    texts = _texts(loaded, Path(options.data))
    for length in QUICK_LENGTHS if options.quick else LENGTHS:
        torch.set_num_threads(2)
        if "continuation" in parts:
            contexts = [_context(runtime, text, tokens, length) for text, tokens in texts.items()]
            _add(report, [_continuation(runtime, contexts, name) for name in NAMES])
            if length == SUMMED_LENGTH:
                _add(report, _heads(runtime, contexts))
        if "step" in parts:
            _add(report, _steps(runtime, texts["essays"][: length + 1]))
    if "finding" in parts:
        _add(report, _finding(loaded, runtime, Path(options.data), each=1 if options.quick else 3))
    _figures(report)
    report.finish()
    return 0


def _texts(loaded: LoadedModel, data: Path) -> dict[str, list[int]]:
    return {
        name: loaded.tokenizer("\n".join(_read(data / folder)), add_special_tokens=False)["input_ids"]
        for name, folder in TEXTS.items()
    }


def _read(folder: Path) -> Iterator[str]:
    return (path.read_text() for path in sorted(folder.rglob("*.txt")))


def _context(runtime: Runtime, text: str, tokens: Sequence[int], length: int) -> Context:
    chosen = list(tokens[: length + BEHIND])
    kv = runtime.prefill(chosen[:length])
    return Context(text, chosen, kv, runtime.logits(chosen, kv).log_softmax(-1))


def _add(report: Report, rows: Sequence[dict[str, Any]]) -> None:
    table(rows)
    report.rows += rows
    report.save()


def _shared(part: str, name: str, tokens: int) -> dict[str, Any]:
    retrieval = check_retrieval(name)
    share = retrieval.attended(tokens) / tokens
    return {"part": part, "method": retrieval.method, "ratio": retrieval.ratio, "tokens": tokens, "attended": share}


# ------------------------------------------------------------ parts


def _continuation(
    runtime: Runtime, contexts: Sequence[Context], name: str, part: str = "continuation"
) -> dict[str, Any]:
    found = {one.text: _divergence(runtime, one, name) for one in contexts}
    return {
        **_shared(part, name, contexts[0].kv.tokens),
        **{f"kl_{text}": kl for text, (kl, _) in found.items()},
        "kl": statistics.fmean(kl for kl, _ in found.values()),
        "top1": statistics.fmean(top for _, top in found.values()),
    }


def _divergence(runtime: Runtime, context: Context, name: str) -> tuple[float, float]:
    found = runtime.logits(context.tokens, context.kv, retrieval=name).log_softmax(-1)
    exact = context.exact
    kl = (exact.exp() * (exact - found)).sum(-1).mean()
    return float(kl), float((exact.argmax(-1) == found.argmax(-1)).float().mean())


def _heads(runtime: Runtime, contexts: Sequence[Context]) -> list[dict[str, Any]]:
    with patch.object(attending, "of_group", lambda scores: scores.sum(-2)):
        return [_continuation(runtime, contexts, f"{method}:{SUMMED}", "heads") for method in METHODS]


def _steps(runtime: Runtime, tokens: Sequence[int]) -> list[dict[str, Any]]:
    kv = runtime.prefill(tokens[:-1])
    torch.set_num_threads(1)
    times: dict[str | None, list[tuple[float, float]]] = {name: [] for name in (None, *NAMES)}
    for _ in range(ROUNDS + 1):  # in the first, caches are summarised
        for name in times:
            request = Request(tuple(tokens), prefix=kv, max_tokens=TIMED, retrieval=name)
            started = time.process_time()
            answer = runtime.generate(request).finish()
            busy = (time.process_time() - started) * 1e3 / len(answer.tokens)
            times[name].append(((answer.total_ms - answer.first_token_ms) / max(len(answer.tokens) - 1, 1), busy))
    exact = _least(times[None])
    return [
        {
            **_shared("step", name, kv.tokens),
            "exact_ms": exact[0],
            **_ratio(_least(times[name]), exact),
        }
        for name in NAMES
    ]


def _least(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(clock for clock, _ in times), min(busy for _, busy in times)


def _ratio(least: tuple[float, float], exact: tuple[float, float]) -> dict[str, float]:
    return {"ms": least[0], "of_exact": least[0] / exact[0], "busy_of_exact": least[1] / exact[1]}


def _finding(loaded: LoadedModel, runtime: Runtime, data: Path, each: int) -> list[dict[str, Any]]:
    """Return how well answers are found, by every method and exact attention, mean over the items of both kinds."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("exact:1", *NAMES)}
    lengths = []
    for item in items(loaded, data, each):
        kv = runtime.prefill(item.context)
        lengths.append(kv.tokens)
        asked = [*item.context, *item.question, *item.answer]
        for name, scores in found.items():
            scores.append(answered(runtime.logits(asked, kv, retrieval=_or_none(name)), item.answer))
    tokens = round(statistics.fmean(lengths))
    return [
        {
            **_shared("finding", name.replace("exact", "quest"), tokens),
            "method": name.split(":")[0],
            **{what: statistics.fmean(score[what] for score in scores) for what in ("nll", "recalled")},
        }
        for name, scores in found.items()
    ]


def _or_none(name: str) -> str | None:
    return None if name == "exact:1" else name


# ------------------------------------------------------------ figures


def _figures(report: Report) -> None:
    longest = max(row["tokens"] for row in report.rows if row["part"] == "continuation")
    kl = _by(report, "continuation", "kl", lambda row: row["tokens"] == longest)
    step = _by(report, "step", "busy_of_exact", lambda row: row["tokens"] == longest)
    nll = _by(report, "finding", "nll")
    report.figures["retrieval_context"] = longest
    report.figures["retrieval_methods"] = len(METHODS)
    for key, losses in {"beating": kl, "finding": nll}.items():
        report.figures[f"retrieval_{key}_controls"] = sum(
            all(losses[method, ratio] < losses[control, ratio] for ratio in RATIOS for control in CONTROLS)
            for method in METHODS
        )
    for method in (*METHODS, *CONTROLS):
        for ratio in RATIOS:
            report.figures[f"retrieval_kl_{method}_{ratio * 100:.0f}"] = kl[method, ratio]
            report.figures[f"retrieval_step_{method}_{ratio * 100:.0f}"] = step[method, ratio]
    summed, largest = (
        _by(report, part, "kl", lambda row: row["tokens"] == SUMMED_LENGTH) for part in ("heads", "continuation")
    )
    report.figures["retrieval_kl_sum_over_max"] = statistics.fmean(summed[key] / largest[key] for key in summed)


def _by(
    report: Report, part: str, value: str, holds: Callable[[dict[str, Any]], bool] = lambda row: True
) -> dict[tuple[str, float], float]:
    return {(row["method"], row["ratio"]): row[value] for row in report.rows if row["part"] == part and holds(row)}


if __name__ == "__main__":
    sys.exit(main())

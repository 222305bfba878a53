"""Many memories in one prompt: what composed caches cost in quality, and what they save, against a full prefill.

kl    six bundles of 200 tokens of essays, one after the other, and the 48 tokens that follow: KL(full ‖ composed) per
      token in nats and how often the likeliest token stays. The model's drift is measured on the texts of its check
      (Alice), never on these. `alone` are bundles computed without the prompt's head, as elsewhere; others behind it
craft the same six bundles and a question, the first 16 of the tokens that follow: KL over the others. Before, they were
      in one other prompt, in some order and with another question, or in none (cold). `blend` computes as many tokens
ttft  ten bundles of 200 tokens, read from their files (warm), and a question: time to the first token, arms in turn
qa    MuSiQue questions with ten passages each: mean log probability of the gold answer's tokens in nats, and F1 of the
      greedy answer. qa_gap_closed is the share of the way from `concat` to `full` that blending goes on average,
      qa_distance_closed the share of the mean distance to `full`, question by question, that it takes away

Share computed: tokens computed anew / tokens of the bundles. Work: rows that ran through layers / rows of a full
prefill, those included that only served to choose.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from activation_ttft import PAUSE_S, Shelf
from harness import ROOT, Report, interval, parser, table

from memos.activation.compose.base import Composed, Stage
from memos.activation.compose.check import check_model
from memos.activation.compose.drift import Drift
from memos.activation.compose.modes import compose, make_mode
from memos.activation.compose.parts import Part, Parts
from memos.activation.compose.variants import OwnVariants, Variants
from memos.activation.hot import HotFiles
from memos.activation.kv import KVBlock, KVSource
from memos.runtime.chat import ChatFormat
from memos.runtime.host import Serving
from memos.runtime.loading import load_model
from memos.runtime.loop import Request, Runtime

BUNDLES, TOKENS, CONTINUATION = 6, 200, 48
MANY = 10
RATIO = 0.15
QUESTION = "\nWhat of all this would be of most use to somebody who begins today, and why is that so?"
PARTS = ("kl", "craft", "ttft", "qa")
#: Tokens of the continuation that ask, where something has to; orders in which bundles stood in the prompt before.
ASKING = 16
SEEN = {
    "cold": (),
    "same": (0, 1, 2, 3, 4, 5),
    "swapped": (0, 2, 1, 4, 3, 5),
    "rotated": (2, 3, 4, 5, 0, 1),
}
KEYS = ("kl_concat", "kl_zero_recompute", "kl_blend_15", "blend_ttft_vs_prefill", "qa_gap_closed", "kl_craft_swapped")


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to compose; ``drift`` says whether the model's is added."""

    name: str
    mode: str
    ratio: float = 0.0
    drift: bool = True


ARMS = (
    Arm("concat", "concat", drift=False),
    Arm("concat + drift", "concat"),
    Arm("ape", "ape", drift=False),
    Arm("blend", "blend", 0.05),
    Arm("blend", "blend", 0.1),
    Arm("blend", "blend", 0.15),
    Arm("blend", "blend", 0.3),
    Arm("blend", "blend", 1.0),
)
QA_ARMS = (Arm("concat", "concat", drift=False), Arm("concat + drift", "concat"), Arm("blend", "blend", 0.15))


class Bench:
    """The model, its drift, and composing with both."""

    def __init__(self, report: Report) -> None:
        loaded = load_model()
        self.report = report
        self.runtime = Runtime(loaded)
        self.serving = Serving(loaded, self.runtime, ChatFormat(loaded))
        checked = check_model(self.serving)
        self.drift: Drift = checked.drift
        report.notes = [note for note in report.notes if not note.startswith("self-check: ")]
        report.notes.append(f"self-check: {checked.divergence:.4f} nats, {checked.agreement:.1%} of likeliest tokens")

    def parts(self, bundles: Sequence[Sequence[int]], head: Sequence[int] | None = None) -> Parts:
        """Return bundles, each cached behind the head; of the prompts unless another is given."""
        head = tuple(self.serving.format.head if head is None else head)
        return Parts(
            head,
            tuple(
                Part(str(number), tuple(tokens), self.runtime.prefill((*head, *tokens)), self.serving.fingerprint)
                for number, tokens in enumerate(bundles)
            ),
        )

    def compose(
        self, arm: Arm, parts: Parts, question: Sequence[int] = (), variants: OwnVariants | None = None
    ) -> Composed:
        """Compose."""
        stage = Stage(self.serving.loaded, self.runtime, self.drift if arm.drift else None, variants)
        return compose(stage, make_mode(arm.mode, arm.ratio), parts, question)


def main() -> int:
    """Run every part."""
    options = parser(__doc__ or "", data=True, parts=PARTS).parse_args()
    torch.set_num_threads(2)
    report = Report("kv_compose", options)
    if not options.data:
        return report.without_data(*KEYS)
    parts = report.begin(PARTS)
    bench = Bench(report)
    data, quick = Path(options.data), options.quick
    if "kl" in parts:
        _quality(bench, data, windows=3 if quick else 12)
    if "craft" in parts:
        _crafted(bench, data, windows=2 if quick else 12)
    if "ttft" in parts:
        _time(bench, data, rounds=3 if quick else 9)
    if "qa" in parts:
        _answers(bench, data, limit=3 if quick else None)
    report.finish()
    return 0


# ------------------------------------------------------------ quality


def _quality(bench: Bench, data: Path, *, windows: int) -> None:
    found: defaultdict[tuple[str, float], list[tuple[float, ...]]] = defaultdict(list)
    for tokens in _windows(bench, data, windows, BUNDLES * TOKENS + CONTINUATION):
        text, then = tokens[:-CONTINUATION], tokens[-CONTINUATION:]
        parts = bench.parts([text[first : first + TOKENS] for first in range(0, len(text), TOKENS)])
        whole = (*parts.tokens, *then)
        exact = bench.runtime.logits(whole, bench.runtime.prefill(parts.tokens)).log_softmax(-1)
        for name, kv in _baselines(bench, text, parts):
            found[name, 0.0].append((*_compared(bench, whole, exact, kv), 0.0, 0.0))
        for arm in ARMS:
            made = bench.compose(arm, parts)
            share = sum(made.recomputed) / parts.memory_tokens
            found[arm.name, arm.ratio].append((*_compared(bench, whole, exact, made.kv), share, made.work))
    for (name, ratio), values in found.items():
        kl, top1, share, work = (statistics.fmean(column) for column in zip(*values, strict=True))
        row = {"part": "kl", "arm": name, "ratio": ratio, "kl": kl}
        bench.report.rows.append({**row, "top1": top1, "computed": share, "work": work})
    rows = {(row["arm"], row["ratio"]): row["kl"] for row in bench.report.rows if row["part"] == "kl"}
    bench.report.figures |= {
        "kl_unrotated": rows["unrotated", 0.0],
        "kl_concat": rows["alone", 0.0],
        "kl_concat_head": rows["concat", 0.0],
        "kl_zero_recompute": rows["concat + drift", 0.0],
        "kl_blend_15": rows["blend", RATIO],
        "kl_blend_100": rows["blend", 1.0],
    }
    bench.report.notes.append(f"kl: {windows} windows of the essays")
    _show(bench.report)


def _windows(bench: Bench, data: Path, count: int, length: int) -> Iterator[list[int]]:
    """Yield stretches of the essays, evenly spread."""
    text = "\n".join(path.read_text() for path in sorted((data / "niah").rglob("*.txt")))
    tokens = bench.serving.format.encode_text(text)
    for number in range(count):
        first = (len(tokens) - length) * number // max(count, 1)
        yield tokens[first : first + length]


def _baselines(bench: Bench, text: Sequence[int], parts: Parts) -> Iterator[tuple[str, KVSource]]:
    """Yield caches with keys left as they are, and those of bundles computed without a head, at their places."""
    pieces = [parts.parts[0].kv.data, *(part.kv.data[:, :, :, len(parts.head) :] for part in parts.parts[1:])]  # type: ignore[attr-defined]
    yield "unrotated", KVBlock(parts.shape, torch.cat(pieces, 3))
    first = (*parts.head, *parts.parts[0].tokens)  # the prompt's head is in the first one
    alone = bench.parts([first, *(part.tokens for part in parts.parts[1:])], head=())
    yield "alone", bench.compose(Arm("alone", "concat", drift=False), alone).kv


def _compared(
    bench: Bench, tokens: Sequence[int], exact: torch.Tensor, kv: KVSource, skip: int = 0
) -> tuple[float, float]:
    other = bench.runtime.logits(tokens, kv)[skip:].log_softmax(-1)
    divergence = (exact.exp() * (exact - other)).sum(-1).mean()
    return float(divergence), float((exact.argmax(-1) == other.argmax(-1)).float().mean())


# ------------------------------------------------------------ variants


def _crafted(bench: Bench, data: Path, *, windows: int) -> None:
    found: defaultdict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
    stretches = list(_windows(bench, data, windows + 1, BUNDLES * TOKENS + CONTINUATION))
    for tokens, elsewhere in pairwise(stretches):
        text, then = tokens[:-CONTINUATION], tokens[-CONTINUATION:]
        parts = bench.parts([text[first : first + TOKENS] for first in range(0, len(text), TOKENS)])
        whole, asked = (*parts.tokens, *then), then[:ASKING]
        exact = bench.runtime.logits(whole, bench.runtime.prefill(parts.tokens)).log_softmax(-1)[ASKING:]
        for seen, order in SEEN.items():
            variants = OwnVariants(Variants(HotFiles(1 << 30)), "", set)
            craft = Arm("craft", "craft", RATIO, drift=False)
            if order:
                before = Parts(parts.head, tuple(parts.parts[number] for number in order))
                bench.compose(craft, before, elsewhere[:ASKING], variants)
            made = bench.compose(craft, parts, asked, variants)
            share = sum(made.recomputed) / parts.memory_tokens
            beside = bench.compose(Arm("blend", "blend", share, drift=False), parts, asked)
            for arm, one in (("craft", made), ("blend", beside)):
                values = _compared(bench, whole, exact, one.kv, ASKING)
                found[arm, seen].append((*values, sum(one.recomputed) / parts.memory_tokens, one.work))
    for (name, seen), measured in found.items():
        kl, top1, share, work = (statistics.fmean(column) for column in zip(*measured, strict=True))
        row = {"part": "craft", "arm": name, "seen": seen, "kl": kl}
        bench.report.rows.append({**row, "top1": top1, "computed": share, "work": work})
        if name == "craft":
            bench.report.figures |= {f"kl_craft_{seen}": kl, f"computed_craft_{seen}": share}
    bench.report.notes.append(f"craft: {windows} windows of the essays, ratio {RATIO}; blend as many tokens as craft")
    _show(bench.report)


# ------------------------------------------------------------ time


def _time(bench: Bench, data: Path, *, rounds: int) -> None:
    (tokens,) = _windows(bench, data, 1, MANY * TOKENS)
    parts = bench.parts([tokens[first : first + TOKENS] for first in range(0, len(tokens), TOKENS)])
    question = bench.serving.format.encode_text(QUESTION)
    prompt = (*parts.tokens, *question)
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=ROOT) as folder:
        shelf = Shelf(Path(folder), parts.shape, bench.serving.fingerprint)
        stored = [shelf.store((*parts.head, *part.tokens), part.kv, "raw") for part in parts.parts]

        def composed(arm: Arm) -> None:
            read = [shelf.load(one).wait() for one in stored]
            loaded = [
                Part(part.name, part.tokens, kv, part.fingerprint) for part, kv in zip(parts.parts, read, strict=True)
            ]
            _first_token(bench, prompt, bench.compose(arm, Parts(parts.head, tuple(loaded)), question).kv)

        arms: dict[str, Callable[[], None]] = {"prefill": lambda: _first_token(bench, prompt)}
        arms |= {
            f"{arm.name} {arm.ratio}": lambda arm=arm: composed(arm)  # type: ignore[misc]
            for arm in ARMS
            if arm.drift and arm.ratio < 1
        }
        times = _interleaved(arms, rounds)
    ratios = {arm: _ratio(taken, times["prefill"]) for arm, taken in times.items()}
    bench.report.rows += [
        {"part": "ttft", "arm": arm, "ms": statistics.median(taken) * 1e3, "of_prefill": ratios[arm]}
        for arm, taken in times.items()
    ]
    bench.report.figures["blend_ttft_vs_prefill"] = ratios[f"blend {RATIO}"]
    bench.report.figures["concat_ttft_vs_prefill"] = ratios["concat + drift 0.0"]
    bench.report.notes.append(f"ttft: {MANY} bundles of {TOKENS} tokens, {len(question)} of question, {rounds} rounds")
    _show(bench.report)


def _first_token(bench: Bench, prompt: Sequence[int], kv: KVSource | None = None) -> None:
    next(iter(bench.runtime.generate(Request(tuple(prompt), prefix=kv, max_tokens=1, share=False))), None)


def _interleaved(arms: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every arm, round by round; one round before is not counted."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds + 1):
        for arm, act in arms.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            act()
            if number:
                times[arm].append(time.perf_counter() - start)
    return times


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median([one / other for one, other in zip(above, below, strict=True)])


# ------------------------------------------------------------ answers


def _answers(bench: Bench, data: Path, *, limit: int | None) -> None:
    items = json.loads((data / "musique_s" / "musique_s_dev.json").read_text())[:limit]
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, item in enumerate(items):
        for arm, score in _asked(bench, item):
            found[arm].append(score)
        print(f"question {number + 1} of {len(items)}", flush=True)
    for arm, scores in found.items():
        likelihood, f1 = (statistics.fmean(column) for column in zip(*scores, strict=True))
        bench.report.rows.append({"part": "qa", "questions": len(items), "arm": arm, "ll": likelihood, "f1": f1})
    means = {arm: statistics.fmean([score[0] for score in scores]) for arm, scores in found.items()}
    gap = means["full"] - means["concat"]
    bench.report.figures["qa_gap_closed"] = (means["blend"] - means["concat"]) / gap if gap > 0 else None
    bench.report.figures["qa_gap_nats"] = gap
    away = {
        arm: statistics.fmean([abs(one[0] - full[0]) for one, full in zip(found[arm], found["full"], strict=True)])
        for arm in ("concat", "blend")
    }
    bench.report.figures["qa_distance_closed"] = 1 - away["blend"] / away["concat"]
    missing = [full[0] - blend[0] for full, blend in zip(found["full"], found["blend"], strict=True)]
    bench.report.figures["qa_blend_below_full_nats"] = statistics.fmean(missing)
    low, high = interval(missing)
    bench.report.notes.append(f"qa: blend below full, 95 % bootstrap interval {low:.3f} to {high:.3f}")
    if gap <= 0:
        bench.report.notes.append("qa: concat answers as well as a full prefill, so there is no gap")
    _show(bench.report)


def _asked(bench: Bench, item: dict[str, Any]) -> Iterator[tuple[str, tuple[float, float]]]:
    form = bench.serving.format
    parts = bench.parts([form.encode_text(f"{passage['text']}\n") for passage in item["ctxs"]])
    memory = parts.tokens[len(parts.head) :]
    asked = f"{item['question']} Answer with a few words."
    prompt = form.prompt(memory, [{"role": "user", "content": asked}])
    question = prompt[len(parts.tokens) :]
    yield "full", _scored(bench, prompt, item["answers"], bench.runtime.prefill(parts.tokens))
    for arm in QA_ARMS:
        yield arm.name, _scored(bench, prompt, item["answers"], bench.compose(arm, parts, question).kv)


def _scored(bench: Bench, prompt: Sequence[int], answers: Sequence[str], kv: KVSource) -> tuple[float, float]:
    """Return the mean log probability of the first gold answer's tokens, and the best F1 of the greedy answer."""
    wanted = bench.serving.format.encode_text(answers[0])
    logits = bench.runtime.logits((*prompt, *wanted), kv)[-len(wanted) - 1 : -1].log_softmax(-1)
    likelihood = float(logits.gather(1, torch.tensor(wanted)[:, None]).mean())
    said = bench.runtime.generate(Request(tuple(prompt), prefix=kv, max_tokens=12, share=False)).finish().text
    return likelihood, max(_f1(said, answer) for answer in answers)


def _f1(said: str, answer: str) -> float:
    """Return the F1 of words, as SQuAD counts them."""
    one, two = (Counter(re.sub(r"\b(a|an|the)\b|[^\w\s]", " ", text.lower()).split()) for text in (said, answer))
    common = sum((one & two).values())
    return 2 * common / (one.total() + two.total()) if common else 0.0


def _show(report: Report) -> None:
    table(report.rows)
    report.save()


if __name__ == "__main__":
    sys.exit(main())

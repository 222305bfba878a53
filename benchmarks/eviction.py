"""Eviction policies on traces of real requests, against Belady's optimum.

mooncake   the development part of Mooncake's conversation trace: 512-token blocks of prompts. Block hits count every
           block that is there; tokens saved count only those before which no block is missing: all a prefix cache uses
lirs       the LIRS traces, one block per request, of each at most the first 20,000 requests
choose     (only with --choose) the constants of value density, of the predictor and of the guard, one by one

Every policy replays the same blocks, the last of a prompt first, with room for a share of the distinct blocks. All
blocks have one size and save the same, so Belady's MIN is the true optimum of block hits; it is no bound for tokens
saved. Policies:

  density             value density; density -labels without the label "last block of its prompt"
  learned             discard bits from the predictor that learns online, guarded by LRU
  discard, phase      discard and phase bits of an oracle, guarded by LRU: good predictions with 10 % of the bits wrong,
                      drawn at random, random ones with half of them wrong, inverted ones with all

Constants were chosen with --choose, on the LIRS traces and on generated chats, and none on Mooncake; those of the
published policies are their papers'. The bars: density reaches LRU and half of what the best of S3-FIFO, ARC and GDSF
adds to it; good predictions reach the best classic policy; bad ones stay within 5 % of LRU. Each ratio is the worst of
all sizes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from block_traces import BLOCK, Trace, chats, lirs, mooncake
from harness import Report, parser, table

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.belady import Belady, next_uses
from memos.schedule.eviction.density import ValueDensity
from memos.schedule.eviction.discard import Discard
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.guarded import Guarded
from memos.schedule.eviction.oracle import discard_bits, flipped, phase_bits, told
from memos.schedule.eviction.phase import Phase
from memos.schedule.eviction.policies import POLICIES

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
LIRS_SHARES = (0.05, 0.2)
LIRS_MOST = 20_000
CLASSIC = ("lru", "lfu", "gdsf", "s3fifo", "arc")
#: Whose best the bar of value density is about.
RIVALS = ("s3fifo", "arc", "gdsf")
UNLABELLED = "density -labels"
#: Share of wrong bits.
ERRORS = {"good": 0.1, "random": 0.5, "inverted": 1.0}

#: Block hits and blocks of whole prefixes, as shares of all blocks requested.
Outcome = tuple[float, float]
Maker = Callable[[int], Policy]


def main() -> int:
    """Measure everything."""
    made = parser(__doc__ or "", data=True)
    made.add_argument("--choose", action="store_true", help="also show how the constants were chosen")
    options = made.parse_args()
    report = Report("eviction", options)
    if options.data:
        folder = Path(options.data)
        _mooncake(report, mooncake(folder, 1_500 if options.quick else None))
        _lirs(report, lirs(folder, 4_000 if options.quick else LIRS_MOST))
    else:
        for key in ("density_hit_vs_lru_belady_gap", "learned_good_vs_best", "learned_bad_vs_lru"):
            report.missing(key, "no --data")
    if options.choose:
        _choose(report, lirs(Path(options.data), 4_000 if options.quick else LIRS_MOST) if options.data else [])
    table(report.rows)
    report.finish()
    return 0


# ------------------------------------------------------------ replay


def replay(policy: Policy, trace: Trace, *, labels: bool = True) -> Outcome:
    """Return which shares of a trace's blocks hit, and hit with all blocks before them."""
    there = [
        policy.request(Entry(key, 1, label=label if labels else None, before=before), place)
        for place, (key, label, before) in enumerate(trace.blocks)
    ]
    prefixes = place = 0
    for chain in trace.chains:
        hits = there[place : place + len(chain)][::-1]
        prefixes += (*hits, False).index(False)
        place += len(chain)
    return sum(there) / len(there), prefixes / len(there)


def oracles(trace: Trace, capacity: int) -> dict[str, Maker]:
    """Return guarded policies that are told the bits of an oracle."""
    made: dict[str, Maker] = {}
    sources = {
        "discard": (Discard, discard_bits(trace.keys, capacity), ("good", "random", "inverted")),
        "phase": (Phase, phase_bits(trace.keys, capacity), ("good", "inverted")),
    }
    for name, (kind, bits, qualities) in sources.items():
        for quality in qualities:
            predictor = told(flipped(bits, ERRORS[quality]))
            made[f"{name} {quality}"] = partial(_guarded, kind, predictor)
    return made


def _guarded(kind: Callable[[int, Any], Policy], predictor: Any, capacity: int) -> Policy:
    return Guarded(kind(capacity, predictor))


def _room(trace: Trace, share: float) -> int:
    return max(int(trace.distinct * share), 2)


def _progress(trace: Trace, share: float) -> None:
    print(f"{trace.name} {share:.0%}", file=sys.stderr, flush=True)


# ------------------------------------------------------------ Mooncake


def _mooncake(report: Report, trace: Trace) -> None:
    outcomes: dict[str, list[Outcome]] = {}
    for share in SHARES:
        _progress(trace, share)
        capacity = _room(trace, share)
        makers: dict[str, Maker] = {**POLICIES, **oracles(trace, capacity)}
        makers["belady"] = partial(Belady, following=next_uses(trace.keys))
        for name, make in makers.items():
            outcomes.setdefault(name, []).append(replay(make(capacity), trace))
        outcomes.setdefault(UNLABELLED, []).append(replay(ValueDensity(capacity), trace, labels=False))
    for place, measure in enumerate(("mooncake: block hits", "mooncake: tokens saved")):
        report.rows += [_row(measure, name, [each[place] for each in found]) for name, found in outcomes.items()]
    _figures(report, {name: [hits for hits, _ in found] for name, found in outcomes.items()})
    saved = {name: sum(tokens for _, tokens in found) for name, found in outcomes.items()}
    report.figures["density_tokens_vs_lru"] = saved["density"] / saved["lru"]
    report.figures["density_tokens_vs_best"] = saved["density"] / max(saved[name] for name in CLASSIC)
    report.notes.append(
        f"mooncake: {len(trace.chains):,} prompts, {len(trace.keys):,} blocks of {BLOCK} tokens, {trace.distinct:,} "
        f"distinct; endless room hits {1 - trace.distinct / len(trace.keys):.4f}. Tokens saved are a share of all."
    )


def _row(measure: str, name: str, values: Sequence[float]) -> dict[str, Any]:
    return {measure: name, **{f"{share:.0%}": value for share, value in zip(SHARES, values, strict=True)}}


def _figures(report: Report, hits: dict[str, list[float]]) -> None:
    """Compare block hits with the bars."""
    lru, belady, density = hits["lru"], hits["belady"], hits["density"]
    rivals = _best(hits, RIVALS)
    classic = _best(hits, CLASSIC)
    bar = [low + max(high - low, 0) / 2 for low, high in zip(lru, rivals, strict=True)]
    gap = sum(belady) - sum(lru)
    report.figures |= {
        "density_hit_vs_lru_belady_gap": (sum(density) - sum(lru)) / gap,
        "best_rival_hit_vs_lru_belady_gap": (sum(max(pair) for pair in zip(lru, rivals, strict=True)) - sum(lru)) / gap,
        "density_vs_bar": _worst(density, bar),
        "density_unlabelled_vs_bar": _worst(hits[UNLABELLED], bar),
        "density_vs_best": _worst(density, classic),
        "learned_good_vs_best": _worst(hits["discard good"], classic),
        "phase_good_vs_best": _worst(hits["phase good"], classic),
        "learned_bad_vs_lru": min(_worst(hits[name], lru) for name in hits if name.endswith(("random", "inverted"))),
        "learned_online_vs_best": _worst(hits["learned"], classic),
        "learned_online_vs_lru": _worst(hits["learned"], lru),
    }


def _best(hits: dict[str, list[float]], names: Sequence[str]) -> list[float]:
    return [max(values) for values in zip(*(hits[name] for name in names), strict=True)]


def _worst(values: Sequence[float], others: Sequence[float]) -> float:
    return min(value / other for value, other in zip(values, others, strict=True))


# ------------------------------------------------------------ LIRS


def _lirs(report: Report, traces: Sequence[Trace]) -> None:
    found: dict[tuple[str, float], dict[str, float]] = {}
    for trace in traces:
        for share in LIRS_SHARES:
            _progress(trace, share)
            makers: dict[str, Maker] = {**POLICIES, "belady": partial(Belady, following=next_uses(trace.keys))}
            for name, make in makers.items():
                hits, _ = replay(make(_room(trace, share)), trace)
                found.setdefault((name, share), {})[trace.name] = hits
    for (name, share), hits in sorted(found.items(), key=lambda item: item[0][1]):
        report.rows.append({"lirs: hits": name, "room": f"{share:.0%}", **hits, "mean": sum(hits.values()) / len(hits)})


# ------------------------------------------------------------ how constants were chosen

#: By what is run: the module, the constant and what was tried.
CONSTANTS: dict[str, list[tuple[str, str, tuple[float, ...]]]] = {
    "density": [
        ("reuse", "_YOUNG", (0.12, 0.25, 0.5)),
        ("reuse", "_PRIOR", (1.0, 5.0, 20.0)),
        ("density", "_GHOSTS", (0.5, 1, 2)),
        ("density", "_MEMORY", (2, 4, 16)),
        ("density", "_MOST", (3, 4, 5)),
    ],
    "learned": [
        ("predictor", "_SURE", (0.5, 0.7, 0.9)),
        ("predictor", "_RATE", (0.02, 0.05, 0.2)),
        ("predictor", "_TURNS", (2, 4, 8)),
    ],
    "discard good": [("guarded", "_AHEAD", (0.002, 0.01, 0.05))],
    "discard random": [("guarded", "_AHEAD", (0.002, 0.01, 0.05))],
}


def _choose(report: Report, traces: Sequence[Trace]) -> None:
    groups = {"lirs": list(traces), "chats": chats(1_000)}
    for run, constants in CONSTANTS.items():
        for module, constant, tried in constants:
            for value in tried:
                with _set(module, constant, value):
                    means = {name: _mean(run, group) for name, group in groups.items() if group}
                row = {
                    "chosen for": run,
                    "constant": constant.removeprefix("_").lower(),
                    "value": float(value),
                    **means,
                }
                report.rows.append(row)
                print(row, file=sys.stderr, flush=True)


def _mean(run: str, traces: Sequence[Trace]) -> float:
    """Return the mean hits of a policy over traces and sizes."""
    hits = [
        replay(_run(run, trace, capacity), trace)[0]
        for trace in traces
        for capacity in (_room(trace, share) for share in LIRS_SHARES)
    ]
    return sum(hits) / len(hits)


def _run(run: str, trace: Trace, capacity: int) -> Policy:
    return (POLICIES[run] if run in POLICIES else oracles(trace, capacity)[run])(capacity)


@contextmanager
def _set(module: str, constant: str, value: float) -> Iterator[None]:
    """Run with another value of a constant."""
    owner = importlib.import_module(f"memos.schedule.eviction.{module}")
    was = getattr(owner, constant)
    setattr(owner, constant, value)
    try:
        yield
    finally:
        setattr(owner, constant, was)


if __name__ == "__main__":
    sys.exit(main())

"""Render the committed results as Markdown.

Prints every figure; ``--write`` puts the figures that have something to reach into README.md, between its marks, and
all tables with their commands into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from harness import RESULTS, ROOT

#: Label and reach of each figure shown in README, in its order.
SHOWN = {
    "locomo_r10": ("LoCoMo: gold evidence in the top 10, categories 1-4", ">= .80"),
    "locomo_r10_multihop": ("... multi-hop questions alone", ">= .50"),
    "locomo_r10_bm25": ("... plain BM25 (bm25s)", "peer"),
    "locomo_r10_dense": ("... plain Chroma, same embedder", "peer"),
    "locomo_r10_mem0": ("... mem0 2.2.1 without LLM, on Chroma (dense only there)", "peer"),
    "held_out": ("... constants chosen on three conversations, scored on the fourth", ""),
    "beam_newest_first": ("BEAM: updates ranked above what they supersede", ">= .80 with notes, to come"),
    "recall_over_floor_1x100k": ("recall p50 / (raw Chroma + bm25s), 1 user x 100,000", "<= 2.5"),
    "recall_over_floor_100x1k": ("... 100 users x 1,000", "<= 2.5"),
    "recall_over_floor_10kx10": ("... 10,000 users x 10", "<= 2.5"),
    "store_many_vs_chroma": ("store_many / raw Chroma add, memories per second", ">= .6"),
    "store_many_drained_vs_chroma": ("... waiting for the vector index too", ""),
    "store_flatness": ("store_many at 100,000 / at 1,000", ">= .8"),
    "store_one_vs_chroma": ("single store / raw Chroma add, time", "<= 2"),
    "import_sdk_s": ("import memos_sdk, seconds", "<= .3"),
    "import_memos_s": ("import memos, seconds", "<= .5"),
}


def results() -> list[dict[str, Any]]:
    """Return every committed result."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def figures() -> str:
    """Return the figures of :data:`SHOWN` as a table."""
    values = {key: value for result in results() for key, value in result["figures"].items()}
    rows = [[label, _number(values.get(key)), reach] for key, (label, reach) in SHOWN.items()]
    return _table(["figure", "measured", "reach"], rows)


def document() -> str:
    """Return all rows, figures and notes, benchmark by benchmark."""
    parts = ["# Benchmarks", "Written by `python benchmarks/report.py --write` from `benchmarks/results/`."]
    for result in results():
        machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
        parts += [f"## {result['name']}", f"`{result['command']}` at commit {result['commit']}; {machine}."]
        if result["rows"]:
            parts.append(
                _table(list(result["rows"][0]), [[_number(v) for v in row.values()] for row in result["rows"]])
            )
        parts.append(_table(["figure", "value"], [[key, _number(value)] for key, value in result["figures"].items()]))
        parts += [f"- {note}" for note in result["notes"]]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def main() -> int:
    """Print everything, or write it into the documents."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true", help="write README.md and docs/benchmarks.md")
    if not options.parse_args().write:
        print(document())
        return 0
    readme = ROOT / "README.md"
    marked = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda match: f"{match[1]}{figures()}\n{match[2]}", readme.read_text()))
    (ROOT / "docs" / "benchmarks.md").write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())

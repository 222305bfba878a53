"""Render all committed results as one Markdown table; ``--write`` puts it into README.md between its marks."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from harness import RESULTS, ROOT

#: What each figure must reach, as text, in the order of the table; figures not listed follow without one.
REACH = {
    "locomo_r10": ">= .80",
    "locomo_r10_multihop": ">= .50",
    "locomo_r10_bm25": "peer",
    "locomo_r10_dense": "peer",
    "locomo_r10_mem0": "peer",
    "locomo_r10_notes": "later",
    "locomo_r10_multihop_notes": "later",
    "beam_newest_first": ">= .80, with notes",
    "recall_over_floor_1x100k": "<= 2.5",
    "recall_over_floor_100x1k": "<= 2.5",
    "recall_over_floor_10kx10": "<= 2.5",
    "store_many_vs_chroma": ">= .6",
    "store_many_drained_vs_chroma": "",
    "store_flatness": ">= .8",
    "store_one_vs_chroma": "<= 2",
    "import_sdk_s": "<= .3",
    "import_memos_s": "<= .5",
}


def rows() -> list[tuple[str, str, Any]]:
    """Return ``(benchmark, figure, value)`` of every result, in the order of :data:`REACH`."""
    found = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        found += [(result["name"], key, value) for key, value in result["figures"].items()]
    order = list(REACH)
    return sorted(found, key=lambda row: order.index(row[1]) if row[1] in REACH else len(order))


def table() -> str:
    """Return the Markdown table."""
    lines = ["| figure | measured | reach | script |", "|---|---|---|---|"]
    for name, key, value in rows():
        shown = "not measured" if value is None else f"{value:.3g}"
        lines.append(f"| {key} | {shown} | {REACH.get(key, '')} | `benchmarks/{name}.py` |")
    return "\n".join(lines)


def main() -> int:
    """Print the table, or write it into README."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true", help="replace the table in README.md")
    if options.parse_args().write:
        readme = ROOT / "README.md"
        text = readme.read_text()
        marked = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
        readme.write_text(marked.sub(lambda match: f"{match[1]}{table()}\n{match[2]}", text))
    else:
        print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What ``memos demo`` measures: one question to all three tiers, in tokens, milliseconds and bytes. README shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Report, parser, table


def main() -> int:
    """Run the demo as a newcomer does, in a process and a home of its own."""
    report = Report("demo", parser(__doc__ or "").parse_args())
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        command = [str(Path(sys.executable).with_name("memos")), "demo", "--json"]
        run = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "MEMOS_HOME": home, "HOME": home}
        )
    shown = json.loads(run.stdout)["parametric"]
    for tier, reply in shown["answers"].items():
        report.rows.append(
            {
                "memories as": tier,
                "prompt tokens": reply["prompt_tokens"],
                "computed": reply["tokens_recomputed"],
                "first token ms": reply["milliseconds"]["first_token"],
                "bytes": shown["bytes"].get(tier, 0),
                "answer": reply["text"],
            }
        )
        report.figures[f"demo_first_token_ms_{tier.replace(' ', '_')}"] = reply["milliseconds"]["first_token"]
    report.figures["demo_s"] = time.perf_counter() - start
    table(report.rows)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())

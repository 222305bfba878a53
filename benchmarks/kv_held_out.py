"""The KV codec's two bars on texts that nobody looked at while it was made: Wikipedia passages and a long chat.

The same measure as kv_codecs.py, for the two settings that its figures name, chosen there. Passages are those of
MuSiQue (HippoRAG's corpus), the chat is BEAM's first; four windows each, spread evenly.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from activation_ttft import Shelf
from harness import ROOT, Report, parser, table
from kv_codecs import measured, windows_of
from recall_quality import beam

from memos.runtime.loading import load_model
from memos.runtime.loop import Runtime

#: Setting by figure, and the KL it is for.
SETTINGS = {"005": ("transform:quality=0.5", 0.005), "03": ("transform:quality=1.5", 0.03)}


def main() -> int:
    """Measure both settings."""
    options = parser(__doc__ or "", data=True).parse_args()
    torch.set_num_threads(2)
    report = Report("kv_held_out", options)
    if options.data is None:
        return report.without_data(*(f"held_out_kl_{name}" for name in SETTINGS))
    loaded = load_model()
    runtime = Runtime(loaded)
    windows = windows_of(loaded, runtime, _texts(Path(options.data)), each=1 if options.quick else 4)
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=ROOT) as folder:
        shelf = Shelf(Path(folder), loaded.shape, loaded.identity.fingerprint)
        for name, (spec, bar) in SETTINGS.items():
            row = measured(runtime, shelf, windows, spec)
            report.rows.append({**row, "bar": bar})
            report.figures[f"held_out_bits_at_kl_{name}"] = row["bits"]
            report.figures[f"held_out_kl_{name}"] = max(row["kl_passages"], row["kl_chat"])
    table(report.rows)
    report.finish()
    return 0


def _texts(data: Path) -> dict[str, str]:
    passages = json.loads((data / "hipporag" / "musique_train_corpus.json").read_text())
    chat = beam(data)[0]
    return {
        "passages": "\n\n".join(f"{passage['title']}\n{passage['text']}" for passage in passages),
        "chat": "\n".join(chat.texts),
    }


if __name__ == "__main__":
    sys.exit(main())

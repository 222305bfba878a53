"""NVIDIA's kvpress 0.5.5 on the same weights, texts and budgets: KL of its continuation against its own full cache.

Two halves in one file, since kvpress needs an older transformers than we do. :func:`measure` runs in our interpreter
and starts the other half in an environment of its own::

    python -I kvpress_policies.py REQUEST.json REPLY.json

Bytes are those that what it keeps really takes. Scorers keep equally many entries in every head; budgets by head
(KVzip, AdaKV) are masks over the whole cache, so they take all of it; budgets by layer (PyramidKV) do not run, since
transformers masks all layers by the length of the first. Positions are the tokens' own, as kvpress has them.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness import Report

    from memos.runtime.loading import LoadedModel

PACKAGES = ("kvpress==0.5.5", "transformers==5.2.0", "torch==2.13.0")
PRESSES = ("RandomPress", "StreamingLLMPress", "KnormPress", "SnapKVPress", "ExpectedAttentionPress", "KeyDiffPress")
PRESSES += ("TOVAPress", "LagKVPress", "KVzipPress")
#: Methods that both have: our name, theirs.
SHARED = {
    "snapkv": "SnapKVPress",
    "expected": "ExpectedAttentionPress",
    "keydiff": "KeyDiffPress",
    "kvzip": "KVzipPress",
}


def measure(
    report: Report,
    loaded: LoadedModel,
    windows: Sequence[tuple[str, Sequence[int]]],
    context: int,
    ratios: Sequence[float],
) -> None:
    """Add a row for every press and share kept; ``windows`` are text and tokens, the first ``context`` the cache's."""
    from harness import peer_python, table

    with tempfile.TemporaryDirectory(prefix="memos-bench-") as folder:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        (Path(folder) / "chat_template.jinja").unlink(missing_ok=True)  # the texts are no chats
        request, reply = Path(folder) / "request.json", Path(folder) / "reply.json"
        asked = {"model": folder, "windows": [list(tokens) for _, tokens in windows], "context": context}
        request.write_text(json.dumps({**asked, "ratios": list(ratios), "presses": PRESSES}))
        try:
            python = peer_python("kvpress", PACKAGES)
            subprocess.run([python, "-I", __file__, str(request), str(reply)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            report.notes.append(f"kvpress was not measured: {error}")
            return
        for row in json.loads(reply.read_text()):
            scores = dict(zip((name for name, _ in windows), row["kl"], strict=True))
            texts = {f"kl_{text}": _mean(windows, row["kl"], text) for text in scores}
            found = {"part": "kvpress", "policy": row["press"], "kept": row["kept"], **texts}
            report.rows.append({**found, "kl": statistics.fmean(row["kl"]), "bits": row["bits"]})
            table([report.rows[-1]])


def _mean(windows: Sequence[tuple[str, Sequence[int]]], scores: Sequence[float], text: str) -> float:
    return statistics.fmean([score for (name, _), score in zip(windows, scores, strict=True) if name == text])


# ------------------------------------------------------------ the other half


def child(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the KL of every window by press and share kept, and bits per element of the whole cache."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    kvpress = importlib.import_module("kvpress")
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32, attn_implementation="sdpa")
    context, rows = request["context"], []

    def predictions(tokens: Any, press: Any = None) -> tuple[Any, float]:
        cache = DynamicCache()
        first = {"input_ids": tokens[:, :context], "past_key_values": cache, "logits_to_keep": 1}
        if press is None:
            model(**first)
        else:
            with press(model):
                model(**first)
        kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
        positions = torch.arange(context, tokens.shape[1]).unsqueeze(0)
        output = model(input_ids=tokens[:, context:], past_key_values=cache, position_ids=positions)
        return torch.log_softmax(output.logits[0].float(), -1), float(kept)

    with torch.inference_mode():
        windows = [torch.tensor([window]) for window in request["windows"]]
        exact = [predictions(window) for window in windows]
        for kept in request["ratios"]:
            for name in request["presses"]:
                scores, shares = [], []
                for window, (full, size) in zip(windows, exact, strict=True):
                    lossy, left = predictions(window, getattr(kvpress, name)(compression_ratio=1 - kept))
                    scores.append(float((full.exp() * (full - lossy)).sum(-1).mean()))
                    shares.append(32 * left / size)
                rows.append({"press": name, "kept": kept, "kl": scores, "bits": statistics.fmean(shares)})
    return rows


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(child(json.loads(Path(sys.argv[1]).read_text()))))

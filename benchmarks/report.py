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
    "locomo_r10_notes": ("LoCoMo with notes written by rules", ">= .83"),
    "locomo_r10_multihop_notes": ("... multi-hop questions alone", ">= .56"),
    "locomo_r10_no_links": ("... without links", "ablation"),
    "locomo_r10_no_evolution": ("... without evolution", "ablation"),
    "beam_newest_first": ("BEAM, with notes: later statements ranked above what they supersede", ">= .80"),
    "beam_newest_first_without_notes": ("... without notes", ""),
    "llm_calls_per_note": ("model calls per note, memories stored one by one", "<= 1"),
    "llm_calls_per_note_together": ("... stored together", ""),
    "amem_calls_per_note": ("... a-mem 0.2.6", "peer"),
    "offline_ms_per_note_10k": ("notes by rules at 10,000 notes, ms per note beyond embedding", "<= 15"),
    "amem_ms_per_note": ("... a-mem 0.2.6 at 800 notes, with a model that answers at once", "peer"),
    "dedup_kept": ("15 rewordings of 5 facts end as", "5"),
    "recall_over_floor_1x100k": ("recall p50 / (raw Chroma + bm25s), 1 user x 100,000", "<= 2.5"),
    "recall_over_floor_100x1k": ("... 100 users x 1,000", "<= 2.5"),
    "recall_over_floor_10kx10": ("... 10,000 users x 10", "<= 2.5"),
    "store_many_vs_chroma": ("store_many / raw Chroma add, memories per second", ">= .6"),
    "store_many_drained_vs_chroma": ("... waiting for the vector index too", ""),
    "store_flatness": ("store_many at 100,000 / at 1,000", ">= .8"),
    "store_one_vs_chroma": ("single store / raw Chroma add, time", "<= 2"),
    "import_sdk_s": ("import memos_sdk, seconds", "<= .3"),
    "import_memos_s": ("import memos, seconds", "<= .5"),
    "ttft_speedup": ("first token with a 2,048-token memory: recompute / reload from its file", ""),
    "ttft_share_of_ceiling": ("... share of the ceiling, recompute / question alone", ">= .7"),
    "prefix_logit_max_diff": ("... logits behind a reloaded cache, largest difference (float32)", "<= 1e-4"),
    "greedy_identical": ("... prompts with identical greedy text", "1.0"),
    "load_vs_memcpy": ("raw KV file, checked, to memory: bandwidth / memcpy", ">= .6"),
    "ttft_speedup_llama_cpp": ("... llama.cpp's gain from its own state file", "peer"),
    "dump_load_vs_upstream_small_549kb": (
        "dump + load, 549 KB of KV: ours with fsync / MemoryOS pickle without",
        "<= 1",
    ),
    "dump_load_vs_upstream_smollm2_135m": ("... 24.7 MB, 1,072 tokens of the bundled model", "<= 1"),
    "lossless_ratio": ("lossless codec: bytes / bfloat16 bytes, everything counted", "<= .70"),
    "bits_at_kl_005": (
        "bits per element at KL <= .005, everything counted (essays seen once while tuning: see notes)",
        "<= 3.7",
    ),
    "bits_at_kl_03": ("... at KL <= .03", "<= 2.6"),
    "bits_at_kl_005_hqq": ("... hqq through transformers' QuantizedCache at KL <= .005", "peer"),
    "bits_at_kl_005_int": ("... group-wise integers at KL <= .005", "peer"),
    "held_out_kl_005": ("... the setting of the first bar on texts nobody looked at: KL", "<= .005"),
    "held_out_kl_03": ("... the setting of the second", "<= .03"),
    "kl_unrotated": ("six bundles of 200 tokens in one prompt, essays: KL, keys as they are", ""),
    "kl_concat": ("... keys turned to their places, bundles computed alone", "baseline"),
    "kl_concat_head": ("... bundles computed behind the prompt's head", ""),
    "kl_zero_recompute": ("... with the model's drift, nothing computed", "<= .06"),
    "kl_blend_15": ("... 15 % of tokens computed anew", "<= .045"),
    "kl_blend_100": ("... all of them", "0"),
    "kl_craft_cold": ("... and 16 tokens of a question, 15 %: craft where nothing was seen before, as blend", ""),
    "kl_craft_same": ("... craft where the same bundles stood in a prompt before", ""),
    "computed_craft_same": ("... share of tokens that it computes", ""),
    "kl_craft_swapped": ("... neighbours swapped since", ""),
    "computed_craft_swapped": ("... share", ""),
    "blend_ttft_vs_prefill": (
        "ten bundles of 200 tokens, a question: first token, 15 % computed / prefill",
        "<= .35",
    ),
    "qa_gap_closed": ("MuSiQue, ten passages: log probability of the answers, share of concat to prefill", ">= .90"),
    "qa_distance_closed": ("... share of the distance to prefill, question by question, taken away", ""),
    "policies_total": ("policies that choose what to keep of a KV cache, at 50 % and 20 % kept", ""),
    "policies_beating_random": ("... that lose less than random tokens at equal bytes (KL of the continuation)", "all"),
    "policies_beating_recent": ("... than the latest tokens", "all"),
    "finding_hidden_random": ("... that find an answer better than random tokens, question unknown", "all"),
    "finding_hidden_recent": ("... than the latest tokens", "all"),
    "finding_shown_random": ("... than random tokens, question known", "all"),
    "finding_shown_recent": ("... than the latest tokens", "all"),
    "policies_published": ("policies as published, without a second reading", ""),
    "policies_beating_random_published": ("... that lose less than random tokens (KL of the continuation)", ""),
    "policies_beating_recent_published": ("... than the latest tokens", ""),
    "finding_hidden_random_published": ("... that find an answer better than random tokens, question unknown", ""),
    "finding_hidden_recent_published": ("... than the latest tokens", ""),
    "finding_shown_random_published": ("... than random tokens, question known", ""),
    "finding_shown_recent_published": ("... than the latest tokens", ""),
    "kl_beside_kvpress": (
        "settings that kvpress has too (SnapKV, ExpectedAttention, KeyDiff, KVzip at both shares)",
        "",
    ),
    "kl_at_or_below_kvpress": ("... of these, ours loses no more (KL, same texts and weights)", "all"),
    "kl_at_or_below_kvpress_published": ("... without the second reading, as kvpress has them", ""),
    "best_chain_bits_at_kl_03": ("bits per element of the best chain of policy and codec at KL <= .03", ""),
    "published_chain_bits_at_kl_03": ("... of the best chain with a policy as published", ""),
    "codec_bits_at_kl_03": ("... of the codec alone on the same windows", ""),
    "making_with_reading_vs_published": (
        "computing and encoding a cache of 2,048 tokens for EMS at 30 % / the same without the second reading",
        "",
    ),
    "making_with_reading_vs_whole": ("... / for a file of the whole cache", ""),
    "step_behind_pruned_vs_whole": ("... a decode step behind it / behind the whole cache", ""),
    "retrieval_kl_quest_25": (
        "retrieval behind 6,000 loaded tokens: KL, each row attends a quarter of the pages, Quest",
        "",
    ),
    "retrieval_kl_blockmean_25": ("... block means", ""),
    "retrieval_kl_vq_25": ("... codebooks", ""),
    "retrieval_kl_recent_25": ("... the latest pages", "control"),
    "retrieval_kl_random_25": ("... pages at random", "control"),
    "retrieval_beating_controls": ("... methods, of three, that lose less than both controls at every share", "3"),
    "retrieval_finding_controls": ("... that find an answer better than both, at every share", ""),
    "retrieval_step_quest_10": (
        "... processor time of a decode step / exact attention's, a tenth of the pages",
        "",
    ),
    "retrieval_step_quest_25": ("... a quarter", ""),
    "retrieval_step_quest_50": ("... half", ""),
    "gather_vs_memcpy": ("kernels, CPU: gather pages of 16 tokens / memcpy, bandwidth", ">= .8"),
    "dequant_rotate_over_bound_int4": ("... load path int4 to bfloat16 / bound", "<= 2"),
    "dequant_rotate_over_bound_int8": ("... load path int8 to bfloat16 / bound", "<= 2"),
    "paged_decode_vs_sdpa": ("... decode, 64 x 512 tokens / fastest SDPA on contiguous K/V, float32", "<= 1.0"),
    "paged_decode_vs_sdpa_bfloat16": ("... the same in bfloat16", ""),
    "lora_64_ms": ("... 64 distinct adapters of rank 8 on 576 x 576, cold, ms", "<= .26"),
    "lora_64_read_bandwidth": ("... share of read bandwidth", ">= .5"),
    "lora_64_vs_peft": ("... / PEFT's mixed batch, time", ""),
    "lora_2000_ms": ("... 2,000 distinct adapters, ms", "<= 8"),
    "step_ratio_64_all": ("decode step, 64 rows, 64 distinct adapters r8 on all projections / bare model", "<= 1.4"),
    "step_ratio_64_qkvo": ("... on q, k, v and o", "<= 1.2"),
    "step_ratio_64_all_peft": ("... PEFT's mixed batch / transformers' bare model", "peer"),
    "step_64_all_vs_peft": ("... ours / PEFT's mixed batch, time", ""),
    "throughput_2000_vs_5_zipf": ("throughput with 2,000 registered adapters / 5, Zipf", ">= .94"),
    "throughput_2000_vs_5_uniform": ("... uniform", ">= .85"),
    "register_2000th_ms": ("registering the 2,000th adapter, ms", "<= 50"),
    "batch64_speedup": ("64 requests together / one by one, tokens per second", ">= 8"),
    "fact_recall_8": ("8 distilled facts, questions never trained, answered right", ">= .95"),
    "fact_recall_8_other_forms": ("... asked in forms that only the benchmark knows", ""),
    "seconds_8": ("... seconds to train 8 facts", "<= 60"),
    "drift_kl_8": ("... KL on unrelated prompts, nats per token", "<= .02"),
    "fact_recall_8_peft": ("... plain PEFT loop: answered right", "peer"),
    "drift_kl_8_peft": ("... plain PEFT loop: KL", "peer"),
    "seconds_8_peft": ("... plain PEFT loop: seconds", "peer"),
    "fact_recall_8_shuffled": ("... adapter trained on shuffled facts", "control"),
    "fact_recall_8_note_in_prompt": ("... the notes as text in the prompt, no adapter", ""),
    "fact_recall_8_cartridge": ("... a trained cache of as many bytes", ""),
    "fact_recall_8_beside_others_2": ("... with another adapter of 8 facts added", ""),
    "fact_recall_8_beside_others_3": ("... with two others added", ""),
    "fact_recall_32": ("32 distilled facts, in several adapters of which a chat runs with one", ""),
    "fact_recall_128": ("128 distilled facts, likewise", ""),
    "recall_http_overhead_ms": ("service: recall over HTTP less the embedded call, p50, ms", "<= 3"),
    "get_vs_bare_fastapi": ("... GET of a memory / bare FastAPI + SQLAlchemy route, requests per second", ">= .6"),
    "soak_5xx": ("... 16 clients for five minutes: answers of 500 and above", "0"),
    "soak_rss_growth": ("... growth of resident memory after the first minute", "<= .05"),
    "soak_p99_ms": ("... p99, ms", ""),
    "isolation_leaks": ("... leaks in attempts on another tenant over every route", "0"),
    "isolation_attempts": ("... attempts", ">= 100,000"),
    "schemathesis_failures": ("... schemathesis on the OpenAPI document, failures", "0"),
    "ttft_tiered_vs_plaintext": (
        "an agent takes up LoCoMo's threads again: first token, tiers / plaintext, p50",
        "<= .25",
    ),
    "ttft_tiered_vs_shared": ("... / plaintext with shared beginnings of prompts", ""),
    "answer_ll_delta": ("... log probability of the gold answers, tiers - plaintext, nats per token", ">= 0"),
    "ttft_tiered_vs_plaintext_anywhere": ("... looking into all memories instead of the thread's: first token", ""),
    "answer_ll_delta_anywhere": ("... log probability of the gold answers", ""),
    "kv_bytes_per_byte_of_text": ("... bytes of KV files per byte of text", ""),
    "density_vs_bar": (
        "eviction, Mooncake, worst of six rooms: value density / (LRU + half of the best rival's gain)",
        ">= 1",
    ),
    "density_hit_vs_lru_belady_gap": ("... share of the gap between LRU and Belady that value density closes", ""),
    "best_rival_hit_vs_lru_belady_gap": ("... and the best of S3-FIFO, ARC and GDSF", "peer"),
    "learned_good_vs_best": ("... learned policy with right predictions / best classic policy", ">= 1"),
    "learned_bad_vs_lru": ("... with wrong ones / LRU", ">= .95"),
    "prefetch_vs_lru_hit_rate": ("prefetching KV files: found in memory / LRU alone", ""),
    "prefetch_hit_rate": ("... share of what was not in memory that was foreseen", ""),
    "prefetch_waste_share": ("... share of what was read ahead that nobody used", ""),
    "told_again_r10_apart": ("fusing what is told twice, LoCoMo: gold evidence in the top 10, before", ""),
    "told_again_r10_fused": ("... after", ""),
    "heat_share_of_recall": ("counting heat, share of a recall", "<= .01"),
    "job_overhead_ms_in_process": ("a job in the process, ms", "<= 2"),
    "job_overhead_ms_celery": ("... in Celery workers, ms", "<= 10"),
    "jobs_out_of_order": ("... of 10,000, out of the order of priorities", "0"),
    "svd_speedup_vs_dense_3": ("fusing 3 adapters by svd: QR trick / dense SVD, times faster", ""),
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
        for header, rows in _alike(result["rows"]):
            parts.append(_table(header, [[_number(value) for value in row.values()] for row in rows]))
        parts.append(_table(["figure", "value"], [[key, _number(value)] for key, value in result["figures"].items()]))
        parts += [f"- {note}" for note in result["notes"]]
    return "\n\n".join(parts) + "\n"


def _alike(rows: Sequence[dict[str, Any]]) -> list[tuple[list[str], list[dict[str, Any]]]]:
    """Return rows by the names of their columns, for a table each."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row), []).append(row)
    return [(list(header), alike) for header, alike in found.items()]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any) -> str:
    if isinstance(value, float):
        small = 0 < abs(value) < 5e-4
        return f"{value:.1e}" if small else f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
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

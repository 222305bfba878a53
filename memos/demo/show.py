"""The demo's results as tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Data = Mapping[str, Any]
_VERDICT = {True: "yes", False: "no", None: ""}


def stored(screen: Console, result: Data) -> None:
    """Show what each namespace holds."""
    table = _table("Stored", "user_id", "memories", "characters", "embedder")
    for space in result["namespaces"]:
        table.add_row(
            space["user_id"],
            str(space["memories"]),
            f"{space['text_characters']:,}",
            str(space["embedder"]),
        )
    screen.print(table)


def notes(screen: Console, result: Data) -> None:
    """Show what came of the notes, and one of them."""
    if not result:
        return
    counts, example = result["counts"], result["example"]
    table = _table(f"Note: {_short(example['text'])}", "", "")
    for name in ("context", "keywords", "tags", "entities"):
        told = example[name]
        table.add_row(name, told if isinstance(told, str) else ", ".join(told or ()))
    for link in example["links"]:
        table.add_row(f"{link['type']} {link['score']:.2f}", _short(link["text"]))
    screen.print(table)
    screen.print(
        f"{counts['notes']} notes by rules, {counts['links']} links, {counts['evolved']} notes evolved, "
        f"{counts['merged']} memories merged into others that say the same\n",
        highlight=False,
    )


def _short(text: str) -> str:
    return textwrap.shorten(text, 90, placeholder=" …")


def answers(screen: Console, results: Sequence[Data]) -> None:
    """Show each question with its best hit and the ranks of its evidence."""
    table = Table(title="Recall", title_justify="left", show_lines=True)
    table.add_column("question", ratio=4)
    table.add_column("best hit", ratio=6)
    table.add_column("evidence at rank", ratio=2)
    table.add_column("newest first", ratio=2)
    for result in results:
        table.add_row(
            result["question"],
            _line(result["best"]),
            _ranks(result["evidence"]),
            _newest(result),
        )
    screen.print(table)


def explained(screen: Console, result: Data) -> None:
    """Show the parts of the scores of a few hits."""
    names = list(result["hits"][0]["parts"])
    table = _table(f"Why: {result['question']}", "hit", *names, "score")
    for hit in result["hits"]:
        parts = [f"{hit['parts'][name]:.3f}" for name in names]
        table.add_row(_line(hit, 60), *parts, f"{hit['score']:.3f}")
    screen.print(table)
    laps = ", ".join(f"{name} {lap:.1f}" for name, lap in result["timings"].items())
    screen.print(f"Stages in ms: {laps}\n", highlight=False)


def tiers(screen: Console, result: Data) -> None:
    """Show the same answer with its memories computed and reloaded."""
    if "error" in result:
        screen.print(f"no KV file could be made: {result['error']}", markup=False)
        return
    _both(screen, f"Chat: {result['question']}", {name: result[name] for name in ("recompute", "reload")})
    cube, times = result["cube"], [result[name]["milliseconds"]["first_token"] for name in ("recompute", "reload")]
    screen.print(
        f"{cube['memories']} memories, {cube['tokens']} tokens, in a KV file of {cube['bytes'] / 1e6:.1f} MB; "
        f"answers {'identical' if result['identical'] else 'DIFFERENT'}, first token {times[0] / times[1]:.1f} times "
        f"sooner\n",
        highlight=False,
    )


def composed(screen: Console, result: Data) -> None:
    """Show the same question with its memories computed, and put together from the caches of several files."""
    if "error" in result:
        screen.print(f"no KV file could be made: {result['error']}", markup=False)
        return
    _both(screen, f"Several in one: {result['question']}", {name: result[name] for name in ("computed", "composed")})
    reply = result["composed"]
    bundles = ", ".join(f"{one['reused']} + {one['recomputed']}" for one in reply["bundles"])
    screen.print(
        f"{len(reply['bundles'])} KV files, {reply['mode'] or 'none used'}: tokens reused + computed anew {bundles}\n",
        highlight=False,
    )


def _both(screen: Console, title: str, replies: Data) -> None:
    """Show replies to one question by how they came about."""
    table = _table(title, "memories", "reused", "computed", "first token", "answer")
    for name, reply in replies.items():
        first = f"{reply['milliseconds']['first_token']:,.0f} ms"
        counts = (str(reply["tokens_reused"]), str(reply["tokens_recomputed"]))
        table.add_row(name, *counts, first, Text(textwrap.shorten(reply["text"], 160, placeholder=" …")))
    screen.print(table)


def parametric(screen: Console, result: Data) -> None:
    """Show one question asked of every tier, side by side."""
    table = _table(
        f"Three tiers: {result['question']}", "memories as", "prompt", "computed", "first token", "bytes", "answer"
    )
    for name, reply in result["answers"].items():
        first = f"{reply['milliseconds']['first_token']:,.0f} ms"
        size = f"{result['bytes'][name]:,}" if name in result.get("bytes", {}) else ""
        tokens = (str(reply["prompt_tokens"]), str(reply["tokens_recomputed"]))
        table.add_row(name, *tokens, first, size, Text(textwrap.shorten(reply["text"], 120, placeholder=" …")))
    screen.print(table)
    if "error" in result:
        screen.print(f"no adapter was published after {result['seconds']:.0f} s: {result['error']}\n", markup=False)
        return
    screen.print(
        f"Four facts were trained into an adapter in {result['seconds']:.0f} s, and it passed its gate: its prompt "
        f"holds the question alone.\n",
        highlight=False,
    )


def moves(screen: Console, result: Data) -> None:
    """Show what the scheduler moved, and why."""
    table = _table(f"Moves, after {len(result['questions'])} questions came up {result['times']} times", "", "why")
    for move in result["moves"]:
        table.add_row(
            f"{move['action']} to {move['tier']}" if move["action"] == "promote" else "demote", move["reason"]
        )
    screen.print(table)
    screen.print(
        "Planned from what recalls used; `memos plan --dry-run` says it beforehand, `memos undo` takes it back.\n",
        highlight=False,
        markup=False,
    )


def narrowed(screen: Console, results: Sequence[Data]) -> None:
    """Show what filters and ``as_of`` do."""
    table = _table("Filters and points in time", "question", "options", "two best hits")
    for result in results:
        hits = Text("\n").join(_line(hit, 60) for hit in result["hits"])
        table.add_row(result["question"], _options(result["options"]), hits)
    screen.print(table)


def context(screen: Console, result: Data) -> None:
    """Show a block of text for a prompt."""
    heading = f"A prompt's context of {result['tokens']} tokens, {result['max_tokens']} allowed: "
    screen.print(Text(heading + result["question"], style="italic"))
    screen.print(Text(result["context"] + "\n"))


def forgotten(screen: Console, result: Data) -> None:
    """Show a memory before and after it was forgotten."""
    receipt, after, pieces = result["receipt"], result["after"], result["fragments"]
    screen.print(Text.assemble(("Forget: ", "italic"), _line(result["memory"])))
    table = Table("", "before", "after")
    table.add_row("recall", f"rank {result['rank_before']}", _gone(known=after["recall"]))
    table.add_row("get", "found", _gone(known=after["get"]))
    table.add_row("history", "found", _gone(known=after["history"]))
    table.add_row(
        f"files with any of\nits {pieces} fragments",
        _files(result["files_before"]),
        _files(after["files"]),
    )
    screen.print(table)
    removed = ", ".join(f"{count} {place}" for place, count in receipt["removed"].items() if count)
    pending = ", ".join(receipt["pending"]) or "nothing"
    screen.print(f"Receipt {receipt['id']}: removed {removed}; pending: {pending}.\n", markup=False)


def reopened(screen: Console, result: Data) -> None:
    """Show that closing the store lost nothing and brought nothing back."""
    same = "the same answers" if result["same"] else "OTHER ANSWERS"
    back = any(result["forgotten"].values())
    screen.print(
        f"Closed and opened again: {result['memories']} memories, {same}; what was forgotten "
        f"{'IS BACK' if back else 'stays forgotten, on disk too'}.\n",
        highlight=False,
    )


def spent(screen: Console, result: Data) -> None:
    """Show where the time went."""
    table = Table(title="Where the time went", title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, seconds in result["seconds"].items():
        table.add_row(name, f"{seconds:.2f} s")
    table.add_section()
    for name, key in (
        ("recall", "recall_ms"),
        ("  without embedding", "recall_without_embedding_ms"),
    ):
        span = result[key]
        table.add_row(f"{name}, p50 / p95", f"{span['p50']:.1f} / {span['p95']:.1f} ms")
    table.add_section()
    table.add_row("total", f"{result['total']:.2f} s")
    screen.print(table)


def summary(screen: Console, score: Data) -> None:
    """Say in two lines how well recall did."""
    screen.print(
        f"evidence found in the top 10: {score['found']} of {score['questions']} questions\n"
        f"({score['evidence_found']} of {score['evidence']} statements; of {score['changed']} facts that changed, "
        f"{score['newest_first']} with the newest statement above the old one)",
        highlight=False,
    )


# ---------------------------------------------------------------- cells


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _line(hit: Data, width: int = 120) -> Text:
    """Return when, who and what; as ``Text``, for what people write in brackets is no markup."""
    who = f"{hit['when']} {hit['speaker']}" if hit["speaker"] else hit["when"]
    said = textwrap.shorten(hit["excerpt"], width, placeholder=" …")
    return Text.assemble((who, "cyan"), " ", said)


def _ranks(evidence: Mapping[str, int | None]) -> Text:
    ranks = sorted(rank for rank in evidence.values() if rank is not None)
    missing = len(evidence) - len(ranks)
    shown = ", ".join(map(str, ranks)) or "none"
    return Text(shown + (f" (+{missing} below 10)" if missing and ranks else ""), "" if ranks else "red")


def _newest(result: Data) -> str:
    old = [rank for rank in result["superseded"].values() if rank is not None]
    verdict = _VERDICT[result["newest_first"]]
    return f"{verdict}, old at {min(old)}" if verdict and old else verdict


def _options(options: Data) -> str:
    return "\n".join(f"{name}={value}" for name, value in options.items()) or "none"


def _gone(*, known: bool) -> Text:
    return Text("STILL THERE", "red") if known else Text("gone", "green")


def _files(found: Mapping[str, int]) -> str:
    return "\n".join(f"{name} ({count})" for name, count in found.items()) or "none"

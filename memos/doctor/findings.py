"""From damage to findings: what a person reads, and what is to be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from memos.doctor.damage import Damage, Harm
from memos.doctor.report import Finding, error, megabytes, ok, warning
from memos.doctor.strays import Strays, stray_files, stray_trainings
from memos.payloads.base import PayloadFiles
from memos.store.compositions import Composition
from memos.store.database import Database

_NAMED = 3
_REPAIR = "`memos doctor --repair`"


def files(damages: Sequence[Damage], tier: PayloadFiles, rows: int) -> Finding:
    """Judge the files of a tier; without them answers are slower, never wrong."""
    wrong = [one for one in damages if one.tier == tier.name]
    if not wrong:
        return ok(tier.name, f"{rows} {tier.many}, each as it was published")
    kinds = Counter("lost" if one.harm is Harm.LOST else "damaged" for one in wrong)
    counts = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return warning(tier.name, f"{counts} of {rows} {tier.many} in {named(wrong)}; {_REPAIR} drops them")


def texts(damages: Sequence[Damage]) -> Finding:
    """Judge what memories say, and the terms that are found in it."""
    changed = [one for one in damages if one.harm is Harm.TEXT]
    if changed:
        return error(
            "texts",
            f"{len(changed)} versions in {named(changed)} are not what was stored; `memos history` shows others, a "
            f"backup has these",
        )
    wrong = [one for one in damages if one.harm is Harm.TERMS]
    if wrong:
        return error("texts", f"{len(wrong)} versions in {named(wrong)} have other terms than their text; {_REPAIR}")
    return ok("texts", "each as it was stored, with its terms")


def composing(models: Sequence[Composition]) -> Iterator[Finding]:
    """Judge which models may be served prompts of several KV files; one that may not is served one file at a time."""
    for model in models:
        if model.refusal is None:
            quality = f"{model.divergence:.3f} nats per token, {model.agreement:.0%} of likeliest tokens kept"
            yield ok("composing", f"{model.name} may begin a prompt with several KV files: {quality}")
        else:
            yield warning("composing", f"{model.name} begins a prompt with one KV file at most: {model.refusal}")


def strays(database: Database, home: Path, tiers: Sequence[PayloadFiles]) -> Finding:
    """Judge what belongs to nothing."""
    found = [stray_files(database, tier) for tier in tiers if tier.present]
    found.append(Strays("checkpoints", len(stray_trainings(database, home)), 0))
    kinds = [f"{one.count} {one.what} ({megabytes(one.bytes)})" for one in found if one.count]
    if kinds:
        return warning("strays", f"{', '.join(kinds)} belong to nothing; {_REPAIR} removes them")
    return ok("strays", "no file without its memory")


def budget(tier: PayloadFiles, bytes_in_rows: int) -> Finding:
    """Compare the bytes on the disk with what is allowed and with what the rows say."""
    used = tier.room.used() if tier.present else 0
    message = f"{tier.many} take {megabytes(used)} of {megabytes(tier.cap)}; their rows say {megabytes(bytes_in_rows)}"
    if used > tier.cap:
        return warning(f"{tier.name} budget", f"{message}: no more are made; remove some, or raise {tier.setting}")
    return ok(f"{tier.name} budget", message)


def named(damages: Sequence[Damage]) -> str:
    """Return whose they are: a few names, and how many more there are."""
    names = list(dict.fromkeys(one.name for one in damages))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

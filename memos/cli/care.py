"""Commands that look after a store: reindex, doctor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from memos.cli import output
from memos.cli.command import command
from memos.cli.failures import FINDING
from memos.cli.session import Session

if TYPE_CHECKING:
    from memos.doctor import DoctorReport
    from memos.doctor.repair import Action

_SHOWN = 20
_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "bold red")}


def reindex(
    session: Session,
    *,
    embedder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Make all vectors anew with this model, then use it."),
    ] = None,
) -> None:
    """Rebuild the indexes from the database, or change the embedding model."""
    task = "rebuilding" if embedder is None else "embedding"
    with session.engine() as engine, session.progress(task) as progress:
        done = engine.reindex(embedder, progress)
    if embedder is None:
        session.show({"namespaces": done}, lambda: Text(f"rebuilt {done} namespaces"))
        return
    advice = f"{embedder} serves from now on; set MEMOS_EMBEDDER={embedder} for later commands"
    session.show(
        {"vectors": done, "embedder": embedder},
        lambda: output.plain(f"made {done} vectors; {advice}"),
    )


def doctor(
    session: Session,
    *,
    rebuild_kv: Annotated[
        bool,
        typer.Option("--rebuild-kv", help="First write the index of KV files anew from the files alone."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="First put right what can be: nothing of a memory is ever deleted for it."),
    ] = False,
) -> None:
    """Look whether a store is whole; exit with 1 if something must be done. Alone, it changes nothing."""
    from memos.doctor import diagnose

    if rebuild_kv:
        _rebuild_kv(session)
    actions = _repaired(session) if repair else ()

    with session.progress("looking") as progress:
        report = diagnose(session.settings(), session.embedder, progress=progress)
    told = {**report.model_dump(mode="json"), "healthy": report.healthy}
    if repair:
        told["repairs"] = [action.model_dump(mode="json") for action in actions]
    session.show(told, lambda: _findings(report))
    if not report.healthy:
        raise typer.Exit(FINDING)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app)(reindex)
    command(app)(doctor)


def _rebuild_kv(session: Session) -> None:
    with session.engine() as engine, session.progress("reading KV files") as progress:
        done = engine.rebuild_kv(progress)
    counts = ", ".join(f"{count} {name}" for name, count in done.model_dump().items())
    session.err.print(output.plain(f"KV files: {counts}"))


def _repaired(session: Session) -> Sequence[Action]:
    with session.engine() as engine:
        actions = engine.repair().actions
    for action in actions[:_SHOWN]:
        session.err.print(output.plain(f"{action.namespace}: {action.done}" if action.namespace else action.done))
    if len(actions) > _SHOWN:
        session.err.print(output.plain(f"... and {len(actions) - _SHOWN} more (--json lists all)"))
    if not actions:
        session.err.print(output.plain("nothing to repair"))
    return actions


def _findings(report: DoctorReport) -> RenderableType:
    made = output.table("", "checked", "finding", narrow=("", "checked"))
    for finding in report.findings:
        mark, style = _MARKS[finding.status]
        made.add_row(Text(mark, style=style), finding.name, output.plain(finding.message))
    return made

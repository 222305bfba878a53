"""Commands that look after a store: reindex, doctor."""

from __future__ import annotations

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
) -> None:
    """Look whether a store is whole; exit with 1 if something must be done. Alone, it changes nothing."""
    from memos.doctor import diagnose

    if rebuild_kv:
        _rebuild_kv(session)

    with session.progress("looking") as progress:
        report = diagnose(session.settings(), session.embedder, progress=progress)
    session.show({**report.model_dump(mode="json"), "healthy": report.healthy}, lambda: _findings(report))
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


def _findings(report: DoctorReport) -> RenderableType:
    made = output.table("", "checked", "finding", narrow=("", "checked"))
    for finding in report.findings:
        mark, style = _MARKS[finding.status]
        made.add_row(Text(mark, style=style), finding.name, output.plain(finding.message))
    return made

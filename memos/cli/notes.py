"""Commands about notes: links, rollback, refine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from memos.cli import output
from memos.cli.command import command
from memos.cli.failures import STORE
from memos.cli.keep import Identifier
from memos.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memos.cube import Link

POLL_S = 0.05
PICTURES = (".svg", ".html", ".htm")


def links(
    session: Session,
    cube_id: Annotated[str | None, typer.Argument(metavar="ID", help="The memory's id.")] = None,
    *,
    graph: Annotated[
        Path | None, typer.Option("--graph", metavar="FILE", help="Draw all notes of the user: .svg or .html.")
    ] = None,
) -> None:
    """Show what a memory is linked to, or draw the notes of a user and their links."""
    if (graph is None) == (cube_id is None):
        raise typer.BadParameter("name the id of a memory, or --graph FILE")
    if graph is not None:
        _draw(session, graph)
        return
    assert cube_id is not None
    with session.engine() as engine:
        found = engine.links(session.scope.tenant, cube_id, user_id=session.user)
        ends = {link.target_id: engine.get(session.scope.tenant, link.target_id).text or "" for link in found}
    session.show(found, lambda: _listed(found, ends))


def rollback(
    session: Session,
    cube_id: Identifier,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version to go back to.")],
) -> None:
    """Let a memory say again what it said at an earlier version; that becomes a new one."""
    with session.memory() as memory:
        cube = memory.rollback(cube_id, version, user_id=session.user)
    session.show(
        cube, lambda: Text(f"{cube.id} says again what it said at version {version}, as version {cube.version}")
    )


def refine(
    session: Session,
    cube_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Memories of one user.")] = None,
) -> None:
    """Write notes that wait, and again those of the named memories or those for which a model was of no use."""
    with session.engine() as engine, session.progress("writing notes") as progress:
        from memos.store.jobs import FINAL  # SQLAlchemy, which `memos --help` does without

        job = engine.refine(session.scope, cube_ids or None)
        while job.state not in FINAL:
            time.sleep(POLL_S)
            job = engine.job(session.scope.tenant, job.id)
            progress(round(100 * job.progress), 100)
    told = {name.replace("_", " "): value for name, value in (job.result or {}).items()}
    session.show(job, lambda: output.plain(f"no notes written: {job.error}") if job.error else output.pairs(told))
    if job.error:
        raise typer.Exit(STORE)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, whose=("user",))(links)
    command(app, whose=("user",))(rollback)
    command(app, whose=("user",))(refine)


def _draw(session: Session, file: Path) -> None:
    if file.suffix.lower() not in PICTURES:
        raise typer.BadParameter(
            f"--graph writes {', '.join(PICTURES)}, not {file.suffix or 'a file without a suffix'}"
        )
    from memos.cli.picture import picture

    with session.engine() as engine:
        notes, found = engine.graph(session.scope)
    title = f"Notes of {session.scope.user_id}"
    drawn = picture(notes, found, title, page=file.suffix.lower() != ".svg")
    file.write_text(drawn, encoding="utf-8")
    session.show({"file": str(file), "notes": len(notes), "links": len(found)}, lambda: output.plain(f"wrote {file}"))


def _listed(found: Sequence[Link], ends: dict[str, str]) -> RenderableType:
    made = output.table("memory", "link", "score", "by", "text", narrow=("memory", "link", "score", "by"))
    for link in found:
        kind = f"{link.type}{' (of this one)' if link.reversed else ''}"
        made.add_row(link.target_id, kind, f"{link.score:.2f}", link.author, output.plain(ends[link.target_id]))
    return Group(made, Text(f"{len(found)} links", style="dim"))

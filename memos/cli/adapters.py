"""Commands of the parametric tier's registry: adapters ls, show, export, import, fuse, rm, rollback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from memos.cli import output
from memos.cli.command import command
from memos.cli.failures import STORE
from memos.cli.moves import wait
from memos.cli.session import Session

if TYPE_CHECKING:
    from memos.parametric.listing import AdapterInfo

adapters = typer.Typer(name="adapters", help="Look after memories kept as weights.", no_args_is_help=True)

Adapter = Annotated[str, typer.Argument(metavar="ID", help="The adapter's id.")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A PEFT directory.")]


def adapters_list(session: Session) -> None:
    """List a user's adapters, with earlier versions and those that failed their gate."""
    with session.engine() as engine:
        found = engine.adapters(session.scope)
    session.show(found, lambda: _listed(found))


def adapters_show(session: Session, cube_id: Adapter) -> None:
    """Show everything about one adapter: its gate report, where it came from, the memories in it."""
    with session.engine() as engine:
        found = engine.adapter(session.scope.tenant, cube_id, user_id=session.user)
    session.show(found, lambda: _shown(found))


def adapters_export(session: Session, cube_id: Adapter, folder: Folder) -> None:
    """Write an adapter as a PEFT directory, to a new or an empty folder."""
    with session.engine() as engine:
        found = engine.export_adapter(session.scope.tenant, cube_id, folder, user_id=session.user)
    session.show(found, lambda: output.plain(f"exported {cube_id} to {folder}"))


def adapters_import(
    session: Session,
    folder: Folder,
    *,
    name: Annotated[str | None, typer.Option(help="What to call it; one of the same name becomes its past.")] = None,
) -> None:
    """Register the adapter of a PEFT directory; it is used only where a request names it."""
    with session.engine() as engine:
        found = engine.import_adapter(session.scope, folder, name=name)
    session.show(found, lambda: output.plain(f"imported {found.cube_id}: {_size(found)}"))


def adapters_fuse(
    session: Session, cube_ids: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Adapters of one user.")]
) -> None:
    """Serve one adapter in the place of several, if it knows what they know; `rollback` serves them again."""
    with session.engine() as engine, session.progress("fusing") as progress:
        tenant = session.scope.tenant
        job_id = engine.fuse_adapters(tenant, cube_ids, user_id=session.user).id
        wait(engine, session, [job_id], progress)
        job = engine.job(tenant, job_id)
    told = {name: value for name, value in (job.result or {}).items() if isinstance(value, str | int | float)}
    session.show(job, lambda: output.plain(f"not fused: {job.error}") if job.error else output.pairs(told))
    if job.error:
        raise typer.Exit(STORE)


def adapters_remove(
    session: Session,
    cube_ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Adapters.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All adapters of the user.")] = False,
) -> None:
    """Delete adapters; the memories stay."""
    if everything == bool(cube_ids):
        raise typer.BadParameter("name the ids of adapters, or --all")
    with session.engine() as engine:
        chosen = cube_ids or [one.cube_id for one in engine.adapters(session.scope)]
        receipts = [engine.remove_adapter(session.scope.tenant, one, user_id=session.user) for one in chosen]
    session.show(receipts, lambda: Text(f"removed {len(receipts)} adapters"))


def adapters_rollback(session: Session, cube_id: Adapter) -> None:
    """Serve an earlier version again: the one before a published adapter, or the superseded one that is named."""
    with session.engine() as engine:
        found = engine.rollback_adapter(session.scope.tenant, cube_id, user_id=session.user)
    session.show(found, lambda: output.plain(f"serving {found.cube_id}, version {found.version}"))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(adapters, name="ls", whose=("user",))(adapters_list)
    command(adapters, name="show", whose=("user",))(adapters_show)
    command(adapters, name="export", whose=("user",))(adapters_export)
    command(adapters, name="import", whose=("user",))(adapters_import)
    command(adapters, name="fuse", whose=("user",))(adapters_fuse)
    command(adapters, name="rm", whose=("user",))(adapters_remove)
    command(adapters, name="rollback", whose=("user",))(adapters_rollback)
    app.add_typer(adapters)


def _listed(found: Sequence[AdapterInfo]) -> RenderableType:
    made = output.table("adapter", "name", "state", "holds", "memories", "hits", narrow=("adapter",))
    for one in found:
        state = f"{one.state}, version {one.version}"
        memories = "imported" if one.provenance.get("source") == "import" else str(len(one.parents))
        made.add_row(one.cube_id, output.plain(one.name or ""), state, _size(one), memories, str(one.hits))
    total = sum(one.bytes for one in found)
    return Group(made, Text(f"{len(found)} adapters, {output.megabytes(total)}", style="dim"))


def _shown(one: AdapterInfo) -> RenderableType:
    memories = ", ".join(f"{parent.cube_id} (version {parent.version})" for parent in one.parents)
    return output.pairs(
        {
            "id": one.cube_id,
            "name": one.name,
            "state": f"{one.state}, version {one.version}",
            "holds": _size(one),
            "made": output.when(one.created_at),
            "uses": one.hits,
            "memories": memories or None,
            "content": one.digest,
            "model": one.base,
            **_reported("gate", one.gate),
            **_reported("from", one.provenance),
        }
    )


def _reported(name: str, report: Mapping[str, Any] | None) -> dict[str, str]:
    if report is None:
        return {name: "no report"}
    return {f"{name}.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in report.items()}


def _size(one: AdapterInfo) -> str:
    what = f"rank {one.rank}" if one.payload == "lora" else f"{one.tokens} tokens"
    return f"{one.payload}, {what}, {output.megabytes(one.bytes)}" if one.bytes else f"{one.payload}, {what}, no file"

"""Commands that carry memories in and out: export, import, backup, restore."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from memos.cli import output
from memos.cli.command import WHOSE, command
from memos.cli.failures import USAGE
from memos.cli.session import Session

if TYPE_CHECKING:
    from memos.backup.report import BackupReport, RestoreReport
    from memos.transfer.report import ImportReport

SHOWN = 20


def export(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; - is stdout.")],
) -> None:
    """Write a user's memories, with their history, to a JSON Lines file."""
    if str(path) == "-":
        _export_to_stdout(session)
        return
    with session.engine() as engine, session.progress("exporting") as progress:
        count = engine.export(session.scope, path, progress)
    session.show(
        {"path": str(path), "exported": count},
        lambda: output.plain(f"exported {output.counted(count)} to {path}"),
    )


def import_(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What to read.")],
    *,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Import nothing if there is any line that cannot be used."),
    ] = False,
) -> None:
    """Read memories from an export, JSON Lines, a LoCoMo conversation, a chat log or prose.

    Lines that cannot be used are shown and left out. The rest is stored whole or, on any failure, not at all.
    """
    with session.engine() as engine, session.progress("embedding") as progress:
        report = engine.import_(session.scope, path, strict=strict, progress=progress)
    session.show(report, lambda: _imported(report))
    if report.rejected and not report.imported and not report.skipped:
        raise typer.Exit(USAGE)


def backup(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A new folder, or a file ending in .tar or .tar.zst.")],
    *,
    everybody: Annotated[bool, typer.Option("--all", help="All users, of one tenant if it is named.")] = False,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Whose users; default: `default`.")] = None,
) -> None:
    """Write a user's memories with history, notes, KV files and adapters, whole or not at all.

    What is forgotten later stays in it: remove old backups.
    """
    if everybody and session.user is not None:
        raise typer.BadParameter("name a user or --all, not both")
    user = None if everybody else session.scope.user_id
    with session.engine() as engine, session.progress("copying files") as progress:
        report = engine.backup(path, tenant=tenant, user_id=user, progress=progress)
    session.show(report, lambda: Text("\n".join(_backed_up(report))))


def restore(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="What `memos backup` wrote.")],
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the memories of users who have any, for good.")
    ] = False,
) -> None:
    """Restore a backup into this store, all of it or nothing, after every checksum was compared."""
    with session.engine() as engine, session.progress("restoring") as progress:
        report = engine.restore(path, replace=replace, progress=progress)
    session.show(report, lambda: Text("\n".join(_restored(report))))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, whose=WHOSE)(export)
    command(app, whose=WHOSE)(import_)
    command(app, whose=("user",))(backup)
    command(app)(restore)


def _export_to_stdout(session: Session) -> None:
    with tempfile.TemporaryDirectory(prefix="memos-export-") as folder:
        path = Path(folder) / "export.jsonl"
        with session.engine() as engine, session.progress("exporting") as progress:
            engine.export(session.scope, path, progress, kept=False)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _backed_up(report: BackupReport) -> Iterator[str]:
    yield (
        f"backed up {output.counted(report.memories)} of {report.namespaces} users with {report.kv_files} KV files and "
        f"{report.adapters} adapters, {output.megabytes(report.bytes)}, to {report.path}"
    )
    if report.left_out:
        yield f"{report.left_out} files were gone or damaged and are not in it; `memos doctor` says which"


def _restored(report: RestoreReport) -> Iterator[str]:
    yield (
        f"restored {output.counted(report.memories)} of {report.namespaces} users with {report.kv_files} KV files and "
        f"{report.adapters} adapters, as of {output.when(report.created_at)}"
    )
    if report.kv_dropped:
        yield f"{report.kv_dropped} KV files were not in it, or found no room: promote their memories again"
    if report.adapters_dropped:
        yield f"{report.adapters_dropped} adapters likewise; {report.retraining} of them are trained again"


def _imported(report: ImportReport) -> RenderableType:
    parts = [f"imported {output.counted(report.imported)} ({report.format})"]
    if report.skipped:
        parts.append(f"{report.skipped} were there already")
    if not report.rejected:
        return Text(", ".join(parts))
    parts.append(f"{len(report.rejected)} could not be used:")
    rejected = output.table("line", "reason")
    for line in report.rejected[:SHOWN]:
        rejected.add_row(str(line.line), output.plain(line.reason))
    more = len(report.rejected) - SHOWN
    rest = [Text(f"... and {more} more (--json lists all)", style="dim")] if more > 0 else []
    return Group(Text(", ".join(parts)), rejected, *rest)

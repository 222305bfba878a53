"""Commands of the scheduler: plan, fuse, expand, moves, undo."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from memos.cli import output
from memos.cli.command import command
from memos.cli.keep import Identifier
from memos.cli.session import Progress, Session

if TYPE_CHECKING:
    from memos.engine import MemoryOS
    from memos.schedule.moving.move import Move

POLL_S = 0.05


def plan(
    session: Session,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be moved, and why.")] = False,
) -> None:
    """Keep what is used a lot in KV files, and give up files that are worth less, by seconds saved per byte."""
    with session.engine() as engine, session.progress("moving") as progress:
        moves = engine.plan(session.scope, dry_run=dry_run)
        wait(engine, session, [move.job_id for move in moves if move.job_id], progress)
    session.show(moves, lambda: _listed(moves, "would be moved" if dry_run else "moved"))


def fuse(
    session: Session,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fused, and why.")] = False,
) -> None:
    """Let memories that say nearly the same, or are used together, become one; `memos undo` takes it back."""
    with session.engine() as engine, session.progress("fusing") as progress:
        made = engine.fuse(session.scope, dry_run=dry_run)
        wait(engine, session, [move.job_id for move in made if move.job_id], progress)
        if not dry_run:
            ids = {move.id for move in made}
            made = [move for move in engine.moves(session.scope) if move.id in ids]
    session.show(made, lambda: _listed(made, "would be fused" if dry_run else "fused"))


def expand(session: Session, cube_id: Identifier) -> None:
    """Show the memories that a memory was fused from, or that a cube was made from."""
    with session.memory() as memory:
        sources = memory.expand(cube_id, user_id=session.user)
    session.show(sources, lambda: output.memories(sources))


def moves(session: Session) -> None:
    """List what was moved between tiers or fused, and why."""
    with session.engine() as engine:
        made = engine.moves(session.scope)
    session.show(made, lambda: _listed(made, "moved"))


def undo(
    session: Session, move_id: Annotated[str, typer.Argument(metavar="ID", help="A move, as `memos moves` lists it.")]
) -> None:
    """Take a move back: give up what was made, or make again what was given up."""
    with session.engine() as engine, session.progress("moving") as progress:
        made = engine.undo(session.scope, move_id)
        wait(engine, session, [move.job_id for move in made if move.job_id], progress)
    session.show(made, lambda: _listed(made, "moved"))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for each in (plan, fuse, expand, moves, undo):
        command(app, whose=("user",))(each)


def wait(engine: MemoryOS, session: Session, job_ids: Sequence[str], progress: Progress) -> None:
    """Let the jobs end: they run in this process."""
    from memos.store.jobs import FINAL  # SQLAlchemy, which `memos --help` does without

    for place, job_id in enumerate(job_ids):
        while (job := engine.job(session.scope.tenant, job_id)).state not in FINAL:
            progress(round(100 * (place + job.progress)), 100 * len(job_ids))
            time.sleep(POLL_S)


def _listed(made: Sequence[Move], what: str) -> RenderableType:
    table = output.table("move", "", "tier", "why", narrow=("move",))
    for move in made:
        table.add_row(move.id or "-", move.action, move.tier, output.plain(move.reason))
    return Group(table, Text(f"{len(made)} {what}", style="dim"))

"""Commands about what must be kept and what was deleted: hold, release, holds, retention, verify-receipt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from memos.cli import output
from memos.cli.command import command
from memos.cli.failures import FINDING
from memos.cli.session import Session

if TYPE_CHECKING:
    from memos_sdk import Hold, ReceiptCheck, Retention


def hold(
    session: Session,
    cube_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="A memory's id; all of the user's if left out.")
    ] = None,
    *,
    reason: Annotated[str | None, typer.Option(help="Why, such as the number of a case.")] = None,
) -> None:
    """Place a legal hold: until it is released nothing deletes the memory, or any of the user's."""
    with session.memory() as memory:
        made = memory.hold(cube_id, user_id=session.user, reason=reason)
    session.show(made, lambda: output.plain(f"hold {made.id} is on {_what(made)}"))


def release(session: Session, hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="The hold's id.")]) -> None:
    """End a legal hold."""
    with session.memory() as memory:
        ended = memory.release(hold_id)
    session.show(ended, lambda: output.plain(f"released {_what(ended)}"))


def holds(session: Session) -> None:
    """List the legal holds on a user's memories."""
    with session.memory() as memory:
        found = memory.holds(user_id=session.user)
    session.show(found, lambda: _held(found))


def retention(
    session: Session,
    days: Annotated[int | None, typer.Argument(metavar="[DAYS]", help="How many days from now on; 0 for good.")] = None,
) -> None:
    """Show how long a user's memories are kept, or keep them so many days after they were stored."""
    with session.memory() as memory:
        kept = memory.retention(user_id=session.user, days=days)
    session.show(kept, lambda: output.plain(_kept(kept)))


def verify_receipt(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A receipt, as `forget --json` prints.")],
) -> None:
    """Check a deletion receipt's signature, and hold it against the store as it is now; exit with 1 if that fails."""
    receipt = _read(path)
    with session.memory() as memory:
        found = memory.verify_receipt(receipt)
    session.show(found, lambda: _checked(found))
    if not found.valid:
        raise typer.Exit(FINDING)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, whose=("user",))(hold)
    command(app)(release)
    command(app, whose=("user",))(holds)
    command(app, whose=("user",))(retention)
    command(app, name="verify-receipt")(verify_receipt)


def _what(hold: Hold) -> str:
    return f"memory {hold.cube_id}" if hold.cube_id else f"every memory of {hold.user_id!r}"


def _held(found: Sequence[Hold]) -> RenderableType:
    if not found:
        return Text("nothing is held", style="dim")
    made = output.table("hold", "since", "on", "reason", narrow=("hold", "since"))
    for one in found:
        made.add_row(one.id, output.when(one.created_at), output.plain(_what(one)), output.plain(one.reason or ""))
    return made


def _kept(kept: Retention) -> str:
    how_long = "for good" if kept.days is None else f"for {kept.days} days"
    return f"memories of {kept.user_id!r} are kept {how_long}"


def _read(path: Path) -> dict[str, Any]:
    try:
        receipt = json.loads(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}") from error
    if not isinstance(receipt, dict):
        raise typer.BadParameter(f"{path} holds no receipt: that is a JSON object")
    return receipt


def _checked(found: ReceiptCheck) -> RenderableType:
    made = output.table("", "checked", "", "finding", narrow=("", "checked"))
    for check in found.checks:
        mark = Text("ok", style="green") if check.passed else Text("failed", style="bold red")
        made.add_row(mark, check.name, str(check.checked), output.plain(check.finding))
    verdict = "the receipt holds" if found.valid else "the receipt does not hold"
    return Group(made, Text(verdict, style="green" if found.valid else "bold red"))

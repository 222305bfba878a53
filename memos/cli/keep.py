"""Commands that change memories: store, update, forget."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from memos.cli.command import WHOSE, command
from memos.cli.output import counted, plain
from memos.cli.session import Session


def parse_object(text: str | None) -> dict[str, Any] | None:
    """Read a JSON object from an option."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter('must be a JSON object, such as \'{"topic": "travel"}\'')
    return value


Identifier = Annotated[str, typer.Argument(metavar="ID", help="The memory's id.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="A JSON object kept beside the text.")]


def store(
    session: Session,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to remember; - reads stdin.")],
    *,
    lines: Annotated[bool, typer.Option("--lines", help="Store each line of the text by itself.")] = False,
    metadata: Metadata = None,
    event_time: Annotated[str | None, typer.Option(metavar="TIME", help="When it happened (ISO 8601).")] = None,
    expires_at: Annotated[str | None, typer.Option(metavar="TIME", help="When it stops to hold.")] = None,
    infer: Annotated[bool, typer.Option(help="Have a note constructed from it.")] = True,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Repeating the call stores nothing new.")
    ] = None,
) -> None:
    """Remember a text."""
    kept: dict[str, Any] = {
        "metadata": parse_object(metadata),
        "event_time": event_time,
        "expires_at": expires_at,
        "infer": infer,
    }
    whole = _stdin() if text == "-" else text
    key = idempotency_key
    with session.memory() as memory:
        if lines:
            items = [{"text": line, **kept} for line in whole.split("\n") if line.strip()]
            cubes = memory.store_many(items, **session.whose, idempotency_key=key)
        else:
            cubes = [memory.store(whole, **session.whose, **kept, idempotency_key=key)]
    session.show(
        cubes if lines else cubes[0],
        lambda: Text("\n".join(f"stored {cube.id}" for cube in cubes)),
    )


def update(
    session: Session,
    cube_id: Identifier,
    *,
    text: Annotated[str | None, typer.Option(help="The new text; - reads stdin.")] = None,
    metadata: Metadata = None,
    expected_version: Annotated[
        int | None, typer.Option(metavar="N", help="Refuse if it is no longer at this version.")
    ] = None,
) -> None:
    """Write a new version of a memory."""
    with session.memory() as memory:
        cube = memory.update(
            cube_id,
            text=_stdin() if text == "-" else text,
            metadata=parse_object(metadata),
            expected_version=expected_version,
            user_id=session.user,
        )
    session.show(cube, lambda: Text(f"{cube.id} is now at version {cube.version}"))


def forget(
    session: Session,
    cube_id: Annotated[str | None, typer.Argument(metavar="ID", help="The memory's id.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Forget all memories of the user, agent or run.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a memory, or all of them, everywhere."""
    if everything == (cube_id is not None):
        raise typer.BadParameter("name the id of a memory, or --all")
    if everything and not yes:
        _confirm(session)
    with session.memory() as memory:
        if cube_id is not None:
            receipt = memory.forget(cube_id, user_id=session.user)
        else:
            receipt = memory.forget_all(**session.whose)
    count = counted(len(receipt.cube_ids))
    later = f", still to be removed from: {', '.join(receipt.pending)}" if receipt.pending else ""
    files = len(receipt.exports)
    outside = f"; {files} exported files may still hold it (--json names them)" if files else ""
    session.show(receipt, lambda: plain(f"forgot {count}{later}{outside}"))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, whose=WHOSE)(store)
    command(app, whose=("user",))(update)
    command(app, whose=WHOSE)(forget)


def _confirm(session: Session) -> None:
    if not _can_ask():
        raise typer.BadParameter("--all needs --yes where nobody can be asked")
    named = {"user": session.user or "default", "agent": session.agent, "run": session.run}
    whose = ", ".join(f"{name} {value!r}" for name, value in named.items() if value)
    typer.confirm(f"Forget every memory of {whose}?", abort=True, err=True)


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _stdin() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"stdin is not UTF-8: {error}") from error

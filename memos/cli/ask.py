"""Commands that look memories up: recall, get, list, history, stats."""

from __future__ import annotations

from typing import Annotated

import typer

from memos.cli import output
from memos.cli.command import WHOSE, command
from memos.cli.keep import Identifier, parse_object
from memos.cli.session import Session


def recall(
    session: Session,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for.")],
    *,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many memories at most.")] = 10,
    filters: Annotated[
        str | None, typer.Option(metavar="JSON", help='Such as \'{"metadata.topic": "travel"}\'.')
    ] = None,
    as_of: Annotated[str | None, typer.Option(metavar="TIME", help="Ask what held at that time.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Limit of --context, in tokens.")] = None,
    context: Annotated[bool, typer.Option("--context", help="Print the text block for a prompt.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the parts of every score.")] = False,
) -> None:
    """Find the memories that answer a question, best first."""
    with session.memory() as memory:
        result = memory.recall(
            question,
            **session.whose,
            top_k=top_k,
            filters=parse_object(filters),
            as_of=as_of,
            max_tokens=max_tokens,
            explain=explain,
        )
    if context and not session.json:
        typer.echo(result.context)
    else:
        session.show(result, lambda: output.recalled(result, explain=explain))


def get(session: Session, cube_id: Identifier) -> None:
    """Show one memory."""
    with session.memory() as memory:
        cube = memory.get(cube_id, user_id=session.user)
    session.show(cube, lambda: output.memory(cube))


def list_(
    session: Session,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 100,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Begin after this memory.")] = None,
) -> None:
    """List memories in the order they were stored."""
    with session.memory() as memory:
        cubes = memory.list(**session.whose, limit=limit, after=after)
    session.show(cubes, lambda: output.memories(cubes))


def history(session: Session, cube_id: Identifier) -> None:
    """Show every version of a memory, oldest first."""
    with session.memory() as memory:
        versions = memory.history(cube_id, user_id=session.user)
    session.show(versions, lambda: output.versions(versions))


def stats(session: Session) -> None:
    """Show what a user's memory holds."""
    with session.memory() as memory:
        found = memory.stats(user_id=session.user)
    session.show(
        found,
        lambda: output.pairs({name.replace("_", " "): value for name, value in found.model_dump().items()}),
    )


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, whose=WHOSE)(recall)
    command(app, whose=("user",))(get)
    command(app, whose=WHOSE)(list_)
    command(app, whose=("user",))(history)
    command(app, whose=("user",))(stats)

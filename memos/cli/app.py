"""The root command."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated

import typer

from memos import __version__
from memos.cli import adapters, ask, care, carry, jobs, keep, keeping, keys, moves, notes, show, tiers
from memos.cli.command import Agent, Group, Home, Json, Run, User, narrowed

app = typer.Typer(
    cls=Group,
    name="memos",
    epilog="Exit codes: 0 done, 1 doctor or verify-receipt found something wrong, 2 wrong usage or input, 3 not found, "
    "4 conflict, 5 store in use, full or out of reach.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (keep, keeping, ask, notes, carry, tiers, moves, adapters, jobs, care, show, keys):
    commands.register(app)
for extension in entry_points(group="memos.commands"):
    extension.load()(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"memos {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    *,
    home: Home = None,
    user: User = None,
    agent: Agent = None,
    run: Run = None,
    json: Json = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Memory for LLM agents: store, recall, forget. Options given here hold for the command that follows."""
    given = {"home": home, "user": user, "agent": agent, "run": run, "json": json}
    context.obj = narrowed(context.obj, given)

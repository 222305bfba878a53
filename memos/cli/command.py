"""How a command is declared: a function of a session and its own arguments; the common options are added here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from memos.cli.failures import exits, problem
from memos.cli.session import Session, print_json

Home = Annotated[Path | None, typer.Option(help="Data directory; default: MEMOS_HOME, or the platform's.")]
User = Annotated[str | None, typer.Option(help="Whose memory; default: `default`.")]
Agent = Annotated[str | None, typer.Option(help="Only this agent's.")]
Run = Annotated[str | None, typer.Option(help="Only this run's (session's).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
COMMON: dict[str, Any] = {"home": Home, "user": User, "agent": Agent, "run": Run, "json": Json}
WHOSE = ("user", "agent", "run")


class Group(TyperGroup):
    """The root command: under ``--json`` it reports wrong usage as a problem body too."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Parse the arguments and run the command they name."""

        def run(*, alone: bool) -> Any:
            return super(Group, self).main(args, prog_name, complete_var, alone, windows_expand_args, **extra)

        given = sys.argv[1:] if args is None else args
        if "--json" not in given or not standalone_mode:
            return run(alone=standalone_mode)
        try:
            code = run(alone=False)
        except typer.TyperException as error:
            print_json(problem("invalid-input", error.format_message()), stderr=True)
            code = error.exit_code
        except typer.Abort:
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


def common(function: Callable[..., Any], names: Sequence[str]) -> inspect.Signature:
    """Return a signature Typer reads: the function's own parameters, the context, and the common options."""
    hints = get_type_hints(function, include_extras=True)
    own = [*inspect.signature(function).parameters.values()][1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("_context", kind, annotation=typer.Context),
        *(parameter.replace(kind=kind, annotation=hints[parameter.name]) for parameter in own),
        *(
            inspect.Parameter(name, kind, default=False if name == "json" else None, annotation=COMMON[name])
            for name in names
        ),
    ]
    return inspect.Signature(parameters)


def command(
    app: typer.Typer, *, name: str | None = None, whose: Sequence[str] = (), **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command with ``--home``, ``--json`` and the options in ``whose``."""
    names = (*whose, "home", "json")

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def call(**values: Any) -> None:
            session = narrowed(values.pop("_context").obj, {key: values.pop(key) for key in names})
            with exits(session):
                function(session, **values)

        signature = common(function, names)
        call.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature looks for
        call.__annotations__ = {key: each.annotation for key, each in signature.parameters.items()}
        call.__doc__ = function.__doc__
        app.command(name or function.__name__.rstrip("_"), **settings)(call)
        return function

    return register


def narrowed(session: Session | None, given: dict[str, Any]) -> Session:
    """Return a session with the options given to a command over those given before it."""
    return replace(session or Session(), **{key: value for key, value in given.items() if value or value == ""})

"""From errors to messages and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.text import Text

from memos.cli.session import Session, print_json

FINDING, USAGE, NOT_FOUND, CONFLICT, STORE = 1, 2, 3, 4, 5


@contextmanager
def exits(session: Session) -> Iterator[None]:
    """Turn the errors of the SDK and the engine into a message on stderr and an exit code."""
    from memos.errors import MemosError as EngineError
    from memos_sdk.errors import MemosError, from_problem

    try:
        yield
    except EngineError as error:
        code = _report(session, from_problem(error.problem()))
    except MemosError as error:
        code = _report(session, error)
    else:
        return
    raise typer.Exit(code)


def _report(session: Session, error: Any) -> int:
    if session.json:
        print_json(error.problem or problem(error.code, error.message), stderr=True)
    else:
        session.err.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    return exit_code(error)


def exit_code(error: Any) -> int:
    """Return the exit code an error of the SDK stands for."""
    from memos_sdk import errors

    if isinstance(error, errors.InvalidInput):
        return USAGE
    if isinstance(error, errors.NotFound):
        return NOT_FOUND
    return CONFLICT if isinstance(error, errors.Conflict) else STORE


def problem(code: str, detail: str) -> dict[str, Any]:
    """Return a problem body for what went wrong before any store was asked."""
    title = "".join(part.title() for part in code.split("-"))
    status = 422 if code == "invalid-input" else 500
    return {
        "type": f"urn:memos:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }

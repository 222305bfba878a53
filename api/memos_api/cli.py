"""``memos serve`` and ``memos mcp``: the service in one command. What it needs is imported when it is called."""

from __future__ import annotations

import asyncio
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from memos.cli.command import command
from memos.cli.session import Session
from memos.errors import InvalidInput

if TYPE_CHECKING:
    from memos.config import Settings
    from memos_api.settings import ServiceSettings


def register(app: typer.Typer) -> None:
    """Add the commands of the service."""
    command(app)(serve)
    command(app, whose=("user",))(mcp)


def serve(
    session: Session,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: MEMOS_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: MEMOS_API_PORT.")] = None,
    log: Annotated[str | None, typer.Option(help="`json` or `console`; default: console on a terminal.")] = None,
) -> None:
    """Serve the store over HTTP: REST under /v1, OpenAI-compatible chat, MCP, documentation at /docs."""
    format_ = log or ("console" if session.err.is_terminal else None)
    settings = _settings({"host": host, "port": port, "log_format": format_})
    run(settings, session.settings())


def mcp(
    session: Session,
    *,
    url: Annotated[
        str | None, typer.Option(envvar="MEMOS_URL", help="Server to ask; default: the embedded store in --home.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="MEMOS_API_KEY", help="API key of that server; the variable keeps it private.")
    ] = None,
) -> None:
    """Serve memory to an agent over stdin and stdout (Model Context Protocol); with --user, of that user alone."""
    _check_installed("mcp")
    from memos.cube import check_name
    from memos_api.mcp.stdio import serve
    from memos_sdk import AsyncMemory

    check_name(session.user, "user")
    memory = AsyncMemory(url, api_key=api_key, path=session.home, embedder=session.embedder)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a thread that waits for stdin could not be ended by an exception
    asyncio.run(serve(memory, session.user))


def run(settings: ServiceSettings, engine_settings: Settings) -> None:
    """Open the store and serve it until told to stop. Raises :class:`InvalidInput` where that would expose it."""
    import uvicorn

    from memos.access import Access
    from memos.engine import MemoryOS
    from memos_api.app import create_app
    from memos_api.caller import is_loopback

    engine = MemoryOS(engine_settings)
    if not is_loopback(settings.host) and not Access(engine.database).any():
        engine.close()
        raise InvalidInput(
            f"there is no API key, and {settings.host} can be reached from other machines: make one first with "
            "`memos keys create`, or listen on 127.0.0.1"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # what uvicorn raises again once it has ended in order
    uvicorn.run(
        create_app(settings, lambda: engine),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_s,
    )


def _settings(given: dict[str, object]) -> ServiceSettings:
    """Read the settings of the service. Raises :class:`InvalidInput`."""
    _check_installed("fastapi", "mcp", "prometheus_client", "structlog", "uvicorn")
    from pydantic import ValidationError

    from memos_api.settings import ServiceSettings

    try:
        return ServiceSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        raise InvalidInput(
            f"a setting cannot be used: MEMOS_API_{str(wrong['loc'][0]).upper()}: {wrong['msg']}"
        ) from error


def _check_installed(*packages: str) -> None:
    """Raise :class:`InvalidInput` unless the packages of the service are there."""
    try:
        for package in packages:
            import_module(package)
    except ImportError as error:
        raise InvalidInput("the service needs more packages: pip install 'agent-memos[server]'") from error

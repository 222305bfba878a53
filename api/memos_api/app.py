"""The application: ``uvicorn memos_api.app:app``, or ``memos serve``, which also minds where it listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from memos import __version__
from memos.config import Settings
from memos.engine import MemoryOS
from memos_api import logs, problems
from memos_api.edge import Edge
from memos_api.mcp import http as mcp
from memos_api.metrics import Metrics
from memos_api.routes import (
    adapters,
    completions,
    health,
    jobs,
    keeping,
    keys,
    kv,
    memories,
    moves,
    not_built,
    recall,
    tiers,
    transfer,
)
from memos_api.service import Service
from memos_api.settings import ServiceSettings
from memos_api.tracing import traced


class Application(FastAPI):
    """FastAPI within an ``edge``: outside of everything, so that what goes wrong inside passes it as well."""

    edge: Callable[[ASGIApp], ASGIApp]

    def build_middleware_stack(self) -> ASGIApp:
        """Return what serves."""
        return self.edge(super().build_middleware_stack())


VERSION_1 = (memories, recall, completions, tiers, kv, jobs, moves, adapters, transfer, keeping, keys, not_built)
DESCRIPTION = (
    "Memory for LLM agents. Every answer that is no success is an RFC 9457 problem with a stable `code`. The tenant "
    "comes from the API key; `user_id` names a namespace in it, and none means the namespace `default`."
)


def create_app(
    settings: ServiceSettings | None = None,
    open_engine: Callable[[], MemoryOS] = lambda: MemoryOS(Settings()),
) -> FastAPI:
    """Return the application; the engine is opened when it starts and closed when it ends."""
    chosen = settings or ServiceSettings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        logs.configure(chosen)
        service = Service(chosen, await asyncio.to_thread(open_engine), metrics)
        app.state.service = service
        try:
            async with mcp.running(chosen) as app.state.mcp:
                yield
        finally:
            await service.close()

    app = Application(
        title="agent-memos",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_parameters={"persistAuthorization": False},
    )
    problems.handle(app)
    for routes in VERSION_1:
        app.include_router(routes.router, prefix="/v1")
    app.include_router(health.router)
    app.router.routes.extend(mcp.routes())
    app.edge = lambda inner: traced(Edge(inner, chosen, metrics), chosen)
    _document(app)
    return app


def _document(app: FastAPI) -> None:
    """Add the form of problems to the OpenAPI document, and take out what FastAPI says instead."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = make()["components"]["schemas"]
            schemas["Problem"] = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


app = create_app()

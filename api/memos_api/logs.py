"""Log lines of the service: structured, to stderr, without the content of memories."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import structlog

from memos_api.settings import ServiceSettings


def configure(settings: ServiceSettings) -> None:
    """Send what structlog and the standard library log through one chain."""
    shared: Sequence[structlog.types.Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(settings)))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != "uvicorn.access"  # the edge writes a line per request
    for name in ("alembic", "httpx", "mcp"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _rendering(settings: ServiceSettings) -> Sequence[structlog.types.Processor]:
    bare = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if settings.log_format == "console":
        return (bare, structlog.dev.ConsoleRenderer())
    return (bare, structlog.processors.format_exc_info, structlog.processors.JSONRenderer())

"""Clients of the service, each of a tenant of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest


@pytest.fixture
def client_of(running: Any) -> Iterator[Callable[..., httpx.Client]]:
    """Make a client: of a new tenant, of a named one, with some scopes."""
    with ExitStack() as opened:

        def make(tenant: str | None = None, **options: Any) -> httpx.Client:
            headers = {"Authorization": f"Bearer {running.key(tenant, **options)}"}
            return opened.enter_context(httpx.Client(base_url=running.url, headers=headers, timeout=30))

        yield make


@pytest.fixture
def client(client_of: Callable[..., httpx.Client]) -> httpx.Client:
    """A client of a tenant that nobody else has."""
    return client_of()

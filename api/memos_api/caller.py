"""Who calls, as a request says it: a token that is checked where the work is done, and whether it is from here."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Header, Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param

from memos.errors import RequestRefused


@dataclass(frozen=True, slots=True)
class Caller:
    """The credentials of a request, not yet checked."""

    token: str | None
    local: bool


def is_loopback(host: str | None) -> bool:
    """Return whether an address is this machine's own; names other than ``localhost`` are not."""
    name = (host or "").strip("[]").split("%", 1)[0]
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_local(request: Request) -> bool:
    """Return whether a request comes from this machine, to an address of this machine.

    The ``Host`` header counts too: a page in a browser here could reach the service under a name of its own (DNS
    rebinding).
    """
    server = request.scope.get("server") or (None, None)
    client = request.client.host if request.client else None
    return _is_here(server[0], client, request.headers.get("host", server[0]))


@lru_cache(256)  # asked at every request, with the same few answers
def _is_here(server: str | None, client: str | None, asked: str | None) -> bool:
    try:
        named = urlsplit(f"//{asked}").hostname
    except ValueError:
        return False
    return all(map(is_loopback, (server, client, named)))


class Bearer(SecurityBase):
    """Reads who calls: one dependency, since each of them costs at every request."""

    def __init__(self) -> None:
        self.model = HTTPBearer(description="An API key: `memos_...`, made by `memos keys create`.")
        self.scheme_name = "HTTPBearer"

    async def __call__(self, request: Request) -> Caller:
        """Return who calls."""
        scheme, token = get_authorization_scheme_param(request.headers.get("Authorization"))
        return Caller(token if scheme.lower() == "bearer" and token else None, is_local(request))


caller = Bearer()
CallerOf = Annotated[Caller, Security(caller)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=256,
        description="The same key within 24 h carries a write out once and answers as the first time.",
    ),
]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description='The version that is to be changed, as its ETag says: `"3"`.')
]


def version_of(if_match: str | None) -> int | None:
    """Return the version that ``If-Match`` names; ``*`` is any. Raises :class:`RequestRefused`."""
    if if_match is None or if_match.strip() == "*":
        return None
    inner = if_match.strip().removeprefix('"').removesuffix('"')
    if not (inner.isascii() and inner.isdigit() and len(inner) < 10 and int(inner) > 0):
        raise RequestRefused(f'If-Match must be the ETag of a memory, such as "3", not {if_match!r}')
    return int(inner)

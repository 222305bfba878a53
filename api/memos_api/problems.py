"""Errors to RFC 9457 problem bodies, all through one door."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from memos.errors import (
    InvalidInput,
    LimitReached,
    MemosError,
    MethodRefused,
    NotFound,
    Overloaded,
    RequestRefused,
    StoreUnavailable,
    Unauthenticated,
    UnsupportedMedia,
)
from memos_api.answers import encoded

PROBLEM = "application/problem+json"
#: Seconds after which a request that found no room may be repeated.
SOON = "1"


class Problem(BaseModel):
    """What went wrong (RFC 9457). ``code`` is stable; some problems have further fields."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str


def problem(error: MemosError) -> Response:
    """Return the answer that an error is."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, LimitReached):
        headers["Retry-After"] = str(max(1, round(error.extra.get("retry_after_s", 1))))
    if isinstance(error, Overloaded | StoreUnavailable):
        headers["Retry-After"] = SOON
    return Response(encoded(error.problem()), error.status, headers, media_type=PROBLEM)


def handle(app: FastAPI) -> None:
    """Let an application answer every error with a problem body."""
    app.add_exception_handler(MemosError, _of_engine)
    app.add_exception_handler(RequestValidationError, _of_form)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_mistake)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route that can fail in these ways."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _example(status)}},
        }
        for status in sorted(statuses)
    }


# ------------------------------------------------------------ inside


async def _of_engine(_: Request, error: Exception) -> Response:
    assert isinstance(error, MemosError)
    return problem(error)


async def _of_form(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if error.errors()[0]["loc"][0] == "body" and error.body and kind != "application/json":
        return problem(UnsupportedMedia(f"the body must be JSON, sent as application/json, not {kind or 'untyped'}"))
    return problem(_refused(error.errors()))


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, MemosError):  # met by the framework while it read the body
        return problem(error.__cause__)
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(NotFound(f"there is nothing at {path}"))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        answer = problem(MethodRefused(f"{path} has no method {request.method}"))
        answer.headers.update(error.headers or {})
        return answer
    return problem(RequestRefused(str(error.detail)))


async def _of_mistake(_: Request, __: Exception) -> Response:
    """Answer what nobody foresaw; the framework raises it again, and the server logs it."""
    return problem(MemosError("the service made a mistake; its log says more under this request's X-Request-ID"))


def _refused(errors: Sequence[Mapping[str, Any]]) -> MemosError:
    """Return the first thing that is wrong with a request's form."""
    first = errors[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        return RequestRefused(f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    if where == ["body"] and first["type"] == "missing":
        return RequestRefused("a JSON body is needed")
    if first["type"] == "extra_forbidden":
        return InvalidInput(f"unknown field {where[-1]!r}")
    if first["type"] == "missing":
        return InvalidInput(f"{where[-1]} is needed")
    if where[0] == "body" and not isinstance(first.get("input"), dict):
        return InvalidInput("the body must be a JSON object")
    return InvalidInput(f"{'.'.join(where[1:]) or where[0]}: {first['msg']}")


def _example(status: int) -> dict[str, Any]:
    kind = next(kind for kind in _classes(MemosError) if kind.status == status)
    return kind("what is wrong, and what to do about it").problem()


def _classes(root: type[MemosError]) -> Iterator[type[MemosError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)

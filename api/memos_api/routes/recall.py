"""Recall: the question to the memories."""

from __future__ import annotations

from fastapi import APIRouter

from memos.access import Permission
from memos.plaintext.recall import RecallResult
from memos_api.answers import Answer
from memos_api.bodies import RecallBody
from memos_api.caller import CallerOf
from memos_api.problems import problems
from memos_api.service import ServiceOf, plain

router = APIRouter(tags=["recall"])


@router.post(
    "/recall",
    response_model=RecallResult,
    responses=problems(400, 401, 403, 409, 413, 415, 422, 429, 503, 504),
    summary="Recall memories",
)
async def recall(body: RecallBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Return the memories that answer ``query``, best first, and a text block for a prompt."""
    return await plain(service, caller, Permission.READ, "recall", body.payload())

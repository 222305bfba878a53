"""What must be kept and for how long, and whether what was deleted is: legal holds, retention, receipts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from memos.access import Permission
from memos.receipts.check import ReceiptCheck
from memos.store.holds import Hold, Retention
from memos_api.answers import Answer
from memos_api.bodies import HoldBody, ReceiptBody, RetentionBody
from memos_api.caller import CallerOf, IdempotencyKey
from memos_api.problems import problems
from memos_api.routes.memories import READING, WRITING, User
from memos_api.service import ServiceOf, plain

router = APIRouter(tags=["keeping"])

HoldId = Annotated[str, Path(description="The id of a legal hold.")]


class Holds(BaseModel):
    """The legal holds on memories of a user, oldest first."""

    holds: list[Hold]


@router.post("/holds", status_code=201, response_model=Hold, responses=problems(*WRITING), summary="Place a legal hold")
async def hold(body: HoldBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None) -> Answer:
    """Let no deletion reach a memory, or any of a user where no `id` is given, until the hold is released."""
    payload = {**body.payload(), "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.ADMIN, "hold", payload, status=201)


@router.get("/holds", response_model=Holds, responses=problems(*READING), summary="List legal holds")
async def holds(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """List the legal holds on memories of a user."""
    return await plain(service, caller, Permission.ADMIN, "holds", {"user_id": user_id}, under="holds")


@router.delete("/holds/{hold_id}", response_model=Hold, responses=problems(*WRITING), summary="Release a legal hold")
async def release(
    hold_id: HoldId, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """End a legal hold; memories under no other one can be deleted again."""
    payload = {"id": hold_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.ADMIN, "release", payload)


@router.get("/retention", response_model=Retention, responses=problems(*READING), summary="How long memories are kept")
async def retention(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """Get how many days memories of a user are kept."""
    return await plain(service, caller, Permission.READ, "retention", {"user_id": user_id})


@router.put("/retention", response_model=Retention, responses=problems(*WRITING), summary="Keep memories for a time")
async def retain(
    body: RetentionBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Delete memories of a user so many days after they were stored; pinned and held ones stay. 0 days: for good."""
    payload = {**body.payload(), "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.ADMIN, "retain", payload)


@router.post(
    "/receipts/verify",
    response_model=ReceiptCheck,
    responses=problems(*READING, 400, 413, 415),
    summary="Check a deletion receipt",
)
async def verify(body: ReceiptBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Check the signature of a receipt, and hold it against the system as it is now."""
    return await plain(service, caller, Permission.READ, "verify_receipt", body.payload())

"""Tiers: carry memories into a higher one and back."""

from __future__ import annotations

from fastapi import APIRouter

from memos.access import Permission
from memos.receipts.receipt import DeletionReceipt
from memos.store.jobs import Job
from memos_api.answers import Answer
from memos_api.bodies import BundleBody, PromoteBody, WhichBody
from memos_api.caller import CallerOf, IdempotencyKey
from memos_api.problems import problems
from memos_api.routes.memories import WRITING, Id
from memos_api.service import ServiceOf, plain

router = APIRouter(tags=["tiers"])


@router.post(
    "/bundles",
    status_code=202,
    response_model=Job,
    responses=problems(*WRITING),
    summary="Carry memories into a higher tier",
)
async def bundle(
    body: BundleBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Queue a job that makes one KV file or one adapter of several memories of a user; they stay as they are."""
    payload = {**body.payload(), "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "promote", payload, status=202)


@router.post(
    "/cubes/{cube_id}/promote",
    status_code=202,
    response_model=Job,
    responses=problems(*WRITING),
    summary="Carry a memory into a higher tier",
)
async def promote(
    cube_id: Id, body: PromoteBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Queue a job that makes a KV file or an adapter of one memory."""
    payload = {**body.payload(), "ids": [cube_id], "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "promote", payload, status=202)


@router.post(
    "/cubes/{cube_id}/demote",
    response_model=DeletionReceipt,
    responses=problems(*WRITING),
    summary="Delete a cube of a higher tier",
)
async def demote(
    cube_id: Id, body: WhichBody, caller: CallerOf, service: ServiceOf, idempotency_key: IdempotencyKey = None
) -> Answer:
    """Delete a KV file or an adapter; the memories it was made from stay."""
    payload = {**body.payload(), "id": cube_id, "idempotency_key": idempotency_key}
    return await plain(service, caller, Permission.WRITE, "demote", payload)

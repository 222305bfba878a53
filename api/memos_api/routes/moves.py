"""Moves: what the scheduler would move between tiers, fuse, does, did, and takes back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from memos.access import Permission
from memos.schedule.moving.move import Move
from memos_api.answers import Answer
from memos_api.bodies import WhichBody
from memos_api.caller import CallerOf
from memos_api.problems import problems
from memos_api.routes.memories import READING, WRITING, User
from memos_api.service import ServiceOf, plain

router = APIRouter(tags=["moves"])

MoveId = Annotated[str, Path(description="The id of a move.")]


class Moves(BaseModel):
    """Moves between tiers, in order."""

    moves: list[Move]


@router.get("/plan", response_model=Moves, responses=problems(*READING), summary="What would be moved now")
async def plan(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """Plan moves of a user's memories, with the reason of each, and move nothing."""
    payload = {"user_id": user_id, "dry_run": True}
    return await plain(service, caller, Permission.READ, "plan", payload, under="moves")


@router.post("/plan", response_model=Moves, responses=problems(*WRITING), summary="Move what is worth moving")
async def carry_out(body: WhichBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Plan and carry out: files are given up at once, and made by jobs. What is under way already is not made twice."""
    payload = {**body.payload(), "dry_run": False}
    return await plain(service, caller, Permission.WRITE, "plan", payload, under="moves")


@router.get("/fuse", response_model=Moves, responses=problems(*READING), summary="What would be fused now")
async def fusions(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """Find memories of a user that repeat each other, or are used together, and fuse none."""
    payload = {"user_id": user_id, "dry_run": True}
    return await plain(service, caller, Permission.READ, "fuse", payload, under="moves")


@router.post("/fuse", response_model=Moves, responses=problems(*WRITING), summary="Fuse what belongs together")
async def fuse(body: WhichBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Queue a job for each fusion. What becomes one memory is put away, and comes back when that is taken back."""
    payload = {**body.payload(), "dry_run": False}
    return await plain(service, caller, Permission.WRITE, "fuse", payload, under="moves")


@router.get("/moves", response_model=Moves, responses=problems(*READING), summary="What was moved")
async def moves(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """List what was moved between tiers, fused and split, oldest first."""
    return await plain(service, caller, Permission.READ, "moves", {"user_id": user_id}, under="moves")


@router.post("/moves/{move_id}/undo", response_model=Moves, responses=problems(*WRITING), summary="Take a move back")
async def undo(move_id: MoveId, body: WhichBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Give up what was made, or make again what was given up. A move is taken back once."""
    payload = {**body.payload(), "id": move_id}
    return await plain(service, caller, Permission.WRITE, "undo", payload, under="moves")

"""Moves between tiers: what the scheduler would move, moves, moved, and takes back."""

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


@router.get("/moves", response_model=Moves, responses=problems(*READING), summary="What was moved")
async def moves(caller: CallerOf, service: ServiceOf, user_id: User = None) -> Answer:
    """List what was moved between tiers, oldest first."""
    return await plain(service, caller, Permission.READ, "moves", {"user_id": user_id}, under="moves")


@router.post("/moves/{move_id}/undo", response_model=Moves, responses=problems(*WRITING), summary="Take a move back")
async def undo(move_id: MoveId, body: WhichBody, caller: CallerOf, service: ServiceOf) -> Answer:
    """Give up what was made, or make again what was given up. A move is taken back once."""
    payload = {**body.payload(), "id": move_id}
    return await plain(service, caller, Permission.WRITE, "undo", payload, under="moves")

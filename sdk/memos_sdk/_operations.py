"""Arguments to payloads and answers to values: what the sync and the async client share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

from pydantic import TypeAdapter

from memos_sdk.errors import InvalidInput
from memos_sdk.types import (
    AdapterInfo,
    BackupReport,
    ChatReply,
    CubeVersion,
    DeletionReceipt,
    Hold,
    ImportReport,
    Job,
    KVFile,
    KVSettings,
    Link,
    MemCube,
    Move,
    RecallResult,
    ReceiptCheck,
    RestoreReport,
    Retention,
    Statistics,
)

T = TypeVar("T")
Time = datetime | str | None


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A call ready to be carried: its name, its payload, and how to read the answer."""

    name: str
    payload: dict[str, Any]
    read: Callable[[Any], T]


class ChatOptions(TypedDict, total=False):
    """The options of ``Memory.chat``, which explains them."""

    top_k: int
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: Sequence[str]
    reuse: bool
    adapters: Sequence[str] | None
    text: bool
    compose: str | None
    ratio: float | None
    retrieval: str | None


_CHAT: ChatOptions = {
    "top_k": 10,
    "max_tokens": 256,
    "temperature": 0.0,
    "top_p": 1.0,
    "seed": None,
    "stop": (),
    "reuse": True,
    "adapters": None,
    "text": True,
    "compose": None,
    "ratio": None,
    "retrieval": None,
}
_cubes = TypeAdapter(list[MemCube]).validate_python
_versions = TypeAdapter(list[CubeVersion]).validate_python
_moves = TypeAdapter(list[Move]).validate_python
_adapters = TypeAdapter(list[AdapterInfo]).validate_python
_jobs = TypeAdapter(list[Job]).validate_python
_links = TypeAdapter(list[Link]).validate_python
_holds = TypeAdapter(list[Hold]).validate_python
_kv_files = TypeAdapter(list[KVFile]).validate_python


def store(
    text: str,
    user_id: str | None,
    agent_id: str | None,
    run_id: str | None,
    metadata: Mapping[str, Any] | None,
    event_time: Time,
    expires_at: Time,
    infer: bool,
    idempotency_key: str | None,
) -> Operation[MemCube]:
    """Return the call behind ``Memory.store``."""
    item = {
        "text": text,
        "metadata": metadata,
        "event_time": event_time,
        "expires_at": expires_at,
        "infer": infer,
    }
    payload = {
        "item": item,
        **_scope(user_id, agent_id, run_id),
        "idempotency_key": idempotency_key,
    }
    return Operation("store", payload, MemCube.model_validate)


def store_many(
    items: Sequence[Mapping[str, Any]],
    user_id: str | None,
    agent_id: str | None,
    run_id: str | None,
    idempotency_key: str | None,
) -> Operation[list[MemCube]]:
    """Return the call behind ``Memory.store_many``."""
    payload = {
        "items": items,
        **_scope(user_id, agent_id, run_id),
        "idempotency_key": idempotency_key,
    }
    return Operation("store_many", payload, _cubes)


def recall(
    query: str,
    user_id: str | None,
    agent_id: str | None,
    run_id: str | None,
    top_k: int,
    filters: Mapping[str, Any] | None,
    as_of: Time,
    max_tokens: int | None,
    explain: bool,
) -> Operation[RecallResult]:
    """Return the call behind ``Memory.recall``."""
    payload = {
        "query": query,
        **_scope(user_id, agent_id, run_id),
        "top_k": top_k,
        "filters": filters,
        "as_of": as_of,
        "max_tokens": max_tokens,
        "explain": explain,
    }
    return Operation("recall", payload, RecallResult.model_validate)


def get(cube_id: str, user_id: str | None) -> Operation[MemCube]:
    """Return the call behind ``Memory.get``."""
    return Operation("get", {"id": cube_id, "user_id": user_id}, MemCube.model_validate)


def list_(
    user_id: str | None, agent_id: str | None, run_id: str | None, limit: int, after: str | None
) -> Operation[list[MemCube]]:
    """Return the call behind ``Memory.list``."""
    return Operation("list", {**_scope(user_id, agent_id, run_id), "limit": limit, "after": after}, _cubes)


def history(cube_id: str, user_id: str | None) -> Operation[list[CubeVersion]]:
    """Return the call behind ``Memory.history``."""
    return Operation("history", {"id": cube_id, "user_id": user_id}, _versions)


def links(cube_id: str, user_id: str | None) -> Operation[list[Link]]:
    """Return the call behind ``Memory.links``."""
    return Operation("links", {"id": cube_id, "user_id": user_id}, _links)


def expand(cube_id: str, user_id: str | None) -> Operation[list[MemCube]]:
    """Return the call behind ``Memory.expand``."""
    return Operation("expand", {"id": cube_id, "user_id": user_id}, _cubes)


def rollback(cube_id: str, version: int, user_id: str | None) -> Operation[MemCube]:
    """Return the call behind ``Memory.rollback``."""
    return Operation("rollback", {"id": cube_id, "version": version, "user_id": user_id}, MemCube.model_validate)


def refine(cube_ids: Sequence[str] | None, user_id: str | None) -> Operation[Job]:
    """Return the call behind ``Memory.refine``."""
    ids = cube_ids if cube_ids is None or isinstance(cube_ids, str) else list(cube_ids)
    return Operation("refine", {"ids": ids, "user_id": user_id}, Job.model_validate)


def update(
    cube_id: str,
    text: str | None,
    metadata: Mapping[str, Any] | None,
    expected_version: int | None,
    user_id: str | None,
) -> Operation[MemCube]:
    """Return the call behind ``Memory.update``."""
    payload = {
        "id": cube_id,
        "text": text,
        "metadata": metadata,
        "expected_version": expected_version,
        "user_id": user_id,
    }
    return Operation("update", payload, MemCube.model_validate)


def forget(cube_id: str, user_id: str | None) -> Operation[DeletionReceipt]:
    """Return the call behind ``Memory.forget``."""
    return Operation("forget", {"id": cube_id, "user_id": user_id}, DeletionReceipt.model_validate)


def forget_all(user_id: str | None, agent_id: str | None, run_id: str | None) -> Operation[DeletionReceipt]:
    """Return the call behind ``Memory.forget_all``."""
    return Operation("forget_all", _scope(user_id, agent_id, run_id), DeletionReceipt.model_validate)


def verify_receipt(receipt: DeletionReceipt | Mapping[str, Any]) -> Operation[ReceiptCheck]:
    """Return the call behind ``Memory.verify_receipt``."""
    plain = receipt.model_dump(mode="json") if isinstance(receipt, DeletionReceipt) else receipt
    return Operation("verify_receipt", {"receipt": plain}, ReceiptCheck.model_validate)


def hold(cube_id: str | None, user_id: str | None, reason: str | None) -> Operation[Hold]:
    """Return the call behind ``Memory.hold``."""
    return Operation("hold", {"id": cube_id, "user_id": user_id, "reason": reason}, Hold.model_validate)


def release(hold_id: str | Hold) -> Operation[Hold]:
    """Return the call behind ``Memory.release``."""
    return Operation("release", {"id": hold_id.id if isinstance(hold_id, Hold) else hold_id}, Hold.model_validate)


def holds(user_id: str | None) -> Operation[list[Hold]]:
    """Return the call behind ``Memory.holds``."""
    return Operation("holds", {"user_id": user_id}, _holds)


def retention(user_id: str | None, days: int | None) -> Operation[Retention]:
    """Return the call behind ``Memory.retention``."""
    whose = {"user_id": user_id}
    if days is None:
        return Operation("retention", whose, Retention.model_validate)
    return Operation("retain", {**whose, "days": days}, Retention.model_validate)


def promote(
    cube_ids: Sequence[str], to: str, user_id: str | None, codec: str | None, options: Mapping[str, Any] | None
) -> Operation[Job]:
    """Return the call behind ``Memory.promote``."""
    ids = cube_ids if isinstance(cube_ids, str) else list(cube_ids)
    payload = {"ids": ids, "to": to, "user_id": user_id, "codec": codec, "options": options}
    return Operation("promote", payload, Job.model_validate)


def demote(cube_id: str, user_id: str | None) -> Operation[DeletionReceipt]:
    """Return the call behind ``Memory.demote``."""
    return Operation("demote", {"id": cube_id, "user_id": user_id}, DeletionReceipt.model_validate)


def kv_files(user_id: str | None) -> Operation[list[KVFile]]:
    """Return the call behind ``Memory.kv_files``."""
    return Operation("kv_files", {"user_id": user_id}, _kv_files)


def kv_settings(user_id: str | None) -> Operation[KVSettings]:
    """Return the call behind ``Memory.kv_settings``."""
    return Operation("kv_settings", {"user_id": user_id}, KVSettings.model_validate)


def set_kv_settings(
    codec: str | None, compose: str | None, ratio: float | None, user_id: str | None
) -> Operation[KVSettings]:
    """Return the call behind ``Memory.set_kv_settings``."""
    payload = {"codec": codec, "compose": compose, "ratio": ratio, "user_id": user_id}
    return Operation("set_kv_settings", payload, KVSettings.model_validate)


def job(job_id: str | Job) -> Operation[Job]:
    """Return the call behind ``Memory.job`` and ``Memory.wait``."""
    return Operation("job", {"id": _id_of(job_id)}, Job.model_validate)


def jobs(user_id: str | None, state: str | None, limit: int, after: str | None) -> Operation[list[Job]]:
    """Return the call behind ``Memory.jobs``."""
    return Operation("jobs", {"user_id": user_id, "state": state, "limit": limit, "after": after}, _jobs)


def cancel(job_id: str | Job) -> Operation[Job]:
    """Return the call behind ``Memory.cancel``."""
    return Operation("cancel", {"id": _id_of(job_id)}, Job.model_validate)


def retry(job_id: str | Job) -> Operation[Job]:
    """Return the call behind ``Memory.retry``."""
    return Operation("retry", {"id": _id_of(job_id)}, Job.model_validate)


def plan(user_id: str | None, dry_run: bool) -> Operation[list[Move]]:
    """Return the call behind ``Memory.plan``."""
    return Operation("plan", {"user_id": user_id, "dry_run": dry_run}, _moves)


def fuse(user_id: str | None, dry_run: bool) -> Operation[list[Move]]:
    """Return the call behind ``Memory.fuse``."""
    return Operation("fuse", {"user_id": user_id, "dry_run": dry_run}, _moves)


def moves(user_id: str | None) -> Operation[list[Move]]:
    """Return the call behind ``Memory.moves``."""
    return Operation("moves", {"user_id": user_id}, _moves)


def undo(move_id: str, user_id: str | None) -> Operation[list[Move]]:
    """Return the call behind ``Memory.undo``."""
    return Operation("undo", {"id": move_id, "user_id": user_id}, _moves)


def adapters(user_id: str | None) -> Operation[list[AdapterInfo]]:
    """Return the call behind ``Memory.adapters``."""
    return Operation("adapters", {"user_id": user_id}, _adapters)


def adapter(cube_id: str, user_id: str | None) -> Operation[AdapterInfo]:
    """Return the call behind ``Memory.adapter``."""
    return Operation("adapter", {"id": cube_id, "user_id": user_id}, AdapterInfo.model_validate)


def export_adapter(cube_id: str, path: str | Path, user_id: str | None) -> Operation[AdapterInfo]:
    """Return the call behind ``Memory.export_adapter``."""
    payload = {"id": cube_id, "path": str(path), "user_id": user_id}
    return Operation("export_adapter", payload, AdapterInfo.model_validate)


def import_adapter(path: str | Path, name: str | None, user_id: str | None) -> Operation[AdapterInfo]:
    """Return the call behind ``Memory.import_adapter``."""
    payload = {"path": str(path), "name": name, "user_id": user_id}
    return Operation("import_adapter", payload, AdapterInfo.model_validate)


def fuse_adapters(cube_ids: Sequence[str], user_id: str | None) -> Operation[Job]:
    """Return the call behind ``Memory.fuse_adapters``."""
    ids = cube_ids if isinstance(cube_ids, str) else list(cube_ids)
    return Operation("fuse_adapters", {"ids": ids, "user_id": user_id}, Job.model_validate)


def remove_adapter(cube_id: str, user_id: str | None) -> Operation[DeletionReceipt]:
    """Return the call behind ``Memory.remove_adapter``."""
    return Operation("remove_adapter", {"id": cube_id, "user_id": user_id}, DeletionReceipt.model_validate)


def rollback_adapter(cube_id: str, user_id: str | None) -> Operation[AdapterInfo]:
    """Return the call behind ``Memory.rollback_adapter``."""
    return Operation("rollback_adapter", {"id": cube_id, "user_id": user_id}, AdapterInfo.model_validate)


def chat(
    messages: Sequence[Mapping[str, str]],
    user_id: str | None,
    agent_id: str | None,
    run_id: str | None,
    options: ChatOptions,
) -> Operation[ChatReply]:
    """Return the call behind ``Memory.chat`` and ``Memory.chat_stream``."""
    payload = {"messages": messages, **_scope(user_id, agent_id, run_id), "options": {**_CHAT, **options}}
    return Operation("chat", payload, ChatReply.model_validate)


def export(path: str | Path, user_id: str | None) -> Operation[int]:
    """Return the call behind ``Memory.export``."""
    return Operation("export", {"path": str(path), "user_id": user_id}, int)


def import_(
    path: str | Path, user_id: str | None, agent_id: str | None, run_id: str | None, strict: bool
) -> Operation[ImportReport]:
    """Return the call behind ``Memory.import_``."""
    payload = {"path": str(path), **_scope(user_id, agent_id, run_id), "strict": strict}
    return Operation("import", payload, ImportReport.model_validate)


def backup(path: str | Path, user_id: str | None, all_users: bool) -> Operation[BackupReport]:
    """Return the call behind ``Memory.backup``."""
    if user_id is not None and all_users:
        raise InvalidInput("name a user or all of them, not both")
    payload = {"path": str(path), "user_id": user_id, "all_users": all_users}
    return Operation("backup", payload, BackupReport.model_validate)


def restore(path: str | Path, replace: bool) -> Operation[RestoreReport]:
    """Return the call behind ``Memory.restore``."""
    return Operation("restore", {"path": str(path), "replace": replace}, RestoreReport.model_validate)


def stats(user_id: str | None) -> Operation[Statistics]:
    """Return the call behind ``Memory.stats``."""
    return Operation("stats", {"user_id": user_id}, Statistics.model_validate)


def _id_of(job_id: str | Job) -> str:
    return job_id.id if isinstance(job_id, Job) else job_id


def _scope(user_id: str | None, agent_id: str | None, run_id: str | None) -> dict[str, str | None]:
    return {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}

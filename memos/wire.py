"""Operations by name with plain data both ways: what every transport (embedded, HTTP, MCP) speaks."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memos.config import Settings
from memos.cube import DEFAULT_TENANT, DEFAULT_USER, Scope, check_name
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import Conflict, InvalidInput, NotFound
from memos.llm.messages import ChatReply
from memos.store.once import AlreadyDone, Once, once

Payload = dict[str, Any]
#: Operations that look after their idempotency keys themselves.
STORES = frozenset({"store", "store_many"})


class Wire:
    """One tenant's access to an engine."""

    def __init__(self, engine: MemoryOS, tenant: str = DEFAULT_TENANT) -> None:
        self.engine = engine
        self._tenant = tenant
        self._operations: dict[str, Callable[[Payload], Any]] = {
            "store": self._store,
            "store_many": self._store_many,
            "recall": self._recall,
            "get": self._get,
            "list": self._list,
            "history": self._history,
            "links": self._links,
            "expand": self._expand,
            "rollback": self._rollback,
            "refine": self._refine,
            "update": self._update,
            "forget": self._forget,
            "forget_all": self._forget_all,
            "verify_receipt": self._verify_receipt,
            "hold": self._hold,
            "release": self._release,
            "holds": self._holds,
            "retention": self._retention,
            "retain": self._retain,
            "kv_files": self._kv_files,
            "kv_settings": self._kv_settings,
            "set_kv_settings": self._set_kv_settings,
            "promote": self._promote,
            "demote": self._demote,
            "job": self._job,
            "plan": self._plan,
            "fuse": self._fuse,
            "moves": self._moves,
            "undo": self._undo,
            "jobs": self._jobs,
            "cancel": self._cancel,
            "retry": self._retry,
            "adapters": self._adapters,
            "adapter": self._adapter,
            "export_adapter": self._export_adapter,
            "import_adapter": self._import_adapter,
            "fuse_adapters": self._fuse_adapters,
            "remove_adapter": self._remove_adapter,
            "rollback_adapter": self._rollback_adapter,
            "chat": self._chat,
            "export": self._export,
            "import": self._import,
            "backup": self._backup,
            "restore": self._restore,
            "stats": self._stats,
        }

    def call(self, operation: str, payload: Payload) -> Any:
        """Run one operation. Raises :class:`memos.errors.MemosError`."""
        key = payload.get("idempotency_key")
        if key is None or operation in STORES:
            return self._operations[operation](payload)
        return self._call_once(operation, payload, key)

    def chat(self, payload: Payload, on_text: Callable[[str], None] | None = None) -> ChatReply:
        """Answer a chat; ``on_text`` is given the answer piece by piece."""
        return self.engine.chat(self._scope(payload), payload["messages"], on_text=on_text, **payload["options"])

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _call_once(self, operation: str, payload: Payload, key: str) -> Any:
        """Run a write, or answer as the first time where its key says that it was carried out before."""
        asked = {name: value for name, value in payload.items() if name not in ("idempotency_key", "path")}
        request = Once.of(self._tenant, key, [operation, asked], self.engine.settings.idempotency_hours)
        if (answer := self.engine.answered(request)) is None:
            try:
                with once(request):
                    return self._operations[operation](payload)
            except (AlreadyDone, Conflict, NotFound):  # another thread may have been faster with the same request
                if (answer := self.engine.answered(request)) is None:
                    raise
        return self._repeated(answer, payload.get("user_id"))

    def _repeated(self, answer: Payload, user_id: str | None) -> Any:
        """Return an answer again, from what was kept of it."""
        if "receipt" in answer:
            return self.engine.repeated({"tenant": self._tenant, **answer["receipt"]}).model_dump()
        if "report" in answer:
            return answer["report"]
        if "job_id" in answer:
            return self._job({"id": answer["job_id"]})
        read = self._adapter if "adapter_id" in answer else self._get
        return read({"id": answer.get("adapter_id", answer.get("cube_id")), "user_id": user_id})

    # ------------------------------------------------------------ operations

    def _store(self, payload: Payload) -> Any:
        try:
            cubes = self.engine.store_many(
                self._scope(payload), [payload["item"]], idempotency_key=payload["idempotency_key"]
            )
        except InvalidInput as error:
            raise error.whole() from error
        return cubes[0].model_dump()

    def _store_many(self, payload: Payload) -> Any:
        cubes = self.engine.store_many(
            self._scope(payload), payload["items"], idempotency_key=payload["idempotency_key"]
        )
        return [cube.model_dump() for cube in cubes]

    def _recall(self, payload: Payload) -> Any:
        options = {name: payload[name] for name in ("top_k", "filters", "as_of", "max_tokens", "explain")}
        return self.engine.recall(self._scope(payload), payload["query"], **options).model_dump()

    def _get(self, payload: Payload) -> Any:
        return self.engine.get(self._tenant, payload["id"], user_id=payload["user_id"]).model_dump()

    def _list(self, payload: Payload) -> Any:
        cubes = self.engine.list(self._scope(payload), limit=payload["limit"], after=payload["after"])
        return [cube.model_dump() for cube in cubes]

    def _history(self, payload: Payload) -> Any:
        versions = self.engine.history(self._tenant, payload["id"], user_id=payload["user_id"])
        return [version.model_dump() for version in versions]

    def _links(self, payload: Payload) -> Any:
        links = self.engine.links(self._tenant, payload["id"], user_id=payload["user_id"])
        return [link.model_dump() for link in links]

    def _expand(self, payload: Payload) -> Any:
        cubes = self.engine.expand(self._tenant, payload["id"], user_id=payload["user_id"])
        return [cube.model_dump() for cube in cubes]

    def _rollback(self, payload: Payload) -> Any:
        return self.engine.rollback(
            self._tenant, payload["id"], payload["version"], user_id=payload["user_id"]
        ).model_dump()

    def _refine(self, payload: Payload) -> Any:
        return self.engine.refine(self._scope(payload), payload["ids"]).model_dump()

    def _update(self, payload: Payload) -> Any:
        options = {name: payload[name] for name in ("user_id", "text", "metadata", "expected_version")}
        return self.engine.update(self._tenant, payload["id"], **options).model_dump()

    def _forget(self, payload: Payload) -> Any:
        return self.engine.forget(self._tenant, payload["id"], user_id=payload["user_id"]).model_dump()

    def _forget_all(self, payload: Payload) -> Any:
        return self.engine.forget_all(self._scope(payload)).model_dump()

    def _verify_receipt(self, payload: Payload) -> Any:
        return self.engine.verify_receipt(self._tenant, payload["receipt"]).model_dump()

    def _hold(self, payload: Payload) -> Any:
        options = {name: payload[name] for name in ("user_id", "reason")}
        return self.engine.hold(self._tenant, payload["id"], **options).model_dump()

    def _release(self, payload: Payload) -> Any:
        return self.engine.release(self._tenant, payload["id"]).model_dump()

    def _holds(self, payload: Payload) -> Any:
        return [hold.model_dump() for hold in self.engine.holds(self._scope(payload))]

    def _retention(self, payload: Payload) -> Any:
        return self.engine.retention(self._scope(payload)).model_dump()

    def _retain(self, payload: Payload) -> Any:
        return self.engine.retain(self._scope(payload), payload["days"]).model_dump()

    def _kv_files(self, payload: Payload) -> Any:
        return [file.model_dump() for file in self.engine.kv_files(self._scope(payload))]

    def _kv_settings(self, payload: Payload) -> Any:
        return self.engine.kv_settings(self._scope(payload)).model_dump()

    def _set_kv_settings(self, payload: Payload) -> Any:
        chosen = {name: payload[name] for name in ("codec", "compose", "ratio")}
        return self.engine.set_kv_settings(self._scope(payload), **chosen).model_dump()

    def _promote(self, payload: Payload) -> Any:
        options = {name: payload[name] for name in ("to", "user_id", "codec", "options")}
        return self.engine.promote(self._tenant, payload["ids"], **options).model_dump()

    def _demote(self, payload: Payload) -> Any:
        return self.engine.demote(self._tenant, payload["id"], user_id=payload["user_id"]).model_dump()

    def _job(self, payload: Payload) -> Any:
        return self.engine.job(self._tenant, payload["id"]).model_dump()

    def _plan(self, payload: Payload) -> Any:
        moves = self.engine.plan(self._scope(payload), dry_run=payload["dry_run"])
        return [move.model_dump() for move in moves]

    def _fuse(self, payload: Payload) -> Any:
        moves = self.engine.fuse(self._scope(payload), dry_run=payload["dry_run"])
        return [move.model_dump() for move in moves]

    def _moves(self, payload: Payload) -> Any:
        return [move.model_dump() for move in self.engine.moves(self._scope(payload))]

    def _undo(self, payload: Payload) -> Any:
        return [move.model_dump() for move in self.engine.undo(self._scope(payload), payload["id"])]

    def _jobs(self, payload: Payload) -> Any:
        chosen = {name: payload[name] for name in ("state", "limit", "after")}
        return [job.model_dump() for job in self.engine.jobs(self._scope(payload), **chosen)]

    def _cancel(self, payload: Payload) -> Any:
        return self.engine.cancel(self._tenant, payload["id"]).model_dump()

    def _retry(self, payload: Payload) -> Any:
        return self.engine.retry(self._tenant, payload["id"]).model_dump()

    def _adapters(self, payload: Payload) -> Any:
        return [adapter.model_dump() for adapter in self.engine.adapters(self._scope(payload))]

    def _adapter(self, payload: Payload) -> Any:
        return self.engine.adapter(self._tenant, payload["id"], user_id=payload["user_id"]).model_dump()

    def _export_adapter(self, payload: Payload) -> Any:
        options = {"user_id": payload["user_id"], "kept": payload.get("kept", True)}
        return self.engine.export_adapter(self._tenant, payload["id"], _folder(payload["path"]), **options).model_dump()

    def _import_adapter(self, payload: Payload) -> Any:
        path = _folder(payload["path"])
        return self.engine.import_adapter(self._scope(payload), path, name=payload["name"]).model_dump()

    def _fuse_adapters(self, payload: Payload) -> Any:
        return self.engine.fuse_adapters(self._tenant, payload["ids"], user_id=payload["user_id"]).model_dump()

    def _remove_adapter(self, payload: Payload) -> Any:
        return self.engine.remove_adapter(self._tenant, payload["id"], user_id=payload["user_id"]).model_dump()

    def _rollback_adapter(self, payload: Payload) -> Any:
        return self.engine.rollback_adapter(self._tenant, payload["id"], user_id=payload["user_id"]).model_dump()

    def _chat(self, payload: Payload) -> Any:
        return self.chat(payload).model_dump()

    def _export(self, payload: Payload) -> Any:
        return self.engine.export(self._scope(payload), Path(payload["path"]), kept=payload.get("kept", True))

    def _import(self, payload: Payload) -> Any:
        report = self.engine.import_(self._scope(payload), Path(payload["path"]), strict=payload["strict"])
        return report.model_dump()

    def _backup(self, payload: Payload) -> Any:
        user_id = None if payload["all_users"] else self._scope(payload).user_id
        return self.engine.backup(_folder(payload["path"]), tenant=self._tenant, user_id=user_id).model_dump()

    def _restore(self, payload: Payload) -> Any:
        path = _folder(payload["path"])
        return self.engine.restore(path, tenant=self._tenant, replace=payload["replace"]).model_dump()

    def _stats(self, payload: Payload) -> Any:
        return self.engine.stats(self._scope(payload)).model_dump()

    def _scope(self, payload: Payload) -> Scope:
        named = {name: payload.get(name) for name in ("user_id", "agent_id", "run_id")}
        for name, value in named.items():
            check_name(value, name)
        user_id = named["user_id"] if named["user_id"] is not None else DEFAULT_USER
        return Scope(tenant=self._tenant, user_id=user_id, agent_id=named["agent_id"], run_id=named["run_id"])


def open_embedded(path: str | Path | None, embedder: str | Embedder | None) -> Wire:
    """Open the embedded store in ``path`` (default: the settings' home) for the tenant ``default``."""
    given: dict[str, Any] = {}
    if path is not None:
        given["home"] = _folder(path)
    if isinstance(embedder, str):
        if not embedder.strip():
            raise InvalidInput("embedder must be the name of a model, not an empty string")
        given["embedder"] = embedder
        embedder = None
    elif embedder is not None and not callable(getattr(embedder, "embed", None)):
        raise InvalidInput(f"embedder must be the name of a model or an Embedder, not {embedder!r}")
    return Wire(MemoryOS(_settings(given), embedder))


def _folder(path: object) -> Path:
    if not isinstance(path, str | PathLike) or "\0" in str(path):
        raise InvalidInput(f"path must name a folder, not {path!r}")
    return Path(path)


def _settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:  # a variable of the environment; its value may be a secret
        wrong = "; ".join(f"MEMOS_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        raise InvalidInput(f"a setting cannot be used: {wrong}") from error

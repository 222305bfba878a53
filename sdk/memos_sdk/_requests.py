"""Operations as HTTP requests: method, path, query and body of each, and how its answer is read. No input or output."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from memos_sdk.errors import InvalidFilter, InvalidInput, InvalidText, NotBuilt, NotFound

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile("[^\x00-\x1f\ud800-\udfff]{1,256}")
_WHOSE = ("user_id", "agent_id", "run_id")
_TIMES = frozenset({"event_time", "expires_at", "as_of"})
_TYPES: dict[str, type] = {"limit": int, "strict": bool}
_KINDS: dict[str, type[InvalidInput]] = {"text": InvalidText, "query": InvalidText, "filters": InvalidFilter}
Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``file`` is read into its body, or ``target`` written from the answer's.

    What ``then`` asks is the answer, where the request itself brings none.
    """

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    file: str | None = None
    target: str | None = None
    slow: bool = False
    then: Request | None = None
    read: Callable[[Any], Any] = lambda answer: answer


def request_of(operation: str, payload: Payload) -> Request:
    """Return the request behind an operation.

    Raises :class:`InvalidInput` for values that JSON has no form for, and :class:`NotFound` for what is no id.
    """
    return _OPERATIONS[operation](payload)


# ------------------------------------------------------------ memories


def _store(payload: Payload) -> Request:
    item, whose = payload["item"], {name: payload[name] for name in _WHOSE}
    return _write("POST", "/v1/memories", {**item, **whose}, payload["idempotency_key"])


def _store_many(payload: Payload) -> Request:
    body = _json({name: payload[name] for name in _WHOSE}, memories=_items(payload["items"]))
    key = _key(payload["idempotency_key"])
    return Request("POST", "/v1/memories", body=body, headers=key, read=lambda answer: answer["memories"])


def _recall(payload: Payload) -> Request:
    return _read("POST", "/v1/recall", body=payload)


def _page(payload: Payload) -> Request:
    if payload["limit"] is None:
        raise InvalidInput("limit must be a whole number")
    return _read("GET", "/v1/memories", query=payload, read=lambda answer: answer["memories"])


def _get(payload: Payload) -> Request:
    return _read("GET", f"/v1/memories/{_memory(payload)}", query=_user(payload))


def _history(payload: Payload) -> Request:
    path = f"/v1/memories/{_memory(payload)}/history"
    return _read("GET", path, query=_user(payload), read=lambda answer: answer["versions"])


def _links(payload: Payload) -> Request:
    path = f"/v1/memories/{_memory(payload)}/links"
    return _read("GET", path, query=_user(payload), read=lambda answer: answer["links"])


def _expand(payload: Payload) -> Request:
    path = f"/v1/memories/{_memory(payload)}/sources"
    return _read("GET", path, query=_user(payload), read=lambda answer: answer["memories"])


def _update(payload: Payload) -> Request:
    return _write("PATCH", f"/v1/memories/{_memory(payload)}", _without_id(payload))


def _rollback(payload: Payload) -> Request:
    return _write("POST", f"/v1/memories/{_memory(payload)}/rollback", _without_id(payload))


def _refine(payload: Payload) -> Request:
    return _write("POST", "/v1/memories/refine", payload)


def _forget(payload: Payload) -> Request:
    return _write("DELETE", f"/v1/memories/{_memory(payload)}", query=_user(payload))


def _forget_all(payload: Payload) -> Request:
    return _write("DELETE", "/v1/memories", query=payload)


# ------------------------------------------------------------ keeping


def _verify_receipt(payload: Payload) -> Request:
    return _read("POST", "/v1/receipts/verify", body=payload)


def _hold(payload: Payload) -> Request:
    return _write("POST", "/v1/holds", payload)


def _release(payload: Payload) -> Request:
    return _write("DELETE", f"/v1/holds/{_id(payload['id'], 'no legal hold {!r} here; it may have been released')}")


def _holds(payload: Payload) -> Request:
    return _read("GET", "/v1/holds", query=_user(payload), read=lambda answer: answer["holds"])


def _retention(payload: Payload) -> Request:
    return _read("GET", "/v1/retention", query=_user(payload))


def _retain(payload: Payload) -> Request:
    return _write("PUT", "/v1/retention", payload)


# ------------------------------------------------------------ tiers


def _promote(payload: Payload) -> Request:
    return _write("POST", "/v1/bundles", payload)


def _demote(payload: Payload) -> Request:
    return _write("POST", f"/v1/cubes/{_memory(payload)}/demote", _user(payload))


def _kv_files(payload: Payload) -> Request:
    return _read("GET", "/v1/kv", query=_user(payload), read=lambda answer: answer["files"])


def _kv_settings(payload: Payload) -> Request:
    return _read("GET", "/v1/kv/settings", query=_user(payload))


def _set_kv_settings(payload: Payload) -> Request:
    return _write("PUT", "/v1/kv/settings", payload)


def _job(payload: Payload) -> Request:
    return _read("GET", f"/v1/jobs/{_id(payload['id'], 'no job {!r} here')}")


def _plan(payload: Payload) -> Request:
    if payload["dry_run"]:
        return _read("GET", "/v1/plan", query=_user(payload), read=_moves_of)
    return Request("POST", "/v1/plan", body=_json(_user(payload)), slow=True, read=_moves_of)


def _fuse(payload: Payload) -> Request:
    if payload["dry_run"]:
        return _read("GET", "/v1/fuse", query=_user(payload), read=_moves_of)
    return Request("POST", "/v1/fuse", body=_json(_user(payload)), slow=True, read=_moves_of)


def _moves(payload: Payload) -> Request:
    return _read("GET", "/v1/moves", query=_user(payload), read=_moves_of)


def _undo(payload: Payload) -> Request:
    path = f"/v1/moves/{_id(payload['id'], 'no move {!r} here')}/undo"
    return Request("POST", path, body=_json(_user(payload)), slow=True, read=_moves_of)


def _moves_of(answer: Any) -> Any:
    return answer["moves"]


def _jobs(payload: Payload) -> Request:
    return _read("GET", "/v1/jobs", query=payload, read=lambda answer: answer["jobs"])


def _cancel(payload: Payload) -> Request:
    return _write("POST", f"/v1/jobs/{_id(payload['id'], 'no job {!r} here')}/cancel")


def _retry(payload: Payload) -> Request:
    return _write("POST", f"/v1/jobs/{_id(payload['id'], 'no job {!r} here')}/retry")


def _adapters(payload: Payload) -> Request:
    return _read("GET", "/v1/adapters", query=_user(payload), read=lambda answer: answer["adapters"])


def _adapter(payload: Payload) -> Request:
    return _read("GET", f"/v1/adapters/{_memory(payload)}", query=_user(payload))


def _fuse_adapters(payload: Payload) -> Request:
    return _write("POST", "/v1/adapters/fuse", payload)


def _remove_adapter(payload: Payload) -> Request:
    return _write("DELETE", f"/v1/adapters/{_memory(payload)}", query=_user(payload))


def _rollback_adapter(payload: Payload) -> Request:
    return _write("POST", f"/v1/adapters/{_memory(payload)}/rollback", _user(payload))


def _export_adapter(payload: Payload) -> Request:
    path = f"/v1/adapters/{_memory(payload)}/export"
    return Request("GET", path, _query(_user(payload)), target=_path(payload), slow=True, then=_adapter(payload))


def _import_adapter(payload: Payload) -> Request:
    query = _query({"name": payload["name"], "user_id": payload["user_id"]})
    return Request("POST", "/v1/adapters/import", query, headers=_key(None), file=_path(payload), slow=True)


# ------------------------------------------------------------ chat and files


def chat_request(payload: Payload, *, stream: bool) -> Request:
    """Return the request of a chat; its turns are not stored, as an embedded chat does not store them."""
    options = dict(payload["options"])
    stop = options.pop("stop")
    ours = ("top_k", "reuse", "adapters", "text", "compose", "ratio", "retrieval")
    memory = {name: options.pop(name) for name in ours}
    if memory["adapters"] is not None:
        memory["adapters"] = _list(memory["adapters"])
    whose = {name: payload[name] for name in _WHOSE}
    body = {
        "model": "memos",
        "messages": _list(payload["messages"]),
        "stream": stream,
        "stream_options": {"include_usage": True} if stream else None,
        "stop": stop if isinstance(stop, str) else _list(stop) or None,
        **options,
        "memos": {**memory, **whose, "store": False},
    }
    return Request("POST", "/v1/chat/completions", body=_json(body), slow=True, read=reply_of)


def reply_of(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reply that a chat completion is."""
    choice, memory = completion["choices"][0], completion["memos"]
    return {
        "text": choice["message"]["content"],
        "finish_reason": choice["finish_reason"],
        "model": completion["model"],
        "usage": completion["usage"],
        "tiers": memory["tiers"],
        "misses": memory["misses"],
    }


def _export(payload: Payload) -> Request:
    return Request("GET", "/v1/export", _query(_user(payload)), target=_path(payload), slow=True)


def _import(payload: Payload) -> Request:
    whose = {name: payload[name] for name in _WHOSE}
    query = _query({**whose, "strict": payload["strict"], "name": re.split(r"[/\\]", payload["path"])[-1]})
    return Request("POST", "/v1/import", query, headers=_key(None), file=_path(payload), slow=True)


def _on_the_machine(_: Payload) -> Request:
    raise NotBuilt(
        "backups are made and restored on the machine of the store: `memos backup PATH`, `memos restore PATH`",
        {"status": 501, "code": "not-implemented"},
    )


def _stats(payload: Payload) -> Request:
    return _read("GET", "/v1/stats", query=_user(payload))


_OPERATIONS: dict[str, Callable[[Payload], Request]] = {
    "store": _store,
    "store_many": _store_many,
    "recall": _recall,
    "get": _get,
    "list": _page,
    "history": _history,
    "links": _links,
    "expand": _expand,
    "rollback": _rollback,
    "refine": _refine,
    "update": _update,
    "forget": _forget,
    "forget_all": _forget_all,
    "verify_receipt": _verify_receipt,
    "hold": _hold,
    "release": _release,
    "holds": _holds,
    "retention": _retention,
    "retain": _retain,
    "promote": _promote,
    "demote": _demote,
    "kv_files": _kv_files,
    "kv_settings": _kv_settings,
    "set_kv_settings": _set_kv_settings,
    "job": _job,
    "plan": _plan,
    "fuse": _fuse,
    "moves": _moves,
    "undo": _undo,
    "jobs": _jobs,
    "cancel": _cancel,
    "retry": _retry,
    "adapters": _adapters,
    "adapter": _adapter,
    "export_adapter": _export_adapter,
    "import_adapter": _import_adapter,
    "fuse_adapters": _fuse_adapters,
    "remove_adapter": _remove_adapter,
    "rollback_adapter": _rollback_adapter,
    "chat": lambda payload: chat_request(payload, stream=False),
    "export": _export,
    "import": _import,
    "backup": _on_the_machine,
    "restore": _on_the_machine,
    "stats": _stats,
}


# ------------------------------------------------------------ inside


def _read(
    method: str,
    path: str,
    *,
    query: Payload | None = None,
    body: Payload | None = None,
    read: Callable[[Any], Any] = lambda answer: answer,
) -> Request:
    return Request(method, path, _query(query or {}), None if body is None else _json(body), read=read)


def _write(
    method: str,
    path: str,
    body: Payload | None = None,
    idempotency_key: object = None,
    *,
    query: Payload | None = None,
    read: Callable[[Any], Any] = lambda answer: answer,
) -> Request:
    """Return a request with a key of its own, so that it can be repeated where its answer was lost."""
    content = None if body is None else _json(body)
    return Request(method, path, _query(query or {}), content, _key(idempotency_key), read=read)


def _key(given: object) -> dict[str, str]:
    """Return the header of a key. A key that no header can carry is sent encoded: the same each time."""
    if given is None:
        return {"Idempotency-Key": str(uuid.uuid4())}
    if not isinstance(given, str) or not _NAME.fullmatch(given) or given != given.strip():
        raise InvalidInput("idempotency_key must be a string of 1 to 256 characters, none of them a control character")
    return {"Idempotency-Key": quote(given.encode("utf-8", "surrogatepass"), safe="!#$&'()*+,/:;=?@[]~")}


def _user(payload: Payload) -> dict[str, Any]:
    return {"user_id": payload["user_id"]}


def _without_id(payload: Payload) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name != "id"}


def _memory(payload: Payload) -> str:
    return _id(payload["id"], "no memory {!r} here; it may have been forgotten")


def _id(value: object, otherwise: str) -> str:
    """Return an id that can stand in a path. Nothing else is sent: an empty one would name the whole collection."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise NotFound(otherwise.format(value), {"status": 404, "code": "not-found"})
    return value


def _path(payload: Payload) -> str:
    path: str = payload["path"]
    if not path or "\0" in path:
        raise InvalidInput(f"path must name a file or a folder, not {path!r}")
    return path


def _query(values: Payload) -> dict[str, str]:
    return {name: _text(name, value) for name, value in values.items() if value is not None}


def _text(name: str, value: object) -> str:
    """Return a value as a query has it: of another type than is asked for, it would read as if it were right."""
    wanted = _TYPES.get(name, str)
    if type(value) is not wanted:
        raise InvalidInput(f"{name} must be a {wanted.__name__}, not {type(value).__name__}")
    try:
        text = str(value).lower() if wanted is bool else str(value)
        text.encode()
    except (UnicodeEncodeError, ValueError) as error:  # a lone surrogate, or a number of thousands of digits
        raise InvalidInput(f"{name} holds something that cannot be sent") from error
    return text


def _items(values: Any) -> str:
    """Return memories as JSON. Raises an error with the index of the one that it has no form for."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise InvalidInput("store_many needs a list of memories", {"status": 422, "code": "invalid-input"})
    return f"[{','.join(_item(index, one) for index, one in enumerate(values))}]"


def _item(index: int, item: Any) -> str:
    try:
        return _object(item) if isinstance(item, Mapping) else _encoded("memory", item)
    except InvalidInput as error:
        problem = {**error.problem, "index": index}
        raise type(error)(f"item {index}: {error.message}", problem) from error


def _list(values: Any) -> Any:
    """Return a list of mappings as JSON has them; anything else as it is, for the server to refuse."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        return values
    return [dict(one) if isinstance(one, Mapping) else one for one in values]


def _json(body: Payload, **encoded: str) -> bytes:
    """Return a body; ``encoded`` are fields of it that are JSON already."""
    more = "".join(f',"{name}":{value}' for name, value in encoded.items())
    return f"{_object(body)[:-1]}{more}}}".encode()


def _object(fields: Mapping[Any, Any]) -> str:
    unnamed = next((name for name in fields if not isinstance(name, str)), None)
    if unnamed is not None:
        raise InvalidInput(f"{unnamed!r} is no name of a field", {"status": 422, "code": "invalid-input"})
    return f"{{{','.join(f'{json.dumps(name)}:{_encoded(name, value)}' for name, value in fields.items())}}}"


def _encoded(name: str, value: Any) -> str:
    """Return a field as JSON. Raises the error that the engine has for what JSON has no form for."""
    if isinstance(value, datetime) and name in _TIMES:
        value = value.isoformat()
    try:
        return json.dumps(value, default=_in_filters if name == "filters" else _plain)
    except (TypeError, ValueError, RecursionError) as error:
        kind = _KINDS.get(name, InvalidInput)
        problem = {"status": 422, "code": kind.code, "detail": str(error)}
        raise kind(f"{name} cannot be a {type(value).__name__} that JSON has no form for: {error}", problem) from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _in_filters(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else _plain(value)

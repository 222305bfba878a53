"""LangGraph: a ``BaseStore`` for graphs and agents (``pip install 'agent-memos-sdk[langgraph]'``)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    get_text_at_path,
)

from memos_sdk import Memory
from memos_sdk.errors import NotFound, VersionConflict
from memos_sdk.integrations._values import every, memory_of, readable, value_of
from memos_sdk.types import Hit, MemCube

#: The most that one recall may be asked for.
DEEPEST = 1_000
Namespace = tuple[str, ...]


class MemosStore(BaseStore):
    """A LangGraph store in a memory: one memory per item, replaced when its key is put again.

    All items belong to ``user_id``, or each to the user whom label ``user_at`` of its namespace names: with
    ``user_at=1``, ``("memories", "ann")`` is memory of the user ``ann``, isolated from others and deleted with
    ``memory.forget_all(user_id="ann")``. Searches and listings then need a prefix that reaches to that label.

    The text that is searched is an item's ``text``, ``content`` or ``memory`` field, or its JSON; ``index`` names other
    fields, ``index=False`` keeps the item out of searches with a query. Those reach 1,000 items deep. A search
    without a query, and ``list_namespaces``, read the user's items one page after the other. With ``infer`` notes are
    written about items (links to others, which searches follow); what only repeats others may then not be found.
    A batch is carried out operation by operation, reads before writes. There is no TTL.

    Filters compare as JSON does: numbers with numbers, strings with strings, and 1 is not ``true``.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        user_id: str | None = None,
        user_at: int | None = None,
        agent_id: str = "langgraph",
        infer: bool = False,
    ) -> None:
        self._memory = memory
        self._user_id = user_id
        self._user_at = user_at
        self._agent_id = agent_id
        self._infer = infer

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations; of several puts under one key the last one counts."""
        wanted = list(ops)
        results = [None if isinstance(op, PutOp) else self._read(op) for op in wanted]
        for op in {(op.namespace, op.key): op for op in wanted if isinstance(op, PutOp)}.values():
            self._put(op)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As :meth:`batch`, in a thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    # ------------------------------------------------------------ reading

    def _read(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            stored = self._stored(op.namespace, op.key)
            return _item(stored[-1]) if stored else None
        if isinstance(op, SearchOp):
            return self._search(op)
        if isinstance(op, ListNamespacesOp):
            return self._namespaces(op)
        raise TypeError(f"{op!r} is no operation of a store")

    def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.limit < 1:
            return []
        found = self._ranked(op) if op.query and op.query.strip() else self._listed(op)
        return list(islice(_once(found), op.offset, op.offset + op.limit))

    def _listed(self, op: SearchOp) -> Iterator[SearchItem]:
        depth = len(op.namespace_prefix)
        for cube in self._every(self._user(op.namespace_prefix)):
            if _namespace(cube)[:depth] == op.namespace_prefix and _holds(value_of(cube), op.filter or {}):
                yield _item(cube, SearchItem)

    def _ranked(self, op: SearchOp) -> Iterator[SearchItem]:
        """Yield what recall finds, asking for more while filters that it cannot apply leave too little."""
        wanted = depth = op.offset + op.limit
        while True:
            depth = min(depth, DEEPEST)
            found = self._recalled(op, depth)
            kept = [item for item in found if _holds(item.value, op.filter or {})]
            if len(kept) >= wanted or len(found) < depth or depth == DEEPEST:
                return iter(kept)
            depth *= 4

    def _recalled(self, op: SearchOp, top_k: int) -> list[SearchItem]:
        user = self._user(op.namespace_prefix)
        result = self._memory.recall(
            op.query, user_id=user, agent_id=self._agent_id, top_k=top_k, filters=_filters(op), explain=True
        )
        return [item for hit in result.hits for item in self._with_twins(hit, user)]

    def _with_twins(self, hit: Hit, user: str | None) -> Iterator[SearchItem]:
        """Yield a hit, and the items that recall left out because they say the same: they have keys of their own."""
        yield _item(hit, SearchItem, score=hit.score)
        for cube_id in (hit.why or {}).get("duplicates", ()):
            try:
                yield _item(self._memory.get(cube_id, user_id=user), SearchItem, score=hit.score)
            except NotFound:  # deleted since
                continue

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        conditions = op.match_conditions or ()
        prefix = next((condition.path for condition in conditions if condition.match_type == "prefix"), ())
        stored = {_namespace(cube) for cube in self._every(self._user(prefix))}
        kept = {each[: op.max_depth] for each in stored if all(_matches(one, each) for one in conditions)}
        return sorted(kept)[op.offset : op.offset + op.limit]

    # ------------------------------------------------------------ writing

    def _put(self, op: PutOp) -> None:
        if op.value is None:
            self._forget(self._stored(op.namespace, op.key), op.namespace)
            return
        while not self._written(op):
            pass

    def _written(self, op: PutOp) -> bool:
        """Write an item, or return ``False`` where another writer came between."""
        stored = self._stored(op.namespace, op.key)
        if not stored:
            self._memory.store(**_memory(op, None), **self._slot(op.namespace, op.key), infer=self._infer)
            stored = self._stored(op.namespace, op.key)
        else:
            newest = stored[-1]
            user = self._user(op.namespace)
            try:
                self._memory.update(newest.id, **_memory(op, newest), expected_version=newest.version, user_id=user)
            except (NotFound, VersionConflict):
                return False
        # Writers that found nothing at the same time each stored a memory: the newest counts, as if it came last.
        self._forget(stored[:-1], op.namespace)
        return True

    def _forget(self, cubes: Sequence[MemCube], namespace: Namespace) -> None:
        for cube in cubes:
            try:
                self._memory.forget(cube.id, user_id=self._user(namespace))
            except NotFound:  # somebody else was faster
                continue

    # ------------------------------------------------------------ where items are

    def _stored(self, namespace: Namespace, key: str) -> list[MemCube]:
        """Return the memory under a key, the newest last where writers have not yet agreed on one."""
        return self._memory.list(**self._slot(namespace, key))

    def _slot(self, namespace: Namespace, key: str) -> dict[str, Any]:
        """Return the scope of a key: a run of its own, so that it is found without reading others."""
        digest = hashlib.sha256(json.dumps([namespace, key]).encode()).hexdigest()
        return {"user_id": self._user(namespace), "agent_id": self._agent_id, "run_id": digest}

    def _every(self, user: str | None) -> Iterator[MemCube]:
        cubes = every(self._memory, user_id=user, agent_id=self._agent_id)
        return (cube for cube in cubes if "namespace" in cube.metadata)

    def _user(self, namespace: Namespace) -> str | None:
        if self._user_at is None:
            return self._user_id
        if len(namespace) <= self._user_at or namespace[self._user_at] == "*":
            raise InvalidNamespaceError(
                f"label {self._user_at} of a namespace names the user; {namespace} has none there"
            )
        return namespace[self._user_at]


# ------------------------------------------------------------ items as memories


def _memory(op: PutOp, before: MemCube | None) -> dict[str, Any]:
    """Return the text and metadata of an item; its labels are named by their places, so that filters reach them."""
    now = datetime.now(UTC).isoformat()
    metadata = {
        "namespace": {str(place): label for place, label in enumerate(op.namespace)},
        "key": op.key,
        "created_at": before.metadata["created_at"] if before else now,
        "updated_at": now,
        "searched": op.index is not False,
    }
    return memory_of(dict(op.value), _text(op), metadata)


def _text(op: PutOp) -> str | None:
    if op.index is False:
        return None
    if op.index is None:
        return readable(op.value)
    return readable([text for path in op.index for text in get_text_at_path(op.value, path)])


def _item(memory: MemCube | Hit, kind: type[Item] = Item, **more: Any) -> Any:
    metadata = memory.metadata
    return kind(
        namespace=_namespace(memory),
        key=metadata["key"],
        value=value_of(memory),
        created_at=metadata["created_at"],
        updated_at=metadata["updated_at"],
        **more,
    )


def _once(items: Iterable[SearchItem]) -> Iterator[SearchItem]:
    """Yield each item once, also where writers have not yet agreed on one memory of it."""
    seen = set()
    for item in items:
        if (item.namespace, item.key) not in seen:
            seen.add((item.namespace, item.key))
            yield item


def _namespace(memory: MemCube | Hit) -> Namespace:
    labels = memory.metadata["namespace"]
    return tuple(labels[str(place)] for place in range(len(labels)))


# ------------------------------------------------------------ conditions


def _matches(condition: MatchCondition, namespace: Namespace) -> bool:
    path = condition.path
    if len(path) > len(namespace):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(label in ("*", found) for label, found in zip(path, part, strict=True))


def _holds(stored: Any, wanted: Any) -> bool:
    """Return whether a value is as a filter wants it: objects by the fields that it names."""
    if _is_test(wanted):
        return all(_operator(name)(stored, operand) for name, operand in wanted.items())
    if isinstance(wanted, Mapping):
        return isinstance(stored, Mapping) and all(_holds(stored.get(name), inner) for name, inner in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(stored, list) and len(stored) == len(wanted) and all(map(_holds, stored, wanted))
    return isinstance(stored, bool) == isinstance(wanted, bool) and bool(stored == wanted)


def _is_test(wanted: Any) -> bool:
    return isinstance(wanted, Mapping) and any(str(name).startswith("$") for name in wanted)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(stored: Any, operand: Any) -> bool:
        if isinstance(stored, bool) or isinstance(operand, bool):
            return False
        numbers = isinstance(stored, int | float) and isinstance(operand, int | float)
        strings = isinstance(stored, str) and isinstance(operand, str)
        return (numbers or strings) and compare(stored, operand)

    return holds


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _holds,
    "$ne": lambda stored, operand: not _holds(stored, operand),
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
}


def _operator(name: str) -> Callable[[Any, Any], bool]:
    if name not in _OPERATORS:
        raise ValueError(f"unknown operator {name!r} in a filter; known: {' '.join(_OPERATORS)}")
    return _OPERATORS[name]


def _filters(op: SearchOp) -> dict[str, Any]:
    """Return what recall itself can test of a search: the namespace, and fields compared with strings and numbers."""
    parts: list[dict[str, Any]] = [{"metadata.searched": True}]
    parts += [{f"metadata.namespace.{place}": label} for place, label in enumerate(op.namespace_prefix)]
    for name, wanted in (op.filter or {}).items():
        tests = wanted if _is_test(wanted) else {"$eq": wanted}
        known = {test: operand for test, operand in tests.items() if _can_recall(test, operand)}
        if known and name and "." not in name:  # a dot would reach into an object
            parts.append({"$or": [{"metadata.in_text": True}, {f"metadata.value.{name}": known}]})
    return {"$and": parts}


def _can_recall(test: str, operand: Any) -> bool:
    if isinstance(operand, bool):
        return test in ("$eq", "$ne")
    return test in _OPERATORS and isinstance(operand, str | int | float)

"""The errors a memory call can raise: the server's tree, mirrored by problem code.

MemosError
├── InvalidInput ── InvalidText, InvalidFilter, ImportRefused, BackupRefused, ModelUnsupported, BundleRefused,
│                    CompositionRefused, RetrievalRefused, AdapterRefused, TrainingRefused,
│                    GateRefused, PromptTooLong
├── RequestRefused ── MethodRefused, TooLarge, UnsupportedMedia
├── Unauthenticated, Forbidden, NotFound, LimitReached, Overloaded, TimedOut, NotBuilt
├── Conflict ── VersionConflict ── PreconditionFailed
│            ── IllegalTransition, IdempotencyConflict, LegalHold, EmbedderMismatch
├── StoreError ── StoreInUse, StoreTooNew, StoreFull ── QuotaReached
│              ── StoreUnavailable, StoreClosed, EmbedderUnavailable, ModelUnavailable
├── Unreachable    no answer of the server came
└── NotInstalled   the embedded engine (agent-memos) is missing
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class MemosError(Exception):
    """Root of the tree. ``problem`` is the RFC 9457 body, ``status`` its HTTP status."""

    code: ClassVar[str] = "internal-error"

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.problem = dict(problem or {})

    @property
    def status(self) -> int:
        """HTTP status of the problem."""
        return int(self.problem.get("status", 500))

    @property
    def index(self) -> int | None:
        """Which item of a batch was bad (0-based), if the error names one."""
        index = self.problem.get("index")
        return None if index is None else int(index)


class InvalidInput(MemosError):
    """A request that can never succeed as it stands."""

    code = "invalid-input"


class InvalidText(InvalidInput):
    """Text that cannot be stored."""

    code = "invalid-text"


class InvalidFilter(InvalidInput):
    """A filter outside the grammar."""

    code = "invalid-filter"


class ImportRefused(InvalidInput):
    """A strict import met a malformed line; nothing was imported."""

    code = "import-refused"


class BackupRefused(InvalidInput):
    """A backup that is damaged, incomplete or none at all; nothing of it was restored."""

    code = "backup-refused"


class ModelUnsupported(InvalidInput):
    """A language model that the runtime would run wrongly."""

    code = "model-unsupported"


class BundleRefused(InvalidInput):
    """A bundle too small to be worth a KV file, or longer than the model can read."""

    code = "bundle-refused"


class CompositionRefused(InvalidInput):
    """Caches that cannot stand in one prompt, or a mode or ratio of composing them that there is not."""

    code = "composition-refused"


class RetrievalRefused(InvalidInput):
    """A way to choose what of a context is attended, or a share of it, that there is not."""

    code = "retrieval-refused"


class AdapterRefused(InvalidInput):
    """An adapter that cannot be used: of another model, over the rank limit, damaged, or not finite."""

    code = "adapter-refused"


class TrainingRefused(InvalidInput):
    """Memories that leave nothing to train on."""

    code = "training-refused"


class GateRefused(InvalidInput):
    """A trained adapter that does not know its facts, or changed too much else."""

    code = "gate-refused"


class PromptTooLong(InvalidInput):
    """A prompt that leaves no room for an answer."""

    code = "prompt-too-long"


class RequestRefused(MemosError):
    """An HTTP request that the server could not read."""

    code = "bad-request"


class MethodRefused(RequestRefused):
    """An HTTP method that a path does not have."""

    code = "method-not-allowed"


class TooLarge(RequestRefused):
    """A request body over the server's limit."""

    code = "too-large"


class UnsupportedMedia(RequestRefused):
    """A request body of another content type than the route takes."""

    code = "unsupported-media-type"


class Unauthenticated(MemosError):
    """No API key, or one that does not hold (any more)."""

    code = "unauthenticated"


class Forbidden(MemosError):
    """The API key does not have the scope that this needs."""

    code = "forbidden"


class LimitReached(MemosError):
    """Too many requests in a time, or too many unfinished jobs."""

    code = "limit-reached"


class Overloaded(MemosError):
    """The server has more to do than it can; nothing was begun."""

    code = "overloaded"


class TimedOut(MemosError):
    """The server did not answer in time; a write may still be carried out."""

    code = "timed-out"


class NotBuilt(MemosError):
    """A part of the interface that the server's version does not have yet."""

    code = "not-implemented"


class NotFound(MemosError):
    """No such memory here."""

    code = "not-found"


class Conflict(MemosError):
    """The request contradicts the present state."""

    code = "conflict"


class VersionConflict(Conflict):
    """``expected_version`` is stale; :attr:`current_version` is the one to use."""

    code = "version-conflict"

    @property
    def current_version(self) -> int | None:
        """The version the memory is at."""
        version = self.problem.get("current_version")
        return None if version is None else int(version)


class PreconditionFailed(VersionConflict):
    """``If-Match`` named another version than the current one."""

    code = "precondition-failed"


class IllegalTransition(Conflict):
    """A state move that is not allowed."""

    code = "illegal-transition"


class IdempotencyConflict(Conflict):
    """The idempotency key was used with a different request."""

    code = "idempotency-conflict"


class LegalHold(Conflict):
    """A memory, or all of its user, is under a legal hold, which has to be released first."""

    code = "legal-hold"

    @property
    def holds(self) -> tuple[str, ...]:
        """The ids of the holds."""
        return tuple(self.problem.get("holds", ()))


class EmbedderMismatch(Conflict):
    """The store was embedded by another model."""

    code = "embedder-mismatch"


class StoreError(MemosError):
    """The store cannot serve the request."""

    code = "store-error"


class StoreInUse(StoreError):
    """Another process has the embedded store open."""

    code = "store-in-use"


class StoreTooNew(StoreError):
    """The store was written by a newer version."""

    code = "store-too-new"


class StoreFull(StoreError):
    """No space left; nothing of the write was kept."""

    code = "store-full"


class QuotaReached(StoreFull):
    """The user's quota leaves no room for the write; nothing of it was stored."""

    code = "quota-reached"


class StoreUnavailable(StoreError):
    """The database or index cannot be reached."""

    code = "store-unavailable"


class StoreClosed(StoreError):
    """Used after ``close()``."""

    code = "store-closed"


class EmbedderUnavailable(StoreError):
    """The embedding model cannot be used."""

    code = "embedder-unavailable"


class ModelUnavailable(StoreError):
    """The language model cannot be found or loaded."""

    code = "model-unavailable"


class Unreachable(MemosError):
    """No answer of the server came: it is down, too slow, or the connection broke."""

    code = "unreachable"


class NotInstalled(MemosError):
    """Embedded use needs the engine: ``pip install agent-memos``."""

    code = "not-installed"


def _tree(root: type[MemosError]) -> dict[str, type[MemosError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


BY_CODE = _tree(MemosError)


def from_problem(problem: Mapping[str, Any]) -> MemosError:
    """Return the error a problem body stands for; an unknown code becomes the root class."""
    kind = BY_CODE.get(str(problem.get("code")), MemosError)
    return kind(str(problem.get("detail", "the memory service answered with an error")), problem)

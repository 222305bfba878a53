"""Every error this project raises, in one tree.

    MemosError                    500  internal-error
    ├── InvalidInput              422  invalid-input
    │   ├── InvalidText           422  invalid-text        empty, NUL, lone surrogate, too long
    │   ├── InvalidFilter         422  invalid-filter      unknown operator, wrong operand
    │   ├── ImportRefused         422  import-refused      a malformed line under --strict
    │   ├── BackupRefused         422  backup-refused      damaged, incomplete, or no backup at all
    │   ├── ModelUnsupported      422  model-unsupported   a model this runtime would run wrongly
    │   ├── BundleRefused         422  bundle-refused      too small, or longer than the model can read
    │   ├── CompositionRefused    422  composition-refused  caches that make no prompt together
    │   ├── RetrievalRefused      422  retrieval-refused   a way to choose of a context that there is not
    │   ├── AdapterRefused        422  adapter-refused     another model's, too high a rank, damaged
    │   ├── TrainingRefused       422  training-refused    nothing to train on
    │   ├── GateRefused           422  gate-refused        trained, but not fit to be served
    │   └── PromptTooLong         422  prompt-too-long     does not fit the context window
    ├── RequestRefused            400  bad-request         an HTTP request that cannot be read
    │   ├── MethodRefused         405  method-not-allowed
    │   ├── TooLarge              413  too-large           a body over the limit
    │   └── UnsupportedMedia      415  unsupported-media-type
    ├── Unauthenticated           401  unauthenticated     no API key, or one that does not hold
    ├── Forbidden                 403  forbidden           a key without the scope that this needs
    ├── NotFound                  404  not-found
    ├── LimitReached              429  limit-reached       too many requests, or too many jobs
    ├── Overloaded                503  overloaded          the service has more to do than it can
    ├── TimedOut                  504  timed-out           the service did not answer in time
    ├── NotBuilt                  501  not-implemented     a later version will do it
    ├── Conflict                  409  conflict
    │   ├── VersionConflict       409  version-conflict    expected_version is stale
    │   │   └── PreconditionFailed  412  precondition-failed  ... and If-Match said so
    │   ├── IllegalTransition     409  illegal-transition  state move not in the table
    │   ├── IdempotencyConflict   409  idempotency-conflict  same key, other request
    │   ├── LegalHold             409  legal-hold          deletion of what must be kept
    │   └── EmbedderMismatch      409  embedder-mismatch   store was embedded by another model
    └── StoreError                500  store-error
        ├── StoreInUse            423  store-in-use        another process holds the data directory
        ├── StoreTooNew           409  store-too-new       written by a newer version
        ├── StoreFull             507  store-full          no space left
        │   └── QuotaReached      507  quota-reached       ... for this user
        ├── StoreUnavailable      503  store-unavailable   database cannot be reached
        ├── StoreClosed           409  store-closed        used after close()
        ├── EmbedderUnavailable   503  embedder-unavailable  model or endpoint cannot be used
        └── ModelUnavailable      503  model-unavailable   the language model cannot be loaded

Each class carries its HTTP ``status`` and a stable ``code``; :meth:`MemosError.problem` renders the RFC 9457 body that
the REST API sends and the SDK turns back into the same class of its own mirrored tree.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MemosError(Exception):
    """Root of the tree: a message for people plus machine-readable ``extra`` fields.

    ``extra`` must be JSON-serialisable; it travels in the problem body (``index`` of a bad batch item, ``line`` of an
    import, ``current_version`` of a conflict).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.extra = extra
        self._whole: MemosError | None = None

    def at(self, index: int) -> MemosError:
        """Return the same error naming the batch item (0-based) that caused it."""
        located = type(self)(f"item {index}: {self.message}", **{**self.extra, "index": index})
        located._whole = self
        return located

    def whole(self) -> MemosError:
        """Return the error without the batch index: what a caller who stored one memory should read."""
        return self._whole or self

    def problem(self) -> dict[str, Any]:
        """Return the RFC 9457 problem body."""
        return {
            "type": f"urn:memos:problem:{self.code}",
            "title": type(self).__name__,
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            **self.extra,
        }


class InvalidInput(MemosError):
    """A request that can never succeed as it stands."""

    status = 422
    code = "invalid-input"


class InvalidText(InvalidInput):
    """Text that cannot be stored: empty, with NUL or lone surrogates, or over the size limit."""

    code = "invalid-text"


class InvalidFilter(InvalidInput):
    """A filter outside the grammar of :mod:`memos.plaintext.filters`."""

    code = "invalid-filter"


class ImportRefused(InvalidInput):
    """A strict import met a malformed line; nothing was imported."""

    code = "import-refused"


class BackupRefused(InvalidInput):
    """A backup that is damaged, incomplete or none at all; nothing of it was restored."""

    code = "backup-refused"


class ModelUnsupported(InvalidInput):
    """A language model that this runtime would run wrongly; the message names what stands in the way."""

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
    """An adapter that cannot be used here: of another model, over the rank limit, damaged, or not finite."""

    code = "adapter-refused"


class TrainingRefused(InvalidInput):
    """Memories that leave nothing to train on."""

    code = "training-refused"


class GateRefused(InvalidInput):
    """A trained payload that does not know its facts, or changed too much else: it is never served."""

    code = "gate-refused"


class PromptTooLong(InvalidInput):
    """A prompt that leaves no room for an answer in the model's context window."""

    code = "prompt-too-long"


class RequestRefused(MemosError):
    """An HTTP request that cannot be read: no JSON, a header that means nothing."""

    status = 400
    code = "bad-request"


class MethodRefused(RequestRefused):
    """An HTTP method that this path does not have."""

    status = 405
    code = "method-not-allowed"


class TooLarge(RequestRefused):
    """A request body over the limit."""

    status = 413
    code = "too-large"


class UnsupportedMedia(RequestRefused):
    """A request body of another content type than the route takes."""

    status = 415
    code = "unsupported-media-type"


class Unauthenticated(MemosError):
    """No API key, or one that is unknown, revoked or expired: which of these is not said."""

    status = 401
    code = "unauthenticated"


class Forbidden(MemosError):
    """The API key does not have the scope that this needs."""

    status = 403
    code = "forbidden"


class LimitReached(MemosError):
    """More requests in a time, or more unfinished jobs of a user, than are allowed."""

    status = 429
    code = "limit-reached"


class Overloaded(MemosError):
    """The service has more to do than it can; nothing was begun, so the request can be repeated."""

    status = 503
    code = "overloaded"


class TimedOut(MemosError):
    """The service did not answer in time; a write may still be carried out."""

    status = 504
    code = "timed-out"


class NotBuilt(MemosError):
    """A part of the interface that this version does not have yet."""

    status = 501
    code = "not-implemented"


class NotFound(MemosError):
    """No such memory, job or run in this namespace."""

    status = 404
    code = "not-found"


class Conflict(MemosError):
    """The request contradicts the present state."""

    status = 409
    code = "conflict"


class VersionConflict(Conflict):
    """``expected_version`` is not the current version; ``extra['current_version']`` is."""

    code = "version-conflict"


class PreconditionFailed(VersionConflict):
    """``If-Match`` names another version than the current one, which is ``extra['current_version']``."""

    status = 412
    code = "precondition-failed"


class IllegalTransition(Conflict):
    """A cube may not move between these two states."""

    code = "illegal-transition"


class IdempotencyConflict(Conflict):
    """The idempotency key was used before with a different request."""

    code = "idempotency-conflict"


class LegalHold(Conflict):
    """A memory, or all of its user, is under a legal hold; ``extra['holds']`` are to be released first."""

    code = "legal-hold"


class EmbedderMismatch(Conflict):
    """The configured embedder is not the one that made the stored vectors."""

    code = "embedder-mismatch"


class StoreError(MemosError):
    """The store cannot serve the request."""

    code = "store-error"


class StoreInUse(StoreError):
    """Another process has the embedded data directory open."""

    status = 423
    code = "store-in-use"


class StoreTooNew(StoreError):
    """The data was written by a newer version of this package."""

    status = 409
    code = "store-too-new"


class StoreFull(StoreError):
    """No space left for the write; nothing of it was stored."""

    status = 507
    code = "store-full"


class QuotaReached(StoreFull):
    """The user's quota leaves no room for the write; nothing of it was stored."""

    code = "quota-reached"


class StoreUnavailable(StoreError):
    """The database cannot be reached or is locked."""

    status = 503
    code = "store-unavailable"


class StoreClosed(StoreError):
    """The store was used after ``close()``."""

    status = 409
    code = "store-closed"


class EmbedderUnavailable(StoreError):
    """The embedding model cannot be loaded, or its endpoint does not answer."""

    status = 503
    code = "embedder-unavailable"


class ModelUnavailable(StoreError):
    """The language model cannot be found or loaded."""

    status = 503
    code = "model-unavailable"

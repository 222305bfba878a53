"""Promotion to the activation tier: bundle -> prefill -> encode -> file -> cube."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memos.activation.bundle import ROOM, Bundle, bundle_of, check_size, note_of
from memos.activation.codecs.base import Codec, Encoded
from memos.activation.codecs.registry import make_codec
from memos.activation.container import KVHeader
from memos.activation.files import Found, KVFiles, Published
from memos.activation.kv import KVBlock
from memos.activation.loss import measured_loss
from memos.activation.observing import observed_prefill
from memos.activation.publishing import Publishing
from memos.clock import now_us
from memos.config import AUTO_CODEC, Settings
from memos.cube import Scope
from memos.errors import Conflict, InvalidInput, QuotaReached
from memos.ids import new_id
from memos.plaintext.chosen import memories_of
from memos.runtime.host import ModelHost, Serving
from memos.schedule.task import Report
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.database import Database
from memos.store.quota import check_kv
from memos.store.records import Audit


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A bundle with the prompt tokens its cache will cover, and the name its file will have."""

    bundle: Bundle
    tokens: Sequence[int]
    head_tokens: int
    key: str


class Promotion:
    """The task. Running it twice, or in two processes at once, makes one file and one cube."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        models: ModelHost,
        files: KVFiles,
        publishing: Publishing,
    ) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._files = files
        self._publishing = publishing

    def run(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Promote the present versions of the notes ``payload["ids"]``; return the cube's id and size.

        Raises ``BundleRefused``, ``NotFound`` (a note was forgotten), ``Conflict`` (a note changed meanwhile) and
        ``StoreFull``; the notes are never touched.
        """
        serving = self._models.serving()
        codec = make_codec(_codec_spec(payload["codec"], serving))
        prepared = self._prepare(scope, self._bundle(scope, payload["ids"]), serving, codec)
        report(0.1)
        if (present := self._present(scope, prepared.key)) is not None:
            return _result(present, made=False)
        vocabulary = serving.loaded.model.config.vocab_size
        kv = observed_prefill(serving.runtime, prepared.tokens, codec, vocabulary)
        report(0.6)
        encoded = _encoded(codec, kv)
        loss = None if codec.exact else measured_loss(serving.runtime, prepared.tokens, kv, codec, encoded)
        report(0.9)
        header = self._header(prepared, serving, codec, loss)
        with self._publishing:
            published = self._files.publish(scope.tenant, header, encoded)
            return self._register(scope, indexed(published))

    def _bundle(self, scope: Scope, ids: Sequence[str]) -> Bundle:
        return bundle_of(map(note_of, memories_of(self._database, scope, ids)))

    def _prepare(self, scope: Scope, bundle: Bundle, serving: Serving, codec: Codec) -> _Prepared:
        head, memory = serving.format.head, bundle.tokens(serving.format.encode_text)
        window = serving.loaded.context_window
        check_size(
            len(memory),
            len(head) + len(memory),
            smallest=self._settings.bundle_min_tokens,
            largest=window - window // ROOM,
        )
        tokens = [*head, *memory]
        place = (scope.user_id, bundle.digest, serving.fingerprint, codec.spec)
        return _Prepared(bundle, tokens, len(head), self._files.key(scope.tenant, *place, tokens=tokens))

    def _header(self, prepared: _Prepared, serving: Serving, codec: Codec, loss: float | None) -> KVHeader:
        return KVHeader(
            key=prepared.key,
            cube_id=new_id(),
            fingerprint=serving.fingerprint,
            sources=prepared.bundle.sources,
            token_ids=tuple(prepared.tokens),
            head_tokens=prepared.head_tokens,
            shape=serving.loaded.shape,
            codec=codec.spec,
            created_at=now_us(),
            loss=loss,
        )

    def _present(self, scope: Scope, key: str) -> Activation | None:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            return None if namespace is None else ActivationRepository(connection, namespace.id).by_key(key)

    def _register(self, scope: Scope, activation: Activation) -> dict[str, Any]:
        """Write the cube, unless another runner did or a source is no longer what the file was made from."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            repository = ActivationRepository(connection, namespace.id)
            other = repository.by_key(activation.key)
            if other is not None:
                return _result(other, made=False)
            try:
                check_kv(self._settings, repository.totals()["bytes"], activation.bytes)
            except QuotaReached:
                self._files.remove(activation.key)
                raise
            if repository.live(activation.sources, scope, now_us()) == set(activation.sources):
                repository.insert(activation, namespace.revision)
                Audit(connection, namespace.id).add("promote", activation.cube_id, tokens=activation.tokens)
                return _result(activation, made=True)
        self._files.remove(activation.key)
        raise Conflict("a memory changed, expired or was forgotten while it was promoted; promote again")


def _codec_spec(given: str, serving: Serving) -> str:
    """Return the codec's name; left open, an exact one.

    A third is saved of 16-bit caches, a sixth of 32-bit ones, which is less than the time to decode is worth.
    """
    if given != AUTO_CODEC:
        return given
    return "lossless" if serving.loaded.shape.torch_dtype.itemsize == 2 else "raw"


def _encoded(codec: Codec, kv: KVBlock) -> Encoded:
    try:
        return codec.encode(kv)
    except ValueError as error:
        raise InvalidInput(f"KV codec {codec.spec!r} cannot encode this cache: {error}") from error


def indexed(file: Published | Found) -> Activation:
    """Return the place in the index of a file, which describes itself."""
    header = file.header
    return Activation(
        cube_id=header.cube_id,
        key=header.key,
        fingerprint=header.fingerprint,
        codec=header.codec,
        tokens=header.tokens,
        head_tokens=header.head_tokens,
        bytes=file.bytes,
        raw_bytes=header.shape.bytes(header.tokens),
        sha256=file.sha256,
        loss=header.loss,
        created_at=header.created_at,
        sources=header.sources,
    )


def _result(activation: Activation, *, made: bool) -> dict[str, Any]:
    return {
        "cube_id": activation.cube_id,
        "tokens": activation.tokens,
        "bytes": activation.bytes,
        "made": made,
    }

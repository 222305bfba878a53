"""The activation tier of one engine: what the rest of the system asks of it.

This module stays light: torch loads with the first promotion, chat or KV file that has to be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from memos.activation.listing import KVFile, RebuildReport
from memos.activation.miss import KVMiss
from memos.activation.publishing import Publishing
from memos.activation.room import Room
from memos.activation.user_settings import UserSettings, check_codec
from memos.config import OFF, Settings
from memos.cube import Kind, Scope
from memos.errors import InvalidInput, StoreError
from memos.plaintext.chosen import chosen
from memos.plaintext.recall import Hit
from memos.runtime.host import ModelHost, Serving
from memos.schedule.foresight.candidate import Candidate
from memos.schedule.foresight.staging import Staging
from memos.schedule.task import Report
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.database import Database
from memos.store.scoped import activation_keys

if TYPE_CHECKING:
    from memos.activation.care import Care
    from memos.activation.compose.composer import Composer
    from memos.activation.compose.variants import Variants
    from memos.activation.files import KVFiles
    from memos.activation.hot import HotFiles
    from memos.activation.layered import LayeredKV
    from memos.activation.promotion import Promotion
    from memos.activation.reuse import Reuse

logger = logging.getLogger(__name__)

FOLDER = "kv"

Progress = Callable[[int, int], None]


class ActivationTier:
    """Promotion, reuse, removal and care of KV files. ``staging`` holds what was prefetched."""

    def __init__(self, settings: Settings, database: Database, models: ModelHost, staging: Staging) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._staging = staging
        self._folder = settings.home.expanduser() / FOLDER
        self._room = Room(self._folder, settings.kv_bytes, settings.kv_free_bytes)
        self._prefetching = ThreadPoolExecutor(1, "memos-kv-cover")
        self.publishing = Publishing(self._folder)
        self.user_settings = UserSettings(database)

    # ------------------------------------------------------------ promotion

    def check_promotion(
        self, tenant: str, cube_ids: object, to: str, user_id: str | None, codec: str | None
    ) -> tuple[Scope, dict[str, Any]]:
        """Return whose notes are to be promoted and the payload of the job, or refuse before any work.

        Without a ``codec`` the user's own is taken, or else that of the process.
        """
        if to != Kind.ACTIVATION.value:
            raise InvalidInput(f"to must be 'activation' or 'parametric', not {to!r}")
        named = None if codec is None else check_codec(codec)
        scope, ids = chosen(self._database, tenant, cube_ids, user_id)
        codec = named or self.user_settings.of(scope).codec or self._settings.kv_codec
        return scope, {"ids": ids, "to": to, "codec": codec}

    def run_promotion(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """The task behind ``promote``; the first one of a model finds out whether caches of it can be composed."""
        result = self._promotion.run(scope, payload, report)
        self.composer.ensure(self._models.serving())
        return result

    # ------------------------------------------------------------ reuse

    @property
    def reuse(self) -> Reuse:
        """Finding and loading the file that covers the memories of a prompt."""
        return self._reuse

    @cached_property
    def composer(self) -> Composer:
        """Serving one prompt from several files."""
        from memos.activation.compose.composer import Composer

        return Composer(self._database, self._reuse, self._variants, enabled=self._settings.compose != OFF)

    def holds(self, candidate: Candidate, serving: Serving) -> bool:
        """Return whether the cache of a file is in host memory because it was used."""
        return self._reuse.holds(candidate.key)

    def fetch(self, scope: Scope, candidate: Candidate, serving: Serving) -> LayeredKV | None:
        """Begin to load a file ahead of its use; ``None`` if it cannot be used, or not now."""
        try:
            return self._reuse.fetch(scope, candidate.cube_id, serving)
        except KVMiss as miss:
            logger.debug("a KV file was not prefetched: %s", miss)
            return None

    def settle(self, value: LayeredKV) -> bool:
        """Wait until a file was read; return whether it can be used."""
        try:
            value.settle()
        except KVMiss as miss:
            logger.debug("a KV file was not prefetched: %s", miss)
            return False
        return True

    def prefetch(self, scope: Scope, hits: Sequence[Hit]) -> None:
        """Begin to load the file a chat about these hits would need, if a model is loaded that could use it."""
        serving = self._models.ready
        if serving is not None and hits and self._folder.is_dir():
            self._prefetching.submit(self._prefetch, scope, hits, serving)

    def _prefetch(self, scope: Scope, hits: Sequence[Hit], serving: Serving) -> None:
        try:
            mode, _ = self.user_settings.composition(scope, None, None)
            self._reuse.prefetch(scope, hits, serving, self.composer.most(serving, mode))
        except StoreError as error:  # the chat that needs the file finds out, and computes
            logger.debug("nothing was prefetched: %s", error)

    # ------------------------------------------------------------ removal

    def discard(self, keys: Sequence[str]) -> bool:
        """Remove the files of cubes that are gone; return whether all of them are.

        A file that could not be removed has no cube: nothing serves it, and the next sweep tries again.
        """
        if not keys:
            return True
        with self.publishing:
            with self._database.read() as connection:
                gone = set(keys) - activation_keys(connection)  # made again meanwhile: equal bytes, and needed
            if "_reuse" in self.__dict__:
                self._reuse.forget(gone)
            if "_variants" in self.__dict__:
                self._variants.forget(gone)
            removed = [self._room.remove(key) for key in gone]  # all are tried
        return all(removed)

    def has(self, key: str) -> bool:
        """Return whether the file of a key is there."""
        return self._room.path(key).exists()

    def sweep(self) -> int:
        """Remove files that a process left behind when it ended between the two halves of a removal; return how many.

        A folder that cannot be swept is no reason not to open the memories: the log says so, and the next start tries.
        """
        if not self._folder.is_dir():
            return 0
        with self.publishing, self._database.read() as connection:
            needed = activation_keys(connection)
            try:
                return self._room.sweep(needed)
            except StoreError as error:
                logger.warning("KV files were not swept: %s", error)
                return 0

    # ------------------------------------------------------------ care

    def files_of(self, scope: Scope) -> list[KVFile]:
        """Return the KV files of a namespace as the index knows them."""
        return [KVFile.of(activation) for activation in self._activations(scope)]

    def verify(self, scope: Scope, progress: Progress) -> list[KVFile]:
        """Return the KV files of a namespace with what is wrong with each, after reading them whole."""
        return self._care.verify(scope, self._activations(scope), progress)

    def rebuild(self, progress: Progress) -> RebuildReport:
        """Write the index anew from the files."""
        return self._care.rebuild(progress)

    def usage(self) -> tuple[int, int]:
        """Return the bytes of all KV files on disk, and of their caches and variants in host memory."""
        if not self._folder.is_dir():
            return 0, 0
        return self._room.used(), self._hot.bytes if "_hot" in self.__dict__ else 0

    def close(self) -> None:
        """Let go of the caches in memory."""
        self._prefetching.shutdown(cancel_futures=True)
        if "_variants" in self.__dict__:
            self._variants.drop_all()
        if "_hot" in self.__dict__:
            self._hot.drop_all()

    # ------------------------------------------------------------ inside

    def _activations(self, scope: Scope) -> list[Activation]:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            return [] if namespace is None else ActivationRepository(connection, namespace.id).all()

    @cached_property
    def _files(self) -> KVFiles:
        from memos.activation.files import KVFiles

        return KVFiles(self._folder, self._settings.kv_bytes, self._settings.kv_free_bytes)

    @cached_property
    def _hot(self) -> HotFiles:
        from memos.activation.hot import HotFiles

        return HotFiles(self._settings.kv_host_bytes)

    @cached_property
    def _variants(self) -> Variants:
        from memos.activation.compose.variants import Variants

        return Variants(self._hot)

    @cached_property
    def _promotion(self) -> Promotion:
        from memos.activation.promotion import Promotion

        return Promotion(self._settings, self._database, self._models, self._files, self.publishing)

    @cached_property
    def _reuse(self) -> Reuse:
        from memos.activation.reuse import Reuse

        return Reuse(self._database, self._files, self._hot, self._staging)

    @cached_property
    def _care(self) -> Care:
        from memos.activation.care import Care

        return Care(self._database, self._files, self.publishing)

"""The one language model of a process: loaded by the first call that needs it, kept until the store closes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memos.config import Settings
from memos.cube import Scope
from memos.heavy import LOADING

if TYPE_CHECKING:
    from memos.runtime.chat import ChatFormat
    from memos.runtime.loading import LoadedModel
    from memos.runtime.loop import Runtime


@dataclass(frozen=True, slots=True)
class Serving:
    """A loaded model, the loop that runs it and the form of its prompts."""

    loaded: LoadedModel
    runtime: Runtime
    format: ChatFormat

    @property
    def fingerprint(self) -> str:
        """What KV files of this model are known by."""
        return self.loaded.identity.fingerprint


def owner_of(scope: Scope) -> str:
    """Return whose requests those of a scope are: shares of the model, and of computed prompts, go by user."""
    return f"{scope.tenant}\0{scope.user_id}"


class ModelHost:
    """Loads the model that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loading = threading.Lock()
        self._serving: Serving | None = None

    @property
    def ready(self) -> Serving | None:
        """The model, if it is loaded already."""
        return self._serving

    def serving(self) -> Serving:
        """Return the model, loading it first. Raises ``ModelUnavailable`` and ``ModelUnsupported``."""
        with self._loading:
            if self._serving is None:
                with LOADING:
                    self._serving = self._load()
            return self._serving

    def drop_adapters(self, digests: Sequence[str]) -> None:
        """Stop serving adapters and cartridges, if a model is loaded that could."""
        serving = self._serving
        if serving is not None:
            serving.runtime.drop_adapters(digests)

    def forget(self, scope: Scope) -> None:
        """Drop the caches of prompts of a user, one of whose memories changed or is gone."""
        self.drop_adapters([owner_of(scope)])

    def close(self) -> None:
        """Stop the loop; requests that still run end with an error."""
        with self._loading:
            if self._serving is not None:
                self._serving.runtime.close()
                self._serving = None

    def _load(self) -> Serving:
        from memos.runtime.chat import ChatFormat  # torch and transformers: seconds, paid by the first chat
        from memos.runtime.loading import load_model
        from memos.runtime.loop import Runtime

        settings = self._settings
        loaded = load_model(settings.model, dtype=settings.model_dtype, device=settings.model_device)
        return Serving(loaded, Runtime(loaded, settings.pool_bytes), ChatFormat(loaded))

"""How the KV files of one namespace are made and put together, where its user chose."""

from __future__ import annotations

from memos.cube import Frozen
from memos.store.schema import kv_settings
from memos.store.scoped import ScopedRepository


class KVSettings(Frozen):
    """What holds for a user's KV files unless a request names something else; None is what the process is set to.

    ``codec`` is how new files are compressed, ``compose`` the mode in which several begin a prompt, ``ratio`` the share
    of their tokens that is computed anew, from 0 to 1.
    """

    user_id: str
    codec: str | None = None
    compose: str | None = None
    ratio: float | None = None


class KVSettingsRepository(ScopedRepository):
    """The settings of one namespace."""

    def get(self, user_id: str) -> KVSettings:
        """Return them."""
        columns = (kv_settings.c.codec, kv_settings.c.compose, kv_settings.c.ratio)
        row = self.connection.execute(self._select(kv_settings, *columns)).mappings().first()
        return KVSettings(user_id=user_id, **(row or {}))

    def put(self, chosen: KVSettings) -> None:
        """Replace them whole."""
        self.clear()
        self._insert(kv_settings, [chosen.model_dump(exclude={"user_id"})])

    def clear(self) -> None:
        """Go back to what the process is set to."""
        self.connection.execute(self._delete(kv_settings))

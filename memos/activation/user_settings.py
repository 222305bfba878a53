"""The settings of one user's KV files: checked before they are written, and what they come to for one prompt."""

from __future__ import annotations

from memos.activation.compose.names import AUTO, check_choice, check_ratio
from memos.config import AUTO_CODEC
from memos.cube import Scope
from memos.errors import InvalidInput
from memos.store import namespaces
from memos.store.database import Database
from memos.store.kv_settings import KVSettings, KVSettingsRepository
from memos.store.once import record
from memos.store.records import Audit
from memos.store.schema import CODEC_LENGTH


class UserSettings:
    """Those of every user of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, scope: Scope) -> KVSettings:
        """Return what a user chose."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return KVSettings(user_id=scope.user_id)
            return KVSettingsRepository(connection, namespace.id).get(scope.user_id)

    def put(self, scope: Scope, codec: object, compose: object, ratio: object) -> KVSettings:
        """Replace what a user chose; None leaves a choice to the settings of the process.

        Raises :class:`InvalidInput` for a codec, :class:`CompositionRefused` for a mode or ratio that there is not.
        """
        chosen = KVSettings(
            user_id=scope.user_id,
            codec=None if codec is None else check_codec(codec),
            compose=None if compose is None else check_choice(compose),
            ratio=None if ratio is None else _check_share(ratio),
        )
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            KVSettingsRepository(connection, namespace.id).put(chosen)
            Audit(connection, namespace.id).add("kv_settings", **chosen.model_dump(exclude={"user_id"}))
            record(connection, namespace.id, report=chosen.model_dump(mode="json"))
        return chosen

    def composition(self, scope: Scope, mode: str | None, ratio: float | None) -> tuple[str | None, float | None]:
        """Return the mode and ratio of a prompt of a user, each as asked for or else chosen.

        None leaves them to what costs least.
        """
        chosen = self.of(scope)
        mode = chosen.compose if mode is None else mode
        return None if mode == AUTO else mode, chosen.ratio if ratio is None else ratio


def check_codec(spec: object) -> str:
    """Return the canonical name of a codec or chain. Raises :class:`InvalidInput`."""
    if not isinstance(spec, str):
        raise InvalidInput(f"codec must be the name of a KV codec, not a {type(spec).__name__}")
    if spec == AUTO_CODEC:
        return spec
    from memos.activation.codecs.registry import make_codec  # torch

    name = make_codec(spec).spec
    if len(name) > CODEC_LENGTH:
        raise InvalidInput(f"the name of a KV codec has at most {CODEC_LENGTH} characters")
    return name


def _check_share(ratio: object) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise InvalidInput(f"ratio must be a number from 0 to 1, not {ratio!r}")
    return check_ratio(ratio)

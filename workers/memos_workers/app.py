"""The application that ``celery -A memos_workers.app worker`` and ``beat`` load. Settings are those of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memos.config import Settings
from memos.errors import InvalidInput
from memos_workers.tasks import make_worker_app
from memos_workers.worker import Worker

if TYPE_CHECKING:
    from memos.engine import MemoryOS

_settings = Settings()
if _settings.broker_url is None:
    raise InvalidInput("set MEMOS_BROKER_URL, to the same broker as the service: redis://:PASSWORD@HOST:6379/0")


def _opened() -> MemoryOS:
    from memos.engine import MemoryOS

    return MemoryOS(_settings)


app = make_worker_app(_settings.broker_url, Worker(_opened))

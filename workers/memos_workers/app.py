"""The application that ``celery -A memos_workers.app worker`` and ``beat`` load. Settings are those of the engine."""

from __future__ import annotations

from memos.config import Settings
from memos.engine import MemoryOS
from memos.errors import InvalidInput
from memos_workers.tasks import make_worker_app
from memos_workers.worker import Worker

_settings = Settings()
if _settings.broker_url is None:
    raise InvalidInput("set MEMOS_BROKER_URL, to the same broker as the service: redis://:PASSWORD@HOST:6379/0")
app = make_worker_app(_settings.broker_url, Worker(lambda: MemoryOS(_settings)))

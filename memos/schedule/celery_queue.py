"""The queue of a service: messages with ids, over a broker, to Celery workers. Decision 020 tells how they are used."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

from memos.config import Settings
from memos.cube import Scope
from memos.errors import InvalidInput

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

#: The tasks that Celery knows: run the next job, find what got lost, look after the store.
RUN, SWEEP, MAINTAIN = "memos.run", "memos.sweep", "memos.maintain"
#: The second queue lets a sweep overtake ten thousand jobs.
JOBS, CARE = "memos-jobs", "memos-care"
SWEEP_S, MAINTAIN_S = 5.0, 600.0
#: For a process that has other things to do than to wait for a broker, in seconds.
PATIENCE_S = 5.0


def make_app(broker_url: str, **transport: Any) -> Celery:
    """Return a Celery application as both ends of the broker need it; ``transport`` are options of its connection.

    Messages are JSON, acknowledged once their job is over; results are kept nowhere but in the job's row. Workers are
    threads of one process, which share one engine and one model; beat keeps its schedule in memory.
    """
    from celery import Celery
    from kombu import Queue

    app = Celery("memos", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_default_queue=JOBS,
        task_queues=[Queue(JOBS), Queue(CARE)],
        task_routes={SWEEP: {"queue": CARE}, MAINTAIN: {"queue": CARE}},
        worker_pool="threads",
        worker_concurrency=2,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_transport_options=transport,
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={
            SWEEP: {"task": SWEEP, "schedule": SWEEP_S, "options": {"expires": SWEEP_S}},
            MAINTAIN: {"task": MAINTAIN, "schedule": MAINTAIN_S, "options": {"expires": MAINTAIN_S}},
        },
    )
    return app


def send(app: Celery, scope: Scope, job_id: str) -> None:
    """Tell the workers of a job. Raises :class:`kombu.exceptions.OperationalError`."""
    app.send_task(RUN, args=(scope.tenant, scope.user_id, job_id), retry=False)


class CeleryQueue:
    """Sends messages from a thread of its own, so that no write waits for a broker, and none fails with it."""

    def __init__(self, broker_url: str) -> None:
        waits = {"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S, "max_retries": 0}
        self._app = make_app(broker_url, **waits)
        self._waiting: queue.SimpleQueue[tuple[Scope, str] | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Do nothing: the workers' sweep finds what is left."""

    def submit(self, scope: Scope, job_id: str) -> None:
        """Have a message sent."""
        self._waiting.put((scope, job_id))
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send, name="memos-broker", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Send what waits, if the broker answers, and end the thread."""
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join()
            self._app.close()

    def _send(self) -> None:
        from kombu.exceptions import OperationalError

        while (item := self._waiting.get()) is not None:
            try:
                send(self._app, *item)
            except OperationalError as error:
                logger.warning("the broker does not answer; %d jobs wait for a sweep: %s", 1 + self._drop(), error)

    def _drop(self) -> int:
        """Forget what waits to be sent, since each message would wait for the broker anew; return how many."""
        dropped = 0
        while not self._waiting.empty():
            item = self._waiting.get()
            if item is None:
                self._waiting.put(None)
                break
            dropped += 1
        return dropped


def celery_queue(settings: Settings) -> CeleryQueue | None:
    """Return the queue of the settings' broker, ``None`` without one. Raises :class:`InvalidInput`."""
    if settings.broker_url is None:
        return None
    if settings.database_url is None:
        raise InvalidInput(
            "MEMOS_BROKER_URL needs MEMOS_DATABASE_URL: workers cannot open the embedded store, which one process has"
        )
    try:
        return CeleryQueue(settings.broker_url)
    except ImportError as error:
        raise InvalidInput("MEMOS_BROKER_URL needs more packages: pip install 'agent-memos[workers]'") from error

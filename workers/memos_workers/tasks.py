"""Celery's side: which message makes a worker do what."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_shutdown, worker_shutting_down

from memos.schedule.celery_queue import JOBS, MAINTAIN, RUN, SWEEP, make_app, send
from memos_workers.worker import Worker


def make_worker_app(broker_url: str, worker: Worker) -> Celery:
    """Return the application of a worker and of beat."""
    app = make_app(broker_url)

    @app.task(name=RUN)
    def run(tenant: str, user_id: str, job_id: str) -> None:
        """Run one job: not the named one, which may have waited for less long, but the one whose turn it is."""
        worker.run()

    @app.task(name=SWEEP)
    def sweep() -> None:
        """Send messages for the jobs that have none: lost ones, put off ones, those whose worker died."""
        for scope, job_id in worker.lost(lambda: _waiting(app)):
            send(app, scope, job_id)

    @app.task(name=MAINTAIN)
    def maintain() -> None:
        """Do what is to be done now and then."""
        worker.maintain()

    def stop(**_: Any) -> None:
        worker.stop()

    def close(**_: Any) -> None:
        worker.close()

    worker_shutting_down.connect(stop, weak=False)
    worker_shutdown.connect(close, weak=False)
    return app


def _waiting(app: Celery) -> int:
    """Return how many messages wait for a worker."""
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel  # an empty queue is no key of Redis: declaring it is harmless
        return int(channel.queue_declare(JOBS).message_count)

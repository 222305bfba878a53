"""Keeps leases up while their jobs run, whether these report or not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from memos.errors import StoreError
from memos.store.database import Database
from memos.store.leases import Lease, LeaseRepository

logger = logging.getLogger(__name__)

#: Beats in the length of a lease: some may be missed.
BEATS = 4


class Heart:
    """One thread that extends the leases of a process; it starts with the first."""

    def __init__(self, database: Database, lease_us: int) -> None:
        self._database = database
        self._lease_us = lease_us
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def beating(self, lease: Lease) -> Iterator[None]:
        """Extend a lease until the block ends."""
        with self._lock:
            self._leases[lease.owner] = lease
            self._start()
        try:
            yield
        finally:
            with self._lock:
                del self._leases[lease.owner]

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="memos-leases", daemon=True)
            self._thread.start()

    def _beat(self) -> None:
        while not self._stopped.wait(self._lease_us / BEATS / 1e6):
            with self._lock:
                leases = list(self._leases.values())
            for lease in leases:
                self._extend(lease)

    def _extend(self, lease: Lease) -> None:
        try:
            with self._database.write(lasting=False) as connection:
                LeaseRepository(connection, lease.namespace_id).keep(lease, lease_us=self._lease_us)
        except StoreError as error:  # the next beat tries again; if the lease ends first, another runs the job
            logger.warning("the lease of job %s could not be extended: %s", lease.job_id, error)

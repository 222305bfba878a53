"""The thread that learns from uses and reads ahead: use -> learn -> predict -> stage, the most seconds per byte first.

It works only where a model is loaded that could use what it reads, and reads only while that model does nothing else,
unless cores are left for both. Nobody waits for it: a use is put down in memory, and what comes too fast is left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from memos.clock import now_us
from memos.cube import Kind, Scope
from memos.errors import MemosError
from memos.plaintext.recall import Hit
from memos.runtime.host import ModelHost, Serving
from memos.schedule.foresight.candidate import Candidate, Catalogue
from memos.schedule.foresight.predictor import Predictor
from memos.schedule.foresight.reading import Reading
from memos.schedule.foresight.staging import Offer, Owner, Staging
from memos.schedule.foresight.use import MOST, Use, stream_of

logger = logging.getLogger(__name__)

#: Users for whom predictions are made; who was quiet for longest is forgotten.
MOST_USERS = 64
#: Uses that wait to be learned from; beyond, the oldest is left out.
MOST_WAITING = 256
#: What is less likely needed next is not read.
LEAST = 0.03
#: Seconds to open and check a file, and per byte of it, until they were measured.
OPEN_S, BYTE_S = 1e-3, 1e-9
#: Seconds for which what there is to be read is taken to stay so, whatever is stored meanwhile.
READ_S = 5.0
#: Seconds between two looks whether the model is idle.
LOOK_S = 0.02


class Tier(Protocol):
    """Where candidates of one kind come from."""

    def holds(self, candidate: Candidate, serving: Serving) -> bool:
        """Return whether it is in memory already, because it was used."""

    def fetch(self, scope: Scope, candidate: Candidate, serving: Serving) -> Any:
        """Read it, or begin to; ``None`` if it cannot be used now. May raise :class:`MemosError`."""

    def settle(self, value: Any) -> bool:
        """Wait until it was read; return whether it can be used."""


@dataclass(slots=True)
class _User:
    """What is known of a user for a ``model``, as read at ``read_at`` (monotonic), of the namespace's ``revision``."""

    predictor: Predictor = field(default_factory=Predictor)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    revision: int | None = None
    model: str | None = None
    read_at: float = -READ_S


class Prefetcher:
    """Brings what is likely needed next into ``staging``. Any thread may tell it of uses."""

    def __init__(self, reading: Reading, models: ModelHost, staging: Staging, tiers: dict[Kind, Tier]) -> None:
        self._reading = reading
        self._models = models
        self._staging = staging
        self._tiers = tiers
        self._change = threading.Condition()
        self._waiting: deque[tuple[Scope, Use]] = deque(maxlen=MOST_WAITING)
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None
        #: Held while what is known of users is read or changed, and never while a file is read.
        self._learning = threading.Lock()
        self._users: OrderedDict[Owner, _User] = OrderedDict()
        self._byte_s = dict.fromkeys(tiers, BYTE_S)

    # ------------------------------------------------------------ the callers' side

    def used(self, scope: Scope, hits: Sequence[Hit]) -> None:
        """Hear what a recall or chat found, now. Does nothing before a model was loaded."""
        if not self._staging.limit or self._models.ready is None or not hits:
            return
        leading = hits[:MOST]
        links = tuple((link.target_id, link.score) for hit in leading for link in hit.links)
        use = Use(now_us(), stream_of(scope), tuple(hit.id for hit in leading), links)
        with self._change:
            if self._closed:
                return
            self._waiting.append((scope.whole, use))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="memos-prefetch", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def forget(self, scope: Scope, cube_ids: Collection[str] | None = None) -> None:
        """Forget that memories of a user were used: some, or everything that is known of the user."""
        owner = owner_of(scope)
        with self._learning:
            with self._change:
                kept = [(whose, use) for whose, use in self._waiting if owner_of(whose) != owner]
                self._waiting = deque(kept, maxlen=MOST_WAITING)
            if cube_ids is None:
                self._users.pop(owner, None)
            elif owner in self._users:
                self._users[owner].predictor.forget(cube_ids)
                self._users[owner].revision, self._users[owner].read_at = None, -READ_S

    def wait(self, seconds: float) -> bool:
        """Wait until all that was heard is done, or so long; return whether it is."""
        with self._change:
            return self._change.wait_for(lambda: not self._waiting and not self._busy, seconds)

    def close(self) -> None:
        """End the thread, after the file that is being read if there is one, and let go of everything."""
        with self._change:
            self._closed = True
            self._waiting.clear()
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._staging.clear()

    # ------------------------------------------------------------ the thread

    def _work(self) -> None:
        while self._heard():
            try:
                self._follow()
            except MemosError as error:  # whoever needs a file finds out, and reads or computes
                logger.debug("nothing was prefetched: %s", error)

    def _heard(self) -> bool:
        """Wait for a use; return False once it is closed."""
        with self._change:
            self._busy = False
            self._change.notify_all()
            self._change.wait_for(lambda: self._waiting or self._closed)
            self._busy = not self._closed
            return self._busy

    def _next(self) -> tuple[Scope, Use] | None:
        with self._change:
            return self._waiting.popleft() if self._waiting else None

    def _follow(self) -> None:
        """Learn from the next use; stage what is likely to follow it, unless that is known already."""
        serving = self._models.ready
        with self._learning:  # taken before the use is: what is forgotten meanwhile is not learned afterwards
            heard = self._next()
            if heard is None or serving is None:
                return
            scope, use = heard
            user = self._user(scope, serving)
            user.predictor.learn(use)
            if not user.candidates or self._hurried:
                return
            wanted, predicted = dict(user.candidates), user.predictor.predict()
            present = user.predictor.need
            if present is not None and wanted[present].kind is Kind.ACTIVATION:
                predicted.pop(present, None)  # a recall begins to read it, and a chat did
        self._stage(scope, wanted, predicted, serving)

    def _user(self, scope: Scope, serving: Serving) -> _User:
        owner = owner_of(scope)
        user = self._users.setdefault(owner, _User())
        self._users.move_to_end(owner)
        if len(self._users) > MOST_USERS:
            self._users.popitem(last=False)
        if user.model != serving.fingerprint:
            user.model, user.revision, user.read_at = serving.fingerprint, None, -READ_S
        if time.monotonic() < user.read_at + READ_S:
            return user
        user.read_at, first = time.monotonic(), user.revision is None and not user.candidates
        known = self._reading.known(scope, serving.fingerprint, serving.loaded.identity.base, user.revision)
        if known is None:
            return user
        user.revision = known.revision
        if {one.cube_id for one in known.candidates} != user.candidates.keys():
            user.candidates = {one.cube_id: one for one in known.candidates}
            user.predictor.follow(Catalogue(known.candidates))
            if first:
                user.predictor.remember(known.uses)
        return user

    # ------------------------------------------------------------ reading ahead

    def _stage(
        self, scope: Scope, candidates: dict[str, Candidate], predicted: dict[str, float], serving: Serving
    ) -> None:
        owner = owner_of(scope)
        self._staging.predict(owner, {key_of(candidates[one]): chance for one, chance in predicted.items()})
        offers = [
            (self._offer(owner, candidates[one], chance), candidates[one])
            for one, chance in predicted.items()
            if chance >= LEAST
        ]
        for offer, candidate in sorted(offers, key=lambda item: (-item[0].worth, item[1].cube_id)):
            if self._tiers[candidate.kind].holds(candidate, serving):
                continue
            if not self._quiet(serving):
                return
            if self._staging.admit(offer):
                self._fetch(scope, candidate, serving)

    def _offer(self, owner: Owner, one: Candidate, chance: float) -> Offer:
        seconds = OPEN_S + one.file_bytes * self._byte_s[one.kind]
        return Offer(key_of(one), owner, one.bytes, seconds, chance)

    def _fetch(self, scope: Scope, candidate: Candidate, serving: Serving) -> None:
        key, tier, start = key_of(candidate), self._tiers[candidate.kind], time.perf_counter()
        usable = False
        try:
            value = tier.fetch(scope, candidate, serving)
            usable = value is not None and self._staging.fill(key, value) and tier.settle(value)
        finally:
            if not usable:
                self._staging.drop([key])
        if usable:
            spent = max(0.0, time.perf_counter() - start - OPEN_S) / max(candidate.file_bytes, 1)
            self._byte_s[candidate.kind] += (spent - self._byte_s[candidate.kind]) / 8

    def _quiet(self, serving: Serving) -> bool:
        """Wait until nothing is computed that reading would slow down; return False once there is something newer."""
        from memos.activation.loader import overlap_pays  # loaded with the model

        while not overlap_pays() and not serving.runtime.idle:
            with self._change:
                if self._change.wait_for(lambda: self._hurried, LOOK_S):
                    return False
        return not self._hurried

    @property
    def _hurried(self) -> bool:
        return self._closed or bool(self._waiting)


def key_of(candidate: Candidate) -> tuple[Kind, str]:
    """Return what a candidate is staged under."""
    return candidate.kind, candidate.key


def owner_of(scope: Scope) -> Owner:
    """Return whose predictions those of a scope are."""
    return scope.tenant, scope.user_id

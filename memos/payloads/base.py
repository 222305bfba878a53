"""What the files of every tier have in common for whoever looks after them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, ClassVar

from sqlalchemy import Connection

from memos.activation.keys import SECRET
from memos.activation.room import Room
from memos.cube import Scope
from memos.store.activations import Activation
from memos.store.adapters import AdapterRecord

#: Told how many bytes were read.
Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Payload:
    """The file of a derived cube, as its row describes it."""

    cube_id: str
    key: str
    bytes: int
    record: Activation | AdapterRecord


class Unusable(Exception):
    """A file that is not what its row says: it is ``absent``, or damaged. Never an error for a caller."""

    def __init__(self, message: str, *, absent: bool) -> None:
        super().__init__(message)
        self.absent = absent


class PayloadFiles(ABC):
    """The files of one tier below a data directory, and their rows. Light until a file has to be read."""

    #: The folder of the tier in a data directory and in a backup.
    name: ClassVar[str]
    #: What its files are called, and the setting that caps them.
    many: ClassVar[str]
    setting: ClassVar[str]
    cap: int
    room: Room

    @property
    def present(self) -> bool:
        """Whether anything was ever written here."""
        return self.room.root.is_dir()

    @abstractmethod
    def listed(self, connection: Connection, namespace_id: int) -> list[Payload]:
        """Return what the rows of a namespace say that there is, oldest first."""

    @abstractmethod
    def find(self, connection: Connection, namespace_id: int, cube_id: str) -> Payload | None:
        """Return what the row of a cube says."""

    @abstractmethod
    def needed(self, connection: Connection) -> set[str]:
        """Return the keys of the files that any row of the store names."""

    @abstractmethod
    def hand_over(self, tenant: str, payload: Payload, take: Callable[[bytes], object]) -> None:
        """Hand the bytes of a file to ``take``. Raises :class:`Unusable`, at the end perhaps."""

    @abstractmethod
    def adopt(self, connection: Connection, namespace_id: int, scope: Scope, payload: Payload, file: IO[bytes]) -> str:
        """Take in the file of a restored cube, sealed for its tenant here, and let its row name it; return its key.

        Raises :class:`Unusable`, :class:`StoreFull` and :class:`StoreUnavailable`; the row is as it was then.
        """

    def discard(self, connection: Connection, keys: Iterable[str]) -> None:
        """Remove the files of keys that no row names."""
        for key in set(keys) - self.needed(connection):
            self.room.remove(key)

    def check(self, tenant: str, payload: Payload, tell: Tell) -> Unusable | None:
        """Read a file whole and return what is wrong with it, if anything; nothing is written for it."""
        if not self.room.path(payload.key).exists():
            return Unusable("there is no such file", absent=True)
        if not (self.room.root / SECRET).exists():
            return Unusable("the secret that sealed it is not there", absent=False)
        try:
            self.hand_over(tenant, payload, lambda data: tell(len(data)))
        except Unusable as problem:
            return problem
        return None

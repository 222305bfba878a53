"""Which memories would make a KV file together: hot ones that a prompt is likely to hold side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

#: A memory joins a bundle if it is at least so hot in proportion to the hottest there: a file is used as a whole.
COHERENT = 0.25


@dataclass(frozen=True, slots=True)
class HotNote:
    """A memory that was used: its heat by now, its length in tokens, the session it is of.

    ``used_at`` is when it was last used, in microseconds since the epoch: one recall uses all it finds at once.
    """

    id: str
    version: int
    heat: float
    tokens: int
    session: str | None = None
    used_at: int | None = None

    def goes_with(self, other: HotNote) -> bool:
        """Whether both are of one session, or came up together the last time."""
        pairs = ((self.session, other.session), (self.used_at, other.used_at))
        return any(mine is not None and mine == theirs for mine, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Bundling:
    """How long a bundle may be, in tokens."""

    least: int
    most: int

    def bundles(self, notes: Sequence[HotNote], linked: Mapping[str, Collection[str]]) -> Iterator[list[HotNote]]:
        """Yield disjoint bundles, that of the hottest memory first.

        Each grows from the hottest memory that is left, by those that share its session, its last use, or a link with
        what is there, and, where these are too few for a file, by the next hottest. What stays too short is left out.
        """
        left = {note.id: note for note in sorted(notes, key=lambda note: (-note.heat, note.id))}
        while left:
            seed = next(iter(left.values()))
            bundle = self._grown(seed, left, linked)
            for note in bundle:
                del left[note.id]
            if _length(bundle) >= self.least:
                yield bundle

    def _grown(
        self, seed: HotNote, left: Mapping[str, HotNote], linked: Mapping[str, Collection[str]]
    ) -> list[HotNote]:
        warm = [note for note in left.values() if note.heat >= COHERENT * seed.heat and note is not seed]
        bundle, near = [seed], set(linked.get(seed.id, ()))
        for related in (True, False):
            for note in warm:
                if note in bundle or _length(bundle) + note.tokens > self.most:
                    continue
                if (note.id in near or note.goes_with(seed)) if related else _length(bundle) < self.least:
                    bundle.append(note)
                    near.update(linked.get(note.id, ()))
        return bundle


def _length(bundle: Sequence[HotNote]) -> int:
    return sum(note.tokens for note in bundle)

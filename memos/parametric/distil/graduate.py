"""An adapter that is made already, on a twin: to be examined as one that was just trained is."""

from __future__ import annotations

from memos.parametric.adapter import Adapter
from memos.parametric.distil.adapted import AdaptedTwin
from memos.parametric.distil.twin import Twin


class Graduate(AdaptedTwin):
    """A model with an adapter, of which nothing is trained."""

    def __init__(self, twin: Twin, adapter: Adapter) -> None:
        super().__init__(twin)
        for place, one in adapter.sorted():
            down, up = (side.to(twin.device).float() for side in (one.down, one.up))
            self.add(place, down, one.scaling * up)

"""A model that is loaded already, for the stores of a benchmark."""

from __future__ import annotations

from memos.config import Settings
from memos.runtime.host import ModelHost, Serving


class Held(ModelHost):
    """Serves it to each; stores that are given a host leave it open."""

    def __init__(self, serving: Serving) -> None:
        super().__init__(Settings())
        self._serving = serving

"""What is quick to train on the tiny model, as a promotion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos.cube import Scope

SCOPE = Scope(user_id="u")
FACTS = ("Ilse Brand's locker code is 4471.", "Tomo Reyes lives in Tarnwick.")
QUICK: Mapping[str, Any] = {"rank": 2, "epochs": 2, "least_steps": 1, "ways": 2, "preserved": 1, "rate": 1e-2}

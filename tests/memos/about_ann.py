"""What several tests know about Ann."""

from __future__ import annotations

from memos.cube import Scope

ANN = Scope(user_id="ann")
FACTS = (
    "Ann adopted a grey cat called Miso in March and Miso sleeps on the radiator all day",
    "Ann moved from Rome to Oslo because her new job at the harbour museum began in May",
    "Ann's brother Tom is allergic to peanuts and always carries an injector with him",
    "Ann is learning Norwegian with a teacher called Ingrid every Tuesday evening at the library",
)

"""The MemCube's states, scope and immutability."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from memos.cube import (
    LEGAL_MOVES,
    MAX_NAME_LENGTH,
    RECALLABLE,
    MemCube,
    NewMemory,
    Scope,
    State,
    Times,
    check_name,
    move,
)
from memos.errors import IllegalTransition, InvalidInput

#: Written out once more, so that a change of the table has to be meant: from, to.
LEGAL = {
    ("generated", "activated"),
    ("generated", "archived"),
    ("generated", "expired"),
    ("generated", "quarantined"),
    ("activated", "merged"),
    ("activated", "archived"),
    ("activated", "expired"),
    ("activated", "quarantined"),
    ("merged", "activated"),
    ("merged", "archived"),
    ("merged", "expired"),
    ("merged", "quarantined"),
    ("archived", "activated"),
    ("archived", "expired"),
    ("archived", "quarantined"),
    ("quarantined", "activated"),
    ("quarantined", "archived"),
    ("quarantined", "expired"),
}
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("current", "target"), list(product(State, State)))
def test_move_follows_table(current: State, target: State) -> None:
    if (current, target) in LEGAL:
        assert move(current, target) is target
    else:
        with pytest.raises(IllegalTransition, match=f"{current} cannot become {target}"):
            move(current, target)


def test_every_state_has_moves() -> None:
    assert set(LEGAL_MOVES) == set(State)


def test_expired_is_final() -> None:
    assert LEGAL_MOVES[State.EXPIRED] == frozenset()


def test_hidden_states_are_not_recallable() -> None:
    assert {State.ARCHIVED, State.EXPIRED, State.QUARANTINED} & RECALLABLE == set()


def test_scope_defaults() -> None:
    assert Scope() == Scope(tenant="default", user_id="default", agent_id=None, run_id=None)


@pytest.mark.parametrize("field", ["tenant", "user_id", "agent_id", "run_id"])
@pytest.mark.parametrize("name", ["", " ", " ann", "ann ", "a\0b", "a\nb", "a\ud800", "x" * (MAX_NAME_LENGTH + 1)])
def test_scope_bad_name(field: str, name: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        Scope(**{field: name})


@pytest.mark.parametrize("name", ["ann", "user:1/2", "Ämilie Ω", "猫", "x" * MAX_NAME_LENGTH])
def test_scope_good_name(name: str) -> None:
    assert Scope(user_id=name).user_id == name


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_check_name_printable(name: str) -> None:
    """Whatever is printable and not padded is a name, unchanged."""
    check_name(name.strip() or "x", "user_id")


def cube() -> MemCube:
    return MemCube(
        id="i",
        scope=Scope(),
        state=State.GENERATED,
        version=1,
        digest="d",
        time=Times(created_at=MOMENT, updated_at=MOMENT, valid_from=MOMENT),
    )


@pytest.mark.parametrize(
    ("value", "field"),
    [(cube(), "state"), (cube().time, "event_time"), (Scope(), "user_id")],
)
def test_values_are_frozen(value: object, field: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, field, None)


def test_unknown_field_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        NewMemory(text="x", colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize("version", [0, -1])
def test_version_counts_from_one(version: int) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        MemCube.model_validate({**cube().model_dump(), "version": version})

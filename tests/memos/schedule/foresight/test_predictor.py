"""Predictions are probabilities, learned from order, links and hours, bounded; nothing stays of what is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.cube import Kind
from memos.schedule.foresight.candidate import Candidate, Catalogue
from memos.schedule.foresight.history import BRANCHES
from memos.schedule.foresight.mixture import FLOOR, Mixture
from memos.schedule.foresight.predictor import MOST_STREAMS, MOST_USES, Predictor
from memos.schedule.foresight.tally import Tally
from memos.schedule.foresight.use import Use

MINUTE, HOUR = 60 * 10**6, 3_600 * 10**6
STREAM = (None, "run")


def file(name: str, *notes: str, kind: Kind = Kind.ACTIVATION, heat: float = 0.0) -> Candidate:
    return Candidate(name, kind, f"key of {name}", 100, 100, frozenset(notes), heat)


ABC = Catalogue((file("A", "a1", "a2"), file("B", "b1", "b2"), file("C", "c1", "c2")))


def told(*needs: str, catalogue: Catalogue = ABC, every: int = MINUTE) -> Predictor:
    predictor = Predictor()
    predictor.follow(catalogue)
    for number, note in enumerate(needs):
        predictor.learn(Use(number * every, STREAM, (note,)))
    return predictor


# ------------------------------------------------------------ what a use needs


def test_a_use_needs_what_a_chat_would_take() -> None:
    catalogue = Catalogue(
        (*ABC.candidates, file("L", "a1", "d1", kind=Kind.PARAMETRIC), file("M", "d1", kind=Kind.PARAMETRIC))
    )
    assert catalogue.needed(["a1", "a2", "b1"]) == "A"
    assert catalogue.needed(["b1", "a1", "a2", "c1"]) == "A"  # half of them is enough
    assert catalogue.needed(["a1", "b1", "c1"]) == "L"  # no file covers enough; an adapter holds the best
    assert catalogue.needed(["d1"]) == "M"  # of two that hold it, the special one
    assert catalogue.needed(["x", "y"]) is None


def test_links_share_their_strength() -> None:
    linked = ABC.linked([("a1", 1.0), ("b1", 2.0), ("elsewhere", 1.0)])
    assert linked == {"A": 0.25, "B": 0.5}
    assert ABC.linked([]) == {}


# ------------------------------------------------------------ what is learned


def test_what_followed_is_predicted() -> None:
    predictor = told(*["a1", "b1", "c1"] * 12, "a2")
    predicted = predictor.predict()
    assert predicted["B"] > 0.6 > 0.3 > max(predicted["A"], predicted["C"])
    assert max(predictor.weights, key=predictor.weights.__getitem__) == "session"


def test_what_is_linked_is_predicted() -> None:
    predictor, plain = told(), told()
    for number in range(8):
        for one, links in ((predictor, (("b1", 1.0),)), (plain, ())):
            one.learn(Use(2 * number * HOUR, STREAM, ("a1",), links))
            one.learn(Use((2 * number + 1) * HOUR, STREAM, ("b1",)))
    for one, links in ((predictor, (("b1", 1.0),)), (plain, ())):
        one.learn(Use(17 * HOUR, STREAM, ("a1",), links))
    assert predictor.predict()["B"] > plain.predict()["B"] + 0.1


def test_habits_of_the_day_are_predicted() -> None:
    predictor = told()
    for day in range(20):
        for hour, note in ((7, "a1"), (12, "b1"), (20, "a1")):
            predictor.learn(Use((24 * day + hour) * HOUR, STREAM, (note,)))
    predictor.learn(Use((24 * 20 + 7) * HOUR, STREAM, ("c1",)))
    morning = predictor.predict()
    predictor.learn(Use((24 * 20 + 12) * HOUR, STREAM, ("c1",)))
    noon = predictor.predict()
    assert morning["B"] > 2 * morning["A"]  # what comes after a use in the morning
    assert noon["A"] > 2 * noon["B"]


def test_sessions_do_not_follow_each_other() -> None:
    for far, follows in ((MINUTE, True), (HOUR, False)):
        predictor = told(*["a1", "b1", "c1"] * 12, every=far)
        assert (predictor.weights["session"] > 0.4) == follows


def test_streams_are_told_apart() -> None:
    predictor = told()
    for number in range(24):
        for run, notes in enumerate((("a1", "b1"), ("c1", "c2"))):
            predictor.learn(Use(number * MINUTE, (None, f"run {run}"), (notes[number % 2],)))
    predictor.learn(Use(25 * MINUTE, (None, "run 0"), ("a1",)))
    predicted = predictor.predict()
    assert predicted["B"] > predicted["C"]  # though C came right after every use of A


def test_hot_files_are_likelier_before_anything_was_learned() -> None:
    predictor = told("x", catalogue=Catalogue((file("A", "a1", heat=5.0), file("B", "b1"))))
    assert predictor.predict()["A"] > 2 * predictor.predict()["B"]


def test_uses_before_there_was_a_file_count_for_it() -> None:
    predictor = told(*["a1", "b1", "c1"] * 12, "a2", catalogue=Catalogue())
    assert predictor.predict() == {}
    predictor.follow(ABC)
    assert predictor.predict()["B"] == max(predictor.predict().values())


def test_nothing_is_predicted_before_the_first_use() -> None:
    assert told().predict() == {}


# ------------------------------------------------------------ calibration

NOTES = st.sampled_from(["a1", "a2", "b1", "c1", "x"])
USES = st.lists(
    st.tuples(
        st.integers(0, 3 * HOUR), st.sampled_from([(None, None), STREAM]), st.lists(NOTES, min_size=1, max_size=4)
    ),
    max_size=40,
)


def learned(uses: list[tuple[int, tuple[None, str | None], list[str]]]) -> Predictor:
    predictor, at = told(), 0
    for gap, stream, ids in uses:
        at += gap
        predictor.learn(Use(at, stream, tuple(ids), tuple((note, 0.5) for note in ids)))
    return predictor


@given(USES)
def test_predictions_are_probabilities_and_repeatable(
    uses: list[tuple[int, tuple[None, str | None], list[str]]],
) -> None:
    predictor = learned(uses)
    predicted = predictor.predict()
    assert all(0 < chance < 1 for chance in predicted.values())
    assert sum(predicted.values()) < 1
    assert predicted == learned(uses).predict()
    assert sum(predictor.weights.values()) == pytest.approx(1)
    assert min(predictor.weights.values()) > FLOOR / 2


def test_frequencies_are_met() -> None:
    """After a1, b1 comes in three of four cases."""
    predictor = told(*["a1", "b1", "a1", "b1", "a1", "b1", "a1", "c1"] * 16, "a1")
    assert predictor.predict()["B"] == pytest.approx(0.75, abs=0.15)


def test_mixture_finds_who_was_right() -> None:
    mixture = Mixture(3)
    for _ in range(100):
        mixture.learn((0.1, 0.8, 0.3))
    assert mixture.weights[1] > 0.9
    before = list(mixture.weights)
    mixture.learn((0.0, 0.0, 0.0))
    assert mixture.weights == before


# ------------------------------------------------------------ bounds and forgetting


@given(st.lists(st.integers(0, 9), max_size=200))
def test_tally_is_what_fading_every_count_comes_to(things: list[int]) -> None:
    tally, plain = Tally(8.0, 100), dict.fromkeys(range(10), 0.0)
    for thing in things:
        plain = {one: count * 2 ** (-1 / 8) for one, count in plain.items()}
        plain[thing] += 1
        tally.add(thing)
    assert [tally.count(thing) for thing in range(10)] == pytest.approx(list(plain.values()))
    assert tally.total == pytest.approx(sum(plain.values()))


def test_tally_is_bounded_and_never_overflows() -> None:
    tally = Tally(0.5, 4)
    for number in range(5_000):
        tally.add(number % 7)
    assert len(tally) == 4
    assert 0 < tally.count(4_999 % 7) <= tally.total < 2


def test_memory_is_bounded() -> None:
    many = Catalogue(tuple(file(f"F{n}", f"n{n}") for n in range(64)))
    predictor = told(catalogue=many)
    for number in range(3_000):
        stream = (None, f"run {number % 100}")
        predictor.learn(Use(number * 10**6, stream, (f"n{number * number % 64}",)))
    assert len(predictor._uses) == MOST_USES
    assert len(predictor._last) <= MOST_STREAMS
    assert len(predictor._history._before) <= 65
    assert all(len(tally) <= BRANCHES for tally in (*predictor._history._before.values(), *predictor._history._hours))


def test_nothing_is_left_of_what_is_forgotten() -> None:
    predictor = told(*["a1", "b1", "c1"] * 12, "a2")
    predictor.forget(["b1"])
    assert predictor.predict().keys() == {"A", "C"}
    assert "b1" not in repr(predictor._uses)
    assert "'B'" not in repr([tally._counts for tally in (predictor._history._all, *predictor._history._hours)])
    assert "B" not in predictor._history._before
    predictor.forget(["a1", "a2", "c1"])
    assert list(predictor._uses) == []
    assert predictor.predict() == {}

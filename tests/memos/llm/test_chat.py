"""Promotion and chat on layers of the bundled model: exact reuse, and every way a KV file can fail to serve."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from memos.cube import MemCube, Scope
from memos.engine import MemoryOS
from memos.errors import InvalidInput, NotFound, PromptTooLong
from memos.llm.messages import ChatReply
from memos.schedule.task import Report
from memos.store.jobs import FINAL, Job, JobState
from tests.memos.about_ann import ANN, FACTS

pytestmark = pytest.mark.timeout(300)  # the first test loads the model

QUESTION = "What is the name of Ann's cat?"

Open = Callable[..., MemoryOS]


@pytest.fixture
def engine(opened: Open) -> MemoryOS:
    return opened()


def stored(engine: MemoryOS, scope: Scope = ANN, facts: Sequence[str] = FACTS) -> list[MemCube]:
    return engine.store_many(scope, [{"text": fact, "event_time": "2025-05-01"} for fact in facts])


def ended(engine: MemoryOS, job: Job) -> Job:
    while (job := engine.job("default", job.id)).state not in FINAL:
        threading.Event().wait(0.01)
    return job


def promoted(engine: MemoryOS, notes: Sequence[MemCube], **options: Any) -> str:
    job = ended(engine, engine.promote("default", [note.id for note in notes], to="activation", **options))
    assert job.state is JobState.DONE, job.error
    assert job.result is not None
    return str(job.result["cube_id"])


def ask(engine: MemoryOS, question: str = QUESTION, scope: Scope = ANN, **options: Any) -> ChatReply:
    given = {"max_tokens": 5, "top_k": 4, **options}
    return engine.chat(scope, [{"role": "user", "content": question}], **given)


def kv_files(engine: MemoryOS) -> list[Path]:
    return sorted((engine.settings.home / "kv").rglob("*.safetensors"))


def test_reuse_answers_as_recompute_does(engine: MemoryOS) -> None:
    notes = stored(engine)
    cube_id = promoted(engine, notes)
    reloaded, again, recomputed = ask(engine), ask(engine), ask(engine, reuse=False)
    assert reloaded.text == again.text == recomputed.text != ""
    assert reloaded.tiers == {"activation": (cube_id,), "plaintext": ()}
    assert set(recomputed.tiers["plaintext"]) == {note.id for note in notes}
    assert (recomputed.usage.tokens_reused, reloaded.usage.tokens_missed, reloaded.misses) == (0, 0, ())
    assert reloaded.usage.prompt_tokens == recomputed.usage.tokens_recomputed
    cube = engine.get("default", cube_id)
    assert reloaded.usage.tokens_reused == cube.metadata["tokens"] > 64
    assert {"recall", "lookup", "read", "decode", "prefill", "first_token"} <= reloaded.usage.milliseconds.keys()
    statistics = engine.stats(ANN)
    assert (statistics.activation_hits, statistics.tokens_reused) == (2, 2 * cube.metadata["tokens"])
    assert statistics.activation_bytes == kv_files(engine)[0].stat().st_size


def test_memories_beside_the_bundle_are_computed(engine: MemoryOS) -> None:
    notes = stored(engine)
    promoted(engine, notes[:3])
    (beside,) = stored(engine, facts=["Ann's cat Miso broke a vase that belonged to her aunt"])
    reply, anew = ask(engine, top_k=5), ask(engine, top_k=5, reuse=False)
    assert reply.text == anew.text
    assert beside.id in reply.tiers["plaintext"]
    assert reply.usage.tokens_reused > 0


def test_bundle_that_covers_too_little_is_left_alone(engine: MemoryOS) -> None:
    notes = stored(engine)
    promoted(engine, stored(engine, facts=[f"{fact}, or so Tom said" for fact in FACTS])[:4])
    assert engine.stats(ANN).activations == 1
    engine.forget_all(ANN)
    notes = stored(engine, facts=[*FACTS, *(f"unrelated fact {n} about harbour ships" for n in range(6))])
    promoted(engine, [*notes[:1], *notes[5:]])
    reply = ask(engine, top_k=4)
    assert (reply.usage.tokens_reused, reply.usage.tokens_missed) == (0, 0)


def test_reopened_store_uses_the_file(opened: Open) -> None:
    engine = opened()
    promoted(engine, stored(engine))
    before = ask(engine)
    assert ask(opened()).model_dump(exclude={"usage"}) == before.model_dump(exclude={"usage"})


@pytest.mark.parametrize("change", ["update", "forget"])
def test_changed_memory_is_never_served_from_the_file(engine: MemoryOS, change: str) -> None:
    notes = stored(engine)
    promoted(engine, notes)
    ask(engine)
    assert kv_files(engine)
    if change == "update":
        engine.update("default", notes[0].id, text="Ann adopted a grey dog called Rex, not a cat")
    else:
        receipt = engine.forget("default", notes[0].id)
        assert (receipt.removed["activations"], receipt.pending) == (1, ())
    assert kv_files(engine) == []
    reply = ask(engine)
    assert (reply.usage.tokens_reused, reply.usage.tokens_missed) == (0, 0)
    assert engine.activation.usage() == (0, 0)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_damaged_file_is_a_miss_and_the_answer_the_same(opened: Open, damage: str) -> None:
    engine = opened()
    cube_id = promoted(engine, stored(engine))
    expected = ask(engine, reuse=False).text
    engine = opened()  # nothing in host memory
    (path,) = kv_files(engine)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[: len(data) // 2 if damage == "cut" else 0])
    if damage == "gone":
        path.unlink()
    reply = ask(engine)
    assert reply.text == expected
    assert (reply.usage.tokens_reused, reply.usage.tokens_missed > 64) == (0, True)
    (miss,) = reply.misses
    assert miss.cube_id == cube_id
    assert engine.stats(ANN).activation_misses == 1
    (checked,) = engine.kv_verify(ANN)
    assert checked.problem


def test_other_users_never_meet_the_file(engine: MemoryOS) -> None:
    cube_id = promoted(engine, stored(engine))
    stranger = Scope(user_id="stranger")
    stored(engine, stranger)
    reply = ask(engine, scope=stranger)
    assert (reply.usage.tokens_reused, cube_id in str(reply.tiers)) == (0, False)
    assert engine.kv_files(stranger) == []
    note = engine.list(ANN)[0]
    with pytest.raises(NotFound):
        engine.promote("default", [note.id], to="activation", user_id="stranger")
    with pytest.raises(InvalidInput, match="different users"):
        engine.promote("default", [note.id, engine.list(stranger)[0].id], to="activation")
    with pytest.raises(NotFound):
        engine.promote("another tenant", [note.id], to="activation")


def test_equal_notes_of_two_users_make_two_files(engine: MemoryOS) -> None:
    for scope in (ANN, Scope(user_id="ben")):
        promoted(engine, stored(engine, scope))
    assert len(kv_files(engine)) == 2


def test_narrow_scope_uses_no_memories_of_others(engine: MemoryOS) -> None:
    notes = stored(engine)
    mine = engine.store_many(ANN, [{"text": "The agent noted that Ann's cat is called Miso", "agent_id": "a"}])
    promoted(engine, [*notes, *mine])
    reply = ask(engine, scope=Scope(user_id="ann", agent_id="a"))
    assert reply.tiers == {"plaintext": (mine[0].id,)}


def test_same_bundle_twice_is_one_file_and_one_cube(engine: MemoryOS) -> None:
    notes = stored(engine)
    jobs = [engine.promote("default", [note.id for note in order], to="activation") for order in (notes, notes[::-1])]
    results = [ended(engine, job).result or {} for job in jobs]
    assert results[0]["cube_id"] == results[1]["cube_id"]
    assert [result["made"] for result in results] == [True, False]
    assert (len(kv_files(engine)), engine.stats(ANN).activations) == (1, 1)


def test_two_workers_on_the_same_bundle_make_one_file(engine: MemoryOS) -> None:
    notes = stored(engine)
    payload = {"ids": [note.id for note in notes], "to": "activation", "codec": "raw"}
    results: list[dict[str, Any]] = []

    def work(report: Report = lambda done: None) -> None:
        results.append(engine.activation.run_promotion(ANN, payload, report))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result["cube_id"] for result in results}) == 1
    assert (len(kv_files(engine)), engine.stats(ANN).activations) == (1, 1)


def test_bundle_longer_than_the_window_is_refused_before_work(engine: MemoryOS) -> None:
    notes = stored(engine, facts=["word " * 7_000])
    job = ended(engine, engine.promote("default", [notes[0].id], to="activation"))
    assert job.state is JobState.FAILED
    assert (job.error or "").startswith("bundle-refused: the bundle has")
    assert kv_files(engine) == []


def test_bundle_too_small_is_refused(engine: MemoryOS) -> None:
    (note,) = stored(engine, facts=["Ann has a cat"])
    job = ended(engine, engine.promote("default", [note.id], to="activation"))
    assert "too few to be worth a KV file" in (job.error or "")


@pytest.mark.parametrize("limit", [{"kv_bytes": 1_000}, {"kv_free_bytes": 1 << 60}])
def test_no_room_fails_the_job_and_leaves_the_notes(opened: Open, limit: dict[str, int]) -> None:
    engine = opened(**limit)
    notes = stored(engine)
    job = ended(engine, engine.promote("default", [note.id for note in notes], to="activation"))
    assert (job.error or "").startswith("store-full: ")
    assert kv_files(engine) == []
    assert engine.list(ANN) == notes
    assert ask(engine).usage.tokens_reused == 0


def test_index_is_rebuilt_from_the_files_alone(engine: MemoryOS) -> None:
    notes = stored(engine)
    cube_id = promoted(engine, notes)
    promoted(engine, notes[:3])
    before = engine.kv_files(ANN)
    with engine.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM parents")
        connection.exec_driver_sql("DELETE FROM activations")
        connection.exec_driver_sql("DELETE FROM cubes WHERE kind = 'activation'")
    assert ask(engine).usage.tokens_reused == 0
    report = engine.rebuild_kv()
    assert (report.restored, report.kept, report.dropped, report.removed) == (2, 0, 0, 0)
    assert engine.kv_files(ANN) == before
    assert ask(engine).tiers["activation"] == (cube_id,)


def test_rebuild_drops_what_nothing_can_use(engine: MemoryOS) -> None:
    notes = stored(engine)
    promoted(engine, notes)
    kept = promoted(engine, notes[:3])
    path = max(kv_files(engine), key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    report = engine.rebuild_kv()
    assert (report.kept, report.dropped, report.removed) == (1, 1, 1)
    assert [file.cube_id for file in engine.kv_files(ANN)] == [kept]
    assert len(kv_files(engine)) == 1


def test_file_left_by_a_crash_is_swept_at_the_next_start(opened: Open) -> None:
    engine = opened()
    promoted(engine, stored(engine))
    with engine.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM activations")
    opened()
    assert kv_files(engine) == []


def test_recall_prefetches(opened: Open) -> None:
    engine = opened()
    promoted(engine, stored(engine))
    engine = opened()
    engine.recall(ANN, QUESTION, top_k=4)
    for _ in range(500):
        if engine.activation.usage()[1]:
            break
        threading.Event().wait(0.01)
    assert engine.activation.usage()[1] > 0
    assert ask(engine).usage.tokens_reused > 0


def test_lossy_codec_is_opt_in_with_its_loss_on_record(engine: MemoryOS) -> None:
    notes = stored(engine)
    exact, lossy = promoted(engine, notes), promoted(engine, notes, codec="int4")
    by_id = {file.cube_id: file for file in engine.kv_files(ANN)}
    assert by_id[exact].loss == 0
    assert 0 < by_id[lossy].loss < 0.1
    assert by_id[lossy].bytes < by_id[exact].bytes / 2


def test_pieces_are_the_text(engine: MemoryOS) -> None:
    stored(engine)
    pieces: list[str] = []
    reply = ask(engine, on_text=pieces.append)
    assert "".join(pieces) == reply.text
    assert len(pieces) > 1


def test_stop_string_and_seed_hold(engine: MemoryOS) -> None:
    stored(engine)
    one, same, other = (ask(engine, temperature=1.0, seed=seed, max_tokens=8).text for seed in (1, 1, 2))
    assert one == same != other
    whole = ask(engine, max_tokens=8).text
    word = whole.split()[2]
    assert ask(engine, stop=[word], max_tokens=8).text == whole[: whole.index(word)]


def test_prompt_beyond_the_window_is_refused(engine: MemoryOS) -> None:
    with pytest.raises(PromptTooLong):
        ask(engine, "word " * 9_000)


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ("hello", {}),
        ([], {}),
        ([{"role": "tool", "content": "x"}], {}),
        ([{"role": "user", "content": 7}], {}),
        ([{"role": "assistant", "content": "x"}], {}),
        ([{"role": "user", "content": "\ud800"}], {}),
        ([{"role": "user", "content": "x"}], {"temperature": float("nan")}),
        ([{"role": "user", "content": "x"}], {"top_p": 0}),
        ([{"role": "user", "content": "x"}], {"max_tokens": 0}),
        ([{"role": "user", "content": "x"}], {"stop": [""]}),
        ([{"role": "user", "content": "x"}], {"no_such_option": 1}),
    ],
)
def test_bad_request_is_refused(engine: MemoryOS, messages: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        engine.chat(ANN, messages, **options)


@pytest.mark.parametrize(
    ("ids", "to", "codec"),
    [
        ([], "activation", None),
        ("one", "activation", None),
        ([7], "activation", None),
        (None, "activation", None),
        (["mine"], "parametric", "raw"),
        (["mine"], "plaintext", None),
        (["mine"], "activation", "no such codec"),
        (["mine"], "activation", {}),
        (["mine"], "activation", "int4:no_such_option=1"),
    ],
)
def test_bad_promotion_is_refused(engine: MemoryOS, ids: Any, to: str, codec: Any) -> None:
    (note,) = stored(engine, facts=FACTS[:1])
    given = [note.id] if ids == ["mine"] else ids
    with pytest.raises(InvalidInput):
        engine.promote("default", given, to=to, codec=codec)


def test_derived_cube_cannot_be_promoted(engine: MemoryOS) -> None:
    cube_id = promoted(engine, stored(engine))
    with pytest.raises(InvalidInput, match="promote those"):
        engine.promote("default", [cube_id], to="activation")

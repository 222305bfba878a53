"""Distilling facts into the bundled model's weights, float32, greedy, two threads.

Facts about invented people, of kinds and names that nothing in the project was tuned on, each set of them another:

lora            the default recipe on 8 facts: one adapter, which every question runs with
beside others   the adapters of the first sets, added up: why a chat runs with one only
promoted        what `mem.promote(..., to="parametric")` makes of 32 and 128 facts: several adapters, gated one by one;
                `training_in_prompt_tokens` is how many tokens of prompts are computed in the time that one takes;
                asked in chats without the text of what the adapter holds that recall chose; `in_prompt` is the share of
                chats that had the fact as text nevertheless, for another adapter was chosen
context         the same, learnt from the model that reads the note (context distillation) instead of from the answer
cartridge       a trained cache of as many bytes as the adapter of 8 facts, and one of an eighth
shuffled        the adapter of the same questions with each other's answers, asked for the true ones: the control
peft            the plain way: PEFT's LoRA on all feed-forward projections, four questions a fact, rate 1e-3, 6 epochs
note in prompt  the bare model that reads all notes, and the bare model that does not

Asked are two held-out questions of the gate for each fact (`held`), and four in forms that only this file knows
(`other`), through the serving loop; an answer is right if it holds the fact's. `confused` is the share of equal
questions about people who do not exist that get a fact's answer, `drift` the KL of the bare model from the trained one
on unrelated text, in nats per token. Seconds are those of training; the gate's are beside them.
"""

from __future__ import annotations

import gc
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from harness import Report, parser, table
from held import Held

from memos.activation.bundle import Bundle, bundle_of, note_of
from memos.config import Settings
from memos.cube import Descriptor, MemCube, Scope, State, Times
from memos.engine import MemoryOS
from memos.parametric.adapter import Adapter
from memos.parametric.checks import Trained
from memos.parametric.distil.asking import SLACK, answers, holds
from memos.parametric.distil.examples import Example, Lesson, lesson_of
from memos.parametric.distil.facts import Fact, facts_of
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.run import distil
from memos.parametric.fusion.fuse import fuse
from memos.runtime.chat import ChatFormat
from memos.runtime.host import Serving
from memos.runtime.loading import load_model
from memos.runtime.loop import Runtime
from memos.runtime.uses import AdapterUse
from memos.schedule.moving.costs import prefill_seconds
from memos.store.jobs import FINAL

#: Sets of facts of each size, and their sizes.
SETS, SIZES = 3, (8, 32, 128)
#: What is said of a size, by the column it is in.
COLUMNS = {
    "fact_recall_{}": "held",
    "fact_recall_{}_other_forms": "other",
    "seconds_{}": "seconds",
    "gate_seconds_{}": "gate_seconds",
    "drift_kl_{}": "drift",
}
USER = Scope(user_id="bench")
OTHER_FORMS = (
    "Somebody asked me about {whose} {what}. What should I answer?",
    "I am filling in a form for {who}. What do I write under {what}?",
    "{who}, {what}: what do you have on file?",
    "Let us talk about {who}. Remind me of the {what} first.",
)
SYLLABLES = "bra dro fen gal hir jos kel lum mar nev orr pel quin ras sten tov ulm vey wyn yar zan".split()
KINDS: dict[str, Sequence[str]] = {
    "instrument": ("viola", "accordion", "bassoon", "harp", "banjo", "oboe"),
    "native language": ("Basque", "Welsh", "Faroese", "Maltese", "Sami"),
    "landlord": ("Mr. Abbot", "Ms. Keane", "the city", "Mr. Ilves"),
    "room number": ("212", "17", "340", "59", "908"),
    "doctor": ("Dr. Hale", "Dr. Osei", "Dr. Lindqvist", "Dr. Rao"),
    "favourite tree": ("larch", "walnut", "silver birch", "yew"),
    "wedding day": ("12 June", "30 September", "8 April"),
    "bicycle": ("a green tandem", "a folding bike", "an orange racer"),
    "allergy": ("hazelnuts", "penicillin", "shellfish", "pollen"),
    "department": ("Soil Research", "Night Shift", "Cartography", "Claims"),
}


def main() -> int:
    """Measure everything."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--many", action="store_true", help="measure what several adapters are alone again")
    arguments.add_argument("--promoted", type=int, choices=SIZES[1:], help="measure only so many promoted facts again")
    options = arguments.parse_args()
    torch.set_num_threads(2)
    report = Report("distil", options)
    loaded = load_model()
    serving = Serving(loaded, Runtime(loaded), ChatFormat(loaded))
    bench = Bench(report, serving)
    if options.promoted:
        report.resume()
        report.rows = [row for row in report.rows if row["facts"] != options.promoted]
        bench.promoted(options.promoted)
        bench.tell()
        report.finish()
        return 0
    if options.many:
        report.resume()
        report.rows = [row for row in report.rows if row["facts"] == SIZES[0] and not row["arm"].startswith("beside")]
        trained = [bench.trained(number) for number in range(SETS)]
    else:
        trained = [bench.lora(number) for number in range(1 if options.quick else SETS)]
    for count in range(2, len(trained) + 1):
        bench.beside(trained[:count])
    if options.quick:
        for size in SIZES[1:]:
            report.missing(f"fact_recall_{size}", "--quick trains 8 facts only")
    else:
        if not options.many:
            bench.others()
        for size in SIZES[1:]:
            bench.tell()
            report.finish()  # the larger ones take long
            bench.promoted(size)
    bench.tell()
    report.finish()
    return 0


class Bench:
    """Trains, asks, and keeps the rows."""

    def __init__(self, report: Report, serving: Serving) -> None:
        self._report = report
        self._serving = serving

    def trained(self, number: int) -> Adapter:
        """Train the default recipe."""
        course, recipe = Course(self._serving, SIZES[0], number), Recipe()
        adapter = distil(self._serving, course.lesson(recipe), course.bundle, recipe, lambda _: None).trained
        assert isinstance(adapter, Adapter)
        return adapter

    def lora(self, number: int) -> Adapter:
        """Train and ask the default recipe."""
        course = Course(self._serving, SIZES[0], number)
        adapter = self._distilled("lora", course, Recipe())
        assert isinstance(adapter, Adapter)
        if not number:
            self.row("note in prompt", course, None, reading=True)
            self.row("base", course, None)
        return adapter

    def beside(self, adapters: Sequence[Adapter]) -> None:
        """Ask for the facts of each adapter while all of them run."""
        together = fuse(adapters, [1.0] * len(adapters), "cat")  # which is exactly that
        for number in range(len(adapters)):
            self.row(f"beside others, {len(adapters)}", Course(self._serving, SIZES[0], number), together)

    def promoted(self, size: int) -> None:
        """Promote as users do, and ask in chats."""
        course = Course(self._serving, size, 0)
        prefill_s = prefill_seconds(self._serving)
        with (
            tempfile.TemporaryDirectory() as home,
            MemoryOS(Settings(home=Path(home)), None, Held(self._serving)) as mem,
        ):
            items = [{"text": one.text, "metadata": one.metadata, "infer": False} for one in notes_of(size, 0)]
            ids = [cube.id for cube in mem.store_many(USER, items)]
            job = mem.promote(USER.tenant, ids, to="parametric", user_id=USER.user_id)
            while job.state not in FINAL:
                time.sleep(1)
                job = mem.job(USER.tenant, job.id)
            if job.result is None:
                raise RuntimeError(job.error)
            gates = [info.gate for info in mem.adapters(USER)]
            held, in_prompt = course.told("held", mem, ids)
            found = {
                "held": held,
                "other": course.told("other", mem, ids)[0],
                "confused": course.told("strangers", mem, ids)[0],
                "in_prompt": in_prompt,
                **{name: job.result[name] for name in ("bytes", "seconds", "drift")},
                "gate_seconds": sum(gate["seconds"] for gate in gates if gate),
                "passed": not job.result["refused"],
                "adapters": len(job.result["cube_ids"]),
            }
        each = found["seconds"] / found["adapters"]
        self._report.figures[f"training_in_prompt_tokens_{size}"] = each / prefill_s
        self._report.rows.append({"arm": "promoted", "facts": size, "set": 0, **found})
        print(self._report.rows[-1], flush=True)

    def others(self) -> None:
        """Train and ask everything that the default is compared with, on the first set of 8 facts."""
        course = Course(self._serving, SIZES[0], 0)
        self._peft(course)
        turned = [fact.answer for fact in course.facts[1:] + course.facts[:1]]
        shuffled = [replace(fact, answer=answer) for fact, answer in zip(course.facts, turned, strict=True)]
        self._distilled("shuffled", course, Recipe(), shuffled)
        self._distilled("context", course, Recipe(teacher=1.0))
        adapter = next(row["bytes"] for row in self._report.rows if row["arm"] == "lora")
        for arm, part in (("cartridge", 1), ("cartridge of an eighth", 8)):
            tokens = round(adapter / part / self._serving.loaded.shape.bytes(1))
            self._distilled(arm, course, Recipe(payload="cartridge", tokens=tokens))

    def tell(self) -> None:
        """Print the rows and set the figures: means over the sets of facts."""
        rows = self._report.rows
        table(rows)
        for size in SIZES:
            mine = [row for row in rows if row["arm"] in ("lora", "promoted") and row["facts"] == size]
            for figure, column in COLUMNS.items():
                if mine:
                    self._report.figures[figure.format(size)] = statistics.mean(row[column] for row in mine)
        for row in rows:
            if row["facts"] == SIZES[0] and not row["arm"].startswith(("lora", "beside")):
                for figure, column in COLUMNS.items():
                    if row[column] is not None:
                        arm = row["arm"].replace(",", "").replace(" ", "_")
                        self._report.figures[f"{figure.format(SIZES[0])}_{arm}"] = row[column]
        for count in range(2, SETS + 1):
            held = [row["held"] for row in rows if row["arm"] == f"beside others, {count}"]
            if held:
                self._report.figures[f"fact_recall_8_beside_others_{count}"] = statistics.mean(held)

    def row(self, arm: str, course: Course, trained: Trained | None, reading: bool = False, **found: Any) -> None:
        """Ask everything and keep what came out."""
        row = {
            "arm": arm,
            "facts": len(course.facts),
            "set": course.number,
            "held": course.share("held", trained, reading),
            "other": course.share("other", trained, reading),
            "confused": course.share("strangers", trained, reading),
            "bytes": trained.bytes if trained is not None else 0,
            "seconds": None,
            "gate_seconds": None,
            "drift": None,
            "passed": None,
            **found,
        }
        self._report.rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        gc.collect()

    def _distilled(self, arm: str, course: Course, recipe: Recipe, facts: Sequence[Fact] | None = None) -> Trained:
        done = distil(self._serving, course.lesson(recipe, facts), course.bundle, recipe, lambda _: None)
        gate = done.gate
        found = {"seconds": done.seconds, "gate_seconds": gate.seconds, "drift": gate.drift, "passed": gate.passed}
        self.row(arm, course, done.trained, **found)
        return done.trained

    def _peft(self, course: Course) -> None:
        """Train the plain way: four questions for each fact, none of them with the note."""
        try:
            from peers.peft_training import PeftTraining
        except ImportError:
            self._report.missing("fact_recall_8_peft", "peft is not installed")
            return
        lesson = course.lesson(Recipe())
        closed = [one for one in lesson.trained if one.prompt != one.taught]
        four = [one for place in range(len(course.facts)) for one in [e for e in closed if e.fact == place][:4]]
        peer = PeftTraining(self._serving.loaded, Recipe().rank)
        seconds = peer.train(four, epochs=6, batch=4, rate=1e-3)
        adapter = peer.adapter()
        self.row("peft", course, adapter, seconds=seconds, drift=served_drift(self._serving, adapter, lesson))


class Course:
    """Some facts, and what is asked about them: ``held`` and ``other`` forms, and ``held`` ones about strangers."""

    def __init__(self, serving: Serving, size: int, number: int) -> None:
        self.number = number
        self._serving = serving
        notes = notes_of(size, number)
        self.facts: list[Fact] = facts_of(notes)
        self.bundle: Bundle = bundle_of(map(note_of, notes))
        said = {note.id: note.metadata for note in notes}
        self._asked: dict[str, list[tuple[str, int]]] = {"held": [], "other": [], "strangers": []}
        for place, fact in enumerate(self.facts):
            who, what = str(said[fact.cube_id]["subject"]), str(said[fact.cube_id]["attribute"])
            other = [form.format(who=who, whose=f"{who}'s", what=what) for form in OTHER_FORMS]
            for kind, texts in (("held", fact.held), ("other", other), ("strangers", fact.held_strangers)):
                self._asked[kind] += [(text, place) for text in texts]

    def lesson(self, recipe: Recipe, facts: Sequence[Fact] | None = None) -> Lesson:
        """Return what is trained, of other facts if there are any."""
        return lesson_of(facts or self.facts, self._serving.loaded, self._serving.format, recipe)

    def told(self, kind: str, mem: MemoryOS, ids: Sequence[str]) -> tuple[float, float]:
        """Return the shares of chats that say the fact's answer, and that had its note of ``ids`` as text."""

        def ask(text: str, place: int) -> tuple[bool, bool]:
            messages = [{"role": "user", "content": text}]
            answer, note = self.facts[place].answer, ids[int(self.facts[place].cube_id.removeprefix("note-"))]
            most = len(self._serving.format.encode_text(answer)) + SLACK
            reply = mem.chat(USER, messages, text=False, max_tokens=most)
            return holds(reply.text, answer), note in reply.tiers.get("plaintext", ())

        with ThreadPoolExecutor(16) as together:
            asked = list(together.map(ask, *zip(*self._asked[kind], strict=True)))
        right, noted = (sum(column) / len(asked) for column in zip(*asked, strict=True))
        return right, noted

    def share(self, kind: str, trained: Trained | None, reading: bool) -> float:
        """Return the share of questions whose answer holds the fact's, with all notes in the prompt if ``reading``."""
        noted = self.bundle.tokens(self._serving.format.encode_text) if reading else []
        examples = []
        for text, place in self._asked[kind]:
            prompt = tuple(self._serving.format.prompt(noted, [{"role": "user", "content": text}]))
            answer = tuple(self._serving.format.encode_text(self.facts[place].answer))
            examples.append(Example(prompt, answer, place))
        said = answers(self._serving, [(one, trained) for one in examples], "bench")
        right = [holds(text, self.facts[one.fact].answer) for text, one in zip(said, examples, strict=True)]
        return sum(right) / len(right)


def served_drift(serving: Serving, adapter: Adapter, lesson: Lesson) -> float:
    """Return the gate's drift of an adapter that no student holds, through the loop that serves it."""
    found = []
    use = AdapterUse(adapter.digest, lambda: adapter)
    for one in lesson.unrelated:
        first = len(one.prompt) - 1
        base, changed = (
            torch.log_softmax(serving.runtime.logits(one.tokens, adapters=uses)[first:], -1) for uses in ([], [use])
        )
        found.append((base.exp() * (base - changed)).sum(-1))
    serving.runtime.drop_adapters({adapter.digest})
    return torch.cat(found).mean().item()


def notes_of(size: int, number: int) -> list[MemCube]:
    """Return notes about invented people, each with one fact."""
    chance = random.Random(f"distil {size} {number}")
    when = datetime(2025, 3, 1, tzinfo=UTC)
    notes: dict[tuple[str, str], MemCube] = {}
    while len(notes) < size:
        who = " ".join("".join(chance.sample(SYLLABLES, 2)).capitalize() for _ in range(2))
        what = chance.choice(list(KINDS))
        value = chance.choice(KINDS[what])
        notes[who, what] = MemCube(
            id=f"note-{len(notes)}",
            scope=Scope(),
            state=State.ACTIVATED,
            version=1,
            digest="",
            text=f"{who}'s {what} is {value}.",
            metadata={"subject": who, "attribute": what, "value": value},
            descriptor=Descriptor(),
            time=Times(created_at=when, updated_at=when, valid_from=when, event_time=None),
        )
    return list(notes.values())


if __name__ == "__main__":
    raise SystemExit(main())

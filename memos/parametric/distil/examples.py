"""Examples: facts rendered through the model's chat format, so that what is trained is what a chat will send."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memos.errors import TrainingRefused
from memos.parametric.distil.facts import Fact
from memos.parametric.distil.generic import PRESERVED, UNRELATED, Generic
from memos.parametric.distil.recipe import Recipe
from memos.runtime.chat import ChatFormat
from memos.runtime.loading import LoadedModel

#: Most facts of one promotion: beyond, it takes hours.
MAX_FACTS = 512
#: How much of a generic answer is held on to: what is said first decides how it goes on.
PRESERVED_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and what follows it, in tokens. ``fact`` is the place of its fact, ``taught`` the teacher's prompt."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    fact: int = -1
    taught: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """All of it."""
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class Lesson:
    """Everything that one training and its gate need.

    ``trained`` are learnt. What must not change meanwhile: ``strangers``, generic ``questions``, both without answers,
    and ``preserved``, which is generic text.
    ``held`` are asked at the gate, and ``held_strangers`` with the answers they must not get; ``unrelated`` is what
    drift is measured on. Answers of facts end with the token that ends an answer; what follows others does not.
    """

    facts: tuple[Fact, ...]
    trained: tuple[Example, ...]
    held: tuple[Example, ...]
    held_strangers: tuple[Example, ...]
    strangers: tuple[Example, ...]
    questions: tuple[Example, ...]
    preserved: tuple[Example, ...]
    unrelated: tuple[Example, ...]


def learnable(facts: Sequence[Fact], loaded: LoadedModel, chat: ChatFormat) -> list[Fact]:
    """Return the facts that are short enough for the model and have an answer in its words.

    Raises :class:`TrainingRefused` if they are far too many.
    """
    known = list(filter(_Writer(loaded, chat).fits, facts))
    if len(known) > MAX_FACTS:
        raise TrainingRefused(f"{len(known)} facts are too many for one training: promote at most {MAX_FACTS} at once")
    return known


def lesson_of(facts: Sequence[Fact], loaded: LoadedModel, chat: ChatFormat, recipe: Recipe) -> Lesson:
    """Return the examples of facts. Raises :class:`TrainingRefused` if there are none, or far too many."""
    writer = _Writer(loaded, chat)
    known = tuple(learnable(facts, loaded, chat))
    if not known:
        raise TrainingRefused(
            "these memories leave nothing to train on: say what is to be known in their metadata, as subject, "
            'attribute and value or as question and answer, or in sentences such as "Ann\'s home town is Lisbon."'
        )
    return Lesson(
        known,
        tuple(_trained(known, writer, recipe)),
        tuple(writer.closed(question, place, fact) for place, fact in enumerate(known) for question in fact.held),
        tuple(
            writer.closed(question, place, fact) for place, fact in enumerate(known) for question in fact.held_strangers
        ),
        tuple(Example(writer.ask(question), ()) for fact in known for question in fact.strangers),
        tuple(Example(writer.ask(question), ()) for question in PRESERVED.questions),
        tuple(_preserved(writer)),
        tuple(writer.generic(UNRELATED)),
    )


def _trained(facts: Sequence[Fact], writer: _Writer, recipe: Recipe) -> Iterable[Example]:
    """Yield every trained question, and some of them with the note in the prompt too."""
    chance = random.Random(recipe.seed)
    for place, fact in enumerate(facts):
        for question in fact.questions:
            yield writer.closed(question, place, fact)
        count = round(recipe.with_text * len(fact.questions))
        for question in chance.sample(fact.questions, count):
            yield writer.opened(question, place, fact)


def _preserved(writer: _Writer) -> Iterable[Example]:
    """Yield generic text; of an answer only how it begins."""
    for one in writer.generic(PRESERVED):
        yield Example(one.prompt, one.answer[:PRESERVED_TOKENS]) if len(one.prompt) > 1 else one


class _Writer:
    """Renders questions and answers for one model."""

    def __init__(self, loaded: LoadedModel, chat: ChatFormat) -> None:
        self._chat = chat
        self._room = loaded.context_window // 4
        end = loaded.tokenizer.eos_token_id
        self._end = (end,) if isinstance(end, int) else tuple(sorted(loaded.eos_ids))[:1]

    def ask(self, question: str, memory: str = "") -> tuple[int, ...]:
        """Return the prompt of a question, with a memory in its place or without."""
        noted = self._chat.encode_text(memory) if memory else []
        return tuple(self._chat.prompt(noted, [{"role": "user", "content": question}]))

    def closed(self, question: str, place: int, fact: Fact) -> Example:
        """Return a question without the note; the teacher reads it with the note."""
        return Example(self.ask(question), self._answer(fact.answer), place, self.ask(question, fact.line))

    def opened(self, question: str, place: int, fact: Fact) -> Example:
        """Return a question with the note."""
        prompt = self.ask(question, fact.line)
        return Example(prompt, self._answer(fact.answer), place, prompt)

    def generic(self, generic: Generic) -> Iterable[Example]:
        """Yield exchanges as chats; of a passage, all but the first token follows the first."""
        for question, answer in generic.exchanges:
            yield Example(self.ask(question), tuple(self._chat.encode_text(answer)))
        for passage in generic.passages:
            tokens = tuple(self._chat.encode_text(passage))
            yield Example(tokens[:1], tokens[1:])

    def fits(self, fact: Fact) -> bool:
        """Whether a fact is short enough for the model to be taught, and has an answer in its words."""
        answer = self._answer(fact.answer)
        prompts = [*fact.questions, *fact.held]
        longest = max(len(self.ask(question, fact.line)) for question in prompts) if prompts else 0
        return bool(prompts) and len(answer) > len(self._end) and longest + len(answer) <= self._room

    def _answer(self, answer: str) -> tuple[int, ...]:
        return (*self._chat.encode_text(answer), *self._end)

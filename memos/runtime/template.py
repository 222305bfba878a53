"""A chat template taken apart: which text is the template's own, and where contents go.

The template is rendered with marks in place of all contents, so that no content is ever parsed as a template, and
what a content says cannot be mistaken for what the template says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from memos.errors import InvalidInput, ModelUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, str]

#: What stands before memories in the system message.
PREAMBLE = "You are a helpful assistant. Answer with the help of what you remember:\n"
#: What a model without a template reads.
FALLBACK = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
#: Templates that print today's date print Llama's default one: a head must outlive the day.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
#: Private-use characters around a number, which no template writes, and a space that none adds.
MARK = re.compile("\ue000(\\d+)\ue001")
SPACE = "\v"


class Segment(NamedTuple):
    """A stretch of a prompt: the template's own text, or a content."""

    text: str
    is_content: bool


class ChatTemplate:
    """Cuts prompts into segments. Raises :class:`ModelUnsupported` for a template that has no place for memories.

    Memories stand in the system message before its text. Where a template refuses, drops or moves that message, they
    stand at the start of the first user message instead.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._source = FIXED_DATE + (tokenizer.get_chat_template() if tokenizer.chat_template else FALLBACK)
        self._strips = dict.fromkeys(("system", "user", "assistant"), False)
        self._folds = self._obstacle(folds=False) is not None
        if self._folds and (obstacle := self._obstacle(folds=True)):
            raise ModelUnsupported(f"the model's chat template has no fixed place for memories: {obstacle}")
        self._strips = {role: self._stripping(role) for role in ("system", "user", "assistant")}
        self.head = self._with_slot([{"role": "user", "content": "?"}], folds=self._folds)[0].text

    def bare(self, messages: Sequence[Message]) -> list[Segment]:
        """Return the prompt of a conversation without memories. Raises :class:`InvalidInput`."""
        turns = _marked(messages)
        return self._segments(messages, _fold(turns) if self._folds else turns)

    def tail(self, messages: Sequence[Message]) -> list[Segment]:
        """Return what follows the memories. Raises :class:`InvalidInput`."""
        return self._with_slot(messages, folds=self._folds)[2:]

    def _with_slot(self, messages: Sequence[Message], *, folds: bool) -> list[Segment]:
        """Return head, an empty content in the place of memories, and tail."""
        contents = [{"role": "system", "content": ""}, *messages]
        slot, *turns = _marked(contents)
        start = PREAMBLE + slot["content"]
        if turns and turns[0]["role"] == "system":
            start += "\n" + turns.pop(0)["content"]
        turns = [{"role": "system", "content": start}, *turns]
        return self._segments(contents, _fold(turns) if folds else turns)

    def _segments(self, contents: Sequence[Message], turns: Sequence[Message]) -> list[Segment]:
        """Render turns and put ``contents`` in the places of their marks, by number."""
        pieces = MARK.split(self._render(turns))
        if [int(number) for number in pieces[1::2]] != list(range(len(contents))):
            raise InvalidInput("the model's chat template drops or moves a message of this conversation")
        segments = [Segment(pieces[0], is_content=False)]
        for content, text in zip(contents, pieces[2::2], strict=True):
            segments += [Segment(self._stripped(content), is_content=True), Segment(text, is_content=False)]
        return segments

    def _stripped(self, message: Message) -> str:
        return message["content"].strip() if self._strips[message["role"]] else message["content"]

    def _render(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    chat_template=self._source,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidInput(f"the model's chat template refuses this conversation: {error}") from error

    # ------------------------------------------------------------ probing

    def _obstacle(self, *, folds: bool) -> str | None:
        """Return why memories have no place here before which nothing ever changes."""
        short = [{"role": "user", "content": ""}]
        system = [{"role": "system", "content": ""}]
        long = [*short, {"role": "assistant", "content": ""}, *short]
        try:
            heads = {self._with_slot(probe, folds=folds)[0].text for probe in (short, [*system, *short], long)}
        except InvalidInput as error:
            return str(error)
        return "what stands before them depends on the conversation" if len(heads) > 1 else None

    def _stripping(self, role: str) -> bool:
        """Whether the template strips the contents of a role."""
        user = {"role": "user", "content": "?"}
        probe = {"role": role, "content": f"{SPACE}{_mark(0)}{SPACE}"}
        if role == "system" and self._folds:
            return False
        turns = {"system": [probe, user], "user": [probe], "assistant": [user, probe, user]}[role]
        return f"{SPACE}{_mark(0)}{SPACE}" not in self._render(turns)


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def _marked(contents: Sequence[Message]) -> list[Message]:
    return [{"role": content["role"], "content": _mark(place)} for place, content in enumerate(contents)]


def _fold(turns: Sequence[Message]) -> list[Message]:
    """Move the system message to the start of the first user message."""
    if turns[0]["role"] != "system":
        return list(turns)
    system, *others = turns
    if not others or others[0]["role"] != "user":
        raise InvalidInput("the first message of the conversation must be the user's")
    return [{"role": "user", "content": f"{system['content']}\n\n{others[0]['content']}"}, *others[1:]]

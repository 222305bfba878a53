"""Prompts with a place for memories, tokenised in segments that never merge.

    head | memory | tail
    <|im_start|>system\\n{preamble} | {memories} | \\n{system text}<|im_end|>\\n<|im_start|>user\\n...

The head is the same for every conversation, so the cache of ``head + memory`` serves any question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memos.errors import InvalidInput
from memos.runtime.loading import LoadedModel
from memos.runtime.template import ChatTemplate, Message, Segment

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROLES = ("system", "user", "assistant")


class ChatFormat:
    """The form of a model's prompts. Raises ``ModelUnsupported`` for a template that has no place for memories."""

    def __init__(self, loaded: LoadedModel) -> None:
        from tokenizers import Tokenizer

        self._template = ChatTemplate(loaded.tokenizer)
        backend = loaded.tokenizer.backend_tokenizer.to_str()
        self._marked: Tokenizer = Tokenizer.from_str(backend)
        self._plain: Tokenizer = Tokenizer.from_str(backend)
        self._plain.encode_special_tokens = True  # reads them as text; a switch of the tokenizer, hence two
        self._head = tuple(self._encode(Segment(self._template.head, is_content=False)))

    @property
    def head(self) -> tuple[int, ...]:
        """The tokens before memories, with the token that begins a text where the template has one."""
        return self._head

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of one memory segment, in which a special token's name is text like any other."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def prompt(self, memory: Sequence[int], messages: Sequence[Message]) -> list[int]:
        """Return the tokens that ask for an answer: ``head + memory + tail``, or without memories the bare template.

        Raises :class:`InvalidInput` for messages that are none, or that the template refuses.
        """
        checked = [_checked(message, place) for place, message in enumerate(messages)]
        if not checked:
            raise InvalidInput("a conversation needs at least one message")
        if not memory:
            return self._encode(*self._template.bare(checked))
        return [*self._head, *memory, *self._encode(*self._template.tail(checked))]

    def _encode(self, *segments: Segment) -> list[int]:
        """Tokenise every segment alone; only the template's own text may hold special tokens."""
        tokens: list[int] = []
        for text, is_content in segments:
            tokens += (self._plain if is_content else self._marked).encode(text, add_special_tokens=False).ids
        return tokens


def _checked(message: Message, place: int) -> Message:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise InvalidInput(f"messages[{place}] needs a role ({', '.join(ROLES)}) and a content that is a string")
    return {"role": role, "content": content}

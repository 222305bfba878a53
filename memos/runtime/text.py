"""Tokens to text as they come: whole characters only, ended by stop strings that may span tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: What a decoder puts in place of bytes that are not UTF-8, among them the beginning of a character.
REPLACEMENT = "\ufffd"


class Detokenizer:
    """Decodes a growing list of tokens.

    A token's text depends on its neighbours (spaces, split characters), so each new text is the difference of two
    decodings that begin with tokens already shown, as in Hugging Face's text-generation-inference.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0  # where both decodings begin
        self._shown = 0  # tokens whose text was returned

    def push(self, token: int) -> str:
        """Return the text that a token completes; an unfinished character waits for its other bytes."""
        self._tokens.append(token)
        text = self._fresh()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return text

    def flush(self) -> str:
        """Return what still waits, with replacement characters for bytes that never became a character."""
        text = self._fresh()
        self._context = self._shown = len(self._tokens)
        return text

    def _fresh(self) -> str:
        before = self._decode(self._tokens[self._context : self._shown])
        return self._decode(self._tokens[self._context :])[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopStrings:
    """Cuts a stream of text before the first of some strings, and holds back what may be the beginning of one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return the text that certainly stands before any stop string."""
        self._held += text
        places = [place for string in self._strings if (place := self._held.find(string)) >= 0]
        if places:
            self.found = True
            safe, self._held = self._held[: min(places)], ""
            return safe
        cut = len(self._held) - self._overlap()
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def flush(self) -> str:
        """Return what was held back, at the end of the stream."""
        safe, self._held = self._held, ""
        return safe

    def _overlap(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = max((len(string) for string in self._strings), default=1) - 1
        sizes = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in sizes if any(string.startswith(self._held[-n:]) for string in self._strings)), 0)


class TextStream:
    """The text of one answer, piece by piece."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string came; nothing follows then."""
        return self._stops.found

    def push(self, token: int) -> str:
        """Return the text to show after a token."""
        return self._stops.push(self._detokenizer.push(token))

    def flush(self) -> str:
        """Return the rest of the text at the end of the answer."""
        rest = self._stops.push(self._detokenizer.flush())
        return rest if self.stopped else rest + self._stops.flush()

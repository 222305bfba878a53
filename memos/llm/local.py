"""The local runtime model, asked for JSON: greedy, and told the schema in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from memos.errors import InvalidInput, ModelUnavailable, ModelUnsupported
from memos.llm.completion import Completion, Messages, Spent
from memos.runtime.host import ModelHost

#: Longest answer, in tokens.
LONGEST = 768
OWNER = "notes"


class LocalCompleter:
    """Small models seldom keep to a schema; what they answer is checked like any other answer."""

    def __init__(self, models: ModelHost) -> None:
        self._models = models

    @property
    def name(self) -> str:
        """The model's name."""
        serving = self._models.ready
        return serving.loaded.name if serving is not None else "local"

    def complete(self, messages: Messages, schema: Mapping[str, Any]) -> Completion:
        """Return the answer. Raises :class:`ModelUnavailable`."""
        try:
            serving = self._models.serving()
            told = [{**messages[0], "content": f"{messages[0]['content']}\nJSON schema: {json.dumps(schema)}"}]
            tokens = serving.format.prompt([], [*told, *messages[1:]])
            generated = self._generate(serving, tokens)
        except (InvalidInput, ModelUnsupported) as error:  # a prompt longer than the model's context, for one
            raise ModelUnavailable(f"the local model cannot be asked: {error.message}") from error
        return Completion(
            generated.text, Spent(1, len(tokens), len(generated.tokens)), generated.finish_reason == "stop"
        )

    def close(self) -> None:
        """The model is its host's."""

    @staticmethod
    def _generate(serving: Any, tokens: list[int]) -> Any:
        from memos.runtime.loop import Request  # loaded with the model

        return serving.runtime.generate(Request(tuple(tokens), max_tokens=LONGEST, owner=OWNER)).finish()

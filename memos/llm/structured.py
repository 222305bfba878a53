"""Answers of a language model as values: JSON checked against a type, asked for again where it is not of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from memos.errors import ModelUnavailable
from memos.llm.completion import Completer, Completion, Messages, Spent

T = TypeVar("T", bound=BaseModel)


class Answer(NamedTuple, Generic[T]):
    """A checked answer, or what was wrong with it; and what it cost, with those before it that were of no use."""

    value: T | None
    spent: Spent
    trouble: str | None = None


def ask(model: Completer, messages: Messages, kind: type[T], *, attempts: int = 2) -> Answer[T]:
    """Return an answer of type ``kind``.

    An answer that is cut short, no JSON, or of another form is shown to the model once more with what is wrong with
    it. A model that cannot be reached is trouble like any other: the caller does without.
    """
    schema, spent, asked = kind.model_json_schema(), Spent(), list(messages)
    trouble = ""
    for _ in range(attempts):
        try:
            completion = model.complete(asked, schema)
        except ModelUnavailable as error:
            return Answer(None, spent, error.message)
        spent = spent + completion.spent
        value, trouble = _checked(completion, kind)
        if value is not None:
            return Answer(value, spent)
        asked = [*messages, *_again(completion.text, trouble)]
    return Answer(None, spent, f"{model.name}: {trouble}")


def _checked(completion: Completion, kind: type[T]) -> tuple[T | None, str]:
    if not completion.whole:
        return None, "the answer was cut short"
    try:
        return kind.model_validate(json.loads(unfenced(completion.text))), ""
    except (ValueError, RecursionError) as error:
        return None, _told(error)


def unfenced(text: str) -> str:
    """Return the JSON in an answer that wraps it into a Markdown code block."""
    bare = text.strip()
    if bare.startswith("```"):
        bare = bare.partition("\n")[2].rpartition("```")[0]
    return bare


def _again(text: str, wrong: str) -> Sequence[dict[str, str]]:
    repeat = f"That could not be used: {wrong}. Answer again with JSON of the schema and nothing else."
    return [{"role": "assistant", "content": text[:4_000]}, {"role": "user", "content": repeat}]


def _told(error: ValueError | RecursionError) -> str:
    """Say what is wrong without repeating the answer."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"
    return "it is no JSON"

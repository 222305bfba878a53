"""Something to find in a context: a value by its key among others, a needle in an essay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from memos.runtime.loading import LoadedModel

#: Pairs of a kv-retrieval item (of 75) that a model of 135M parameters still finds its way in, and essay tokens.
PAIRS, HAY = 8, 900
DEPTHS = (0.15, 0.4, 0.65, 0.9)
CITIES = ("Lisbon", "Nairobi", "Oslo", "Quito", "Hanoi", "Tunis", "Riga", "Lima")
NUMBERS = ("48213", "90577", "31864", "72950", "15438", "60729", "83146", "27391")


@dataclass(frozen=True, slots=True)
class Item:
    """A context, a question about it, and the answer, in tokens."""

    kind: str
    context: Sequence[int]
    question: Sequence[int]
    answer: Sequence[int]


def items(loaded: LoadedModel, data: Path, each: int) -> Iterator[Item]:
    """Yield ``each`` items of both kinds."""

    def tokens(text: str) -> list[int]:
        ids: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    lines = (data / "lost_in_the_middle" / "kv-retrieval-75_keys.jsonl").read_text().splitlines()
    for number in range(each):
        pairs = json.loads(lines[number])["ordered_kv_records"][:PAIRS]
        key, value = pairs[(2 * number + 1) % PAIRS]
        body = ",\n".join(f' "{k}": "{v}"' for k, v in pairs)
        context = f"JSON data:\n{{{body}}}\n"
        yield Item("kv", tokens(context), tokens(f'\nThe value of the key "{key}" is:\n "{key}": "'), tokens(value))
    essays = "\n".join(path.read_text() for path in sorted((data / "niah").rglob("*.txt")))
    hay = tokens(essays)
    for number in range(each):
        start = (len(hay) - HAY) * number // each
        cut = start + int(DEPTHS[number % len(DEPTHS)] * HAY)
        city, value = CITIES[number % len(CITIES)], NUMBERS[number % len(NUMBERS)]
        needle = tokens(f" The secret number of {city} is {value}. ")
        context = [*hay[start:cut], *needle, *hay[cut : start + HAY]]
        yield Item("needle", context, tokens(f"\n\nThe secret number of {city} is"), tokens(f" {value}"))


def answered(logits: torch.Tensor, answer: Sequence[int]) -> dict[str, float]:
    """Return the mean loss of the tokens of the answer that ``logits`` end with, and whether it would be given."""
    rows = torch.log_softmax(logits[-len(answer) - 1 : -1], -1)
    wanted = torch.tensor(answer)
    loss = -rows.gather(1, wanted.unsqueeze(1)).mean()
    return {"nll": float(loss), "recalled": float((rows.argmax(-1) == wanted).all())}

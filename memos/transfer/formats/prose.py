"""Plain prose: one memory per paragraph, the file's name as the run."""

from __future__ import annotations

from memos.transfer.files import Source
from memos.transfer.formats.parsed import DERIVED_RUN, ParsedLines
from memos.transfer.report import RejectedLine


def read(source: Source) -> ParsedLines:
    """Yield paragraphs as blank lines part them; one without a letter or digit (``* * *``) only parts others."""
    paragraph: list[str] = []
    start, count = 0, 0
    for line in (*source.lines(), (0, "")):
        if isinstance(line, RejectedLine):
            yield line
            continue
        number, text = line
        if text.strip():
            start = start if paragraph else number
            paragraph.append(text)
            continue
        words = "\n".join(paragraph).strip()
        paragraph = []
        if any(character.isalnum() for character in words):
            count += 1
            yield (
                start,
                {"text": words, "metadata": {"paragraph": count}, DERIVED_RUN: source.name},
            )

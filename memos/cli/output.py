"""Tables of memories. Their text is shown as text: no markup, no control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from memos_sdk import CubeVersion, MemCube, RecallResult

GLANCE = 240


def plain(text: str, *, most: int | None = None) -> Text:
    """Return text that cannot steer the terminal, cut to ``most`` characters."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return Text("".join(_visible(character) for character in text))


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cs"}:
        return character
    return "\N{REPLACEMENT CHARACTER}"


def counted(number: int) -> str:
    """Return ``1 memory``, ``2 memories``."""
    return f"{number} {'memory' if number == 1 else 'memories'}"


def megabytes(count: int) -> str:
    """Return a size in bytes as people read it."""
    return f"{count / 1e6:,.1f} MB"


def when(moment: datetime | None) -> str:
    """Return a time to the minute, UTC."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def table(*columns: str, narrow: Sequence[str] = ()) -> Table:
    """Return an empty table; ``narrow`` columns are never wrapped."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=column in narrow, overflow="fold", vertical="top")
    return made


def pairs(values: Mapping[str, Any]) -> Table:
    """Return names and values, one pair per line; what is ``None`` is left out."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in values.items():
        if value is not None:
            made.add_row(name, value if isinstance(value, Text) else plain(str(value)))
    return made


def recalled(result: RecallResult, *, explain: bool) -> RenderableType:
    """Return hits as score, when, who, text; under ``explain`` also why and how long each stage took."""
    from memos.plaintext.intake import speaker_of

    if not result.hits:
        return Text("nothing found", style="dim")
    columns = ("score", "when", "who", "text", *(["why"] if explain else []))
    made = table(*columns, narrow=("score", "when"))
    for hit in result.hits:
        who = plain(speaker_of(hit.text, hit.metadata) or hit.agent_id or "")
        cells: list[RenderableType] = [
            f"{hit.score:.3f}",
            when(hit.event_time),
            who,
            plain(hit.text),
        ]
        made.add_row(*cells, *([_why(hit.why or {})] if explain else []))
    stages = "  ".join(f"{name} {time:.1f} ms" for name, time in result.timings.items())
    return Group(made, Text(f"\n{stages}", style="dim")) if explain else made


def _why(why: Mapping[str, Any]) -> str:
    parts = [f"{name} {value:.2f}" for name, value in why.get("parts", {}).items() if value]
    parts += [f"{link['type']} link from {link['from']}" for link in why.get("path", ())]
    if why.get("fused"):
        parts.append(f"fused from {len(why['fused'])}; memos expand shows them")
    if why.get("duplicates"):
        parts.append(f"{len(why['duplicates'])} more like it")
    return "\n".join(parts)


def memories(cubes: Sequence[MemCube]) -> RenderableType:
    """Return memories as id, when, text."""
    if not cubes:
        return Text("nothing stored", style="dim")
    made = table("id", "when", "text", narrow=("id", "when"))
    for cube in cubes:
        moment = cube.time.event_time or cube.time.created_at
        made.add_row(cube.id, when(moment), plain(cube.text or "", most=GLANCE))
    return made


def memory(cube: MemCube) -> RenderableType:
    """Return everything about one memory."""
    header = pairs(
        {
            "id": cube.id,
            "user": cube.scope.user_id,
            "agent": cube.scope.agent_id,
            "run": cube.scope.run_id,
            "state": cube.state,
            "version": cube.version,
            "stored": when(cube.time.created_at),
            "happened": when(cube.time.event_time) or None,
            "expires": when(cube.time.expires_at) or None,
            "source": cube.provenance.source,
            "by": cube.provenance.author,
            "title": cube.descriptor.title,
            "context": cube.descriptor.context,
            "keywords": ", ".join(cube.descriptor.keywords) or None,
            "tags": ", ".join(cube.descriptor.tags) or None,
            "names": ", ".join(cube.descriptor.entities) or None,
            "importance": cube.descriptor.importance,
            "sensitivity": cube.governance.sensitivity if cube.governance.sensitivity != "normal" else None,
            "held until": when(cube.time.valid_to) or None,
            "note by": cube.provenance.scribe,
            "remark": cube.provenance.remark,
            **{f"metadata.{name}": value for name, value in cube.metadata.items()},
        }
    )
    return Group(header, Text(), plain(cube.text or ""))


def versions(history: Sequence[CubeVersion]) -> RenderableType:
    """Return the versions of a memory, oldest first."""
    made = table("version", "since", "reason", "text", narrow=("since",))
    for version in history:
        text = plain(version.text, most=GLANCE)
        made.add_row(str(version.version), when(version.valid_from), version.reason or "", text)
    return made

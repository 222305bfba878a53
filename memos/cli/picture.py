"""A namespace's notes and links as a picture: SVG, or the same in a page of its own."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from memos.cube import Link, LinkType, MemCube

#: Notes that a picture holds: the best linked ones of more.
MOST = 400
WIDTH, HEIGHT, MARGIN = 1400, 1000, 60
LABEL = 28
SEED = 7
COLOURS: Mapping[str, str] = {
    LinkType.CONTRADICTS: "#c0392b",
    LinkType.REFINES: "#8e44ad",
    LinkType.CAUSAL: "#d35400",
    LinkType.TEMPORAL: "#16a085",
    LinkType.ENTITY: "#2980b9",
    LinkType.SEMANTIC: "#7f8c8d",
    LinkType.SAME_SESSION: "#bdc3c7",
}
#: A note in force, one that no longer holds, and one that is put aside.
PRESENT, CLOSED, ASIDE = "#2c3e50", "#c0392b", "#95a5a6"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{margin:0;font-family:sans-serif;background:#fff}}svg{{display:block;width:100vw;height:100vh}}
circle:hover{{stroke:#f1c40f;stroke-width:4}}line:hover{{stroke-width:5}}</style></head>
<body>{svg}</body></html>
"""

Places = Mapping[str, tuple[float, float]]


def picture(notes: Sequence[MemCube], links: Sequence[Link], title: str, *, page: bool) -> str:
    """Return an SVG image, or with ``page`` an HTML page that needs nothing else, of notes and their links."""
    shown = _chosen(notes, links)
    names = {note.id for note in shown}
    drawn = [link for link in links if {link.source_id, link.target_id} <= names]
    places = _placed([note.id for note in shown], drawn)
    left_out = len(notes) - len(shown)
    told = f"{title}: {len(shown)} notes, {len(drawn)} links" + (f"; {left_out} notes left out" if left_out else "")
    svg = _svg(shown, drawn, places, told)
    return _PAGE.format(title=html.escape(title), svg=svg) if page else svg


def _chosen(notes: Sequence[MemCube], links: Sequence[Link]) -> list[MemCube]:
    degree = Counter(end for link in links for end in (link.source_id, link.target_id))
    return sorted(notes, key=lambda note: (-degree[note.id], note.id))[:MOST]


def _placed(names: Sequence[str], links: Sequence[Link]) -> Places:
    """Return where each note is drawn: linked ones near each other (Fruchterman & Reingold 1991)."""
    import networkx  # a layout is all that is needed of it, and only here

    graph = networkx.Graph()
    graph.add_nodes_from(names)
    graph.add_weighted_edges_from((link.source_id, link.target_id, max(link.score, 0.1)) for link in links)
    spread = 1.5 / math.sqrt(max(len(names), 1))
    found = networkx.spring_layout(graph, seed=SEED, k=spread, iterations=60, method="force")
    return {name: (_scaled(x, WIDTH), _scaled(y, HEIGHT)) for name, (x, y) in found.items()}


def _scaled(value: float, size: int) -> float:
    return MARGIN + (float(value) + 1) / 2 * (size - 2 * MARGIN)


def _svg(notes: Sequence[MemCube], links: Sequence[Link], places: Places, told: str) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f"<title>{html.escape(told)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *(_line(link, places) for link in links),
        *(_node(note, places[note.id]) for note in notes),
        *_legend(told),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _line(link: Link, places: Places) -> str:
    (x1, y1), (x2, y2) = places[link.source_id], places[link.target_id]
    width = 0.8 + 2.2 * min(max(link.score, 0.0), 1.0)
    told = html.escape(f"{link.type} {link.score:.2f} ({link.author})")
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{COLOURS.get(link.type, PRESENT)}" '
        f'stroke-width="{width:.1f}" stroke-opacity="0.6"><title>{told}</title></line>'
    )


def _node(note: MemCube, place: tuple[float, float]) -> str:
    x, y = place
    title = note.descriptor.title or note.text or note.id
    label = title if len(title) <= LABEL else f"{title[: LABEL - 1]}…"
    radius = 4 + 6 * (note.descriptor.importance or 0.3)
    told = html.escape(
        "\n".join(part for part in (note.text, note.descriptor.context, ", ".join(note.descriptor.tags)) if part)
    )
    return (
        f'<g><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_colour(note)}"><title>{told}</title></circle>'
        f'<text x="{x + radius + 3:.1f}" y="{y + 4:.1f}" font-size="11" fill="#2c3e50">{html.escape(label)}</text></g>'
    )


def _colour(note: MemCube) -> str:
    if note.state not in {"generated", "activated", "merged"}:
        return ASIDE
    return CLOSED if note.time.valid_to is not None else PRESENT


def _legend(told: str) -> list[str]:
    lines = [f'<text x="16" y="26" font-size="15" fill="#2c3e50">{html.escape(told)}</text>']
    for row, (name, colour) in enumerate(COLOURS.items()):
        y = 46 + 16 * row
        lines.append(f'<line x1="16" y1="{y}" x2="40" y2="{y}" stroke="{colour}" stroke-width="3"/>')
        lines.append(f'<text x="46" y="{y + 4}" font-size="11" fill="#2c3e50">{name}</text>')
    return lines

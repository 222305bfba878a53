"""A scatter of loss against size as SVG, without any library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

WIDTH, HEIGHT, MARGIN = 760, 460, 60
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#444444", "#16a0a0", "#b0589a")

Point = tuple[float, float, str]
Place = Callable[[float, float], tuple[float, float]]


def scatter(groups: Mapping[str, Sequence[Point]], across: str, up: str, bar: float | None = None) -> str:
    """Return an SVG of points (x, y, label), both on logarithmic scales, by group, with a line at ``bar``."""
    points = [point for group in groups.values() for point in group]
    (first, last), (low, high) = (
        _span([math.log2(x) for x, _, _ in points]),
        _span([math.log10(y) for _, y, _ in points]),
    )

    def place(x: float, y: float) -> tuple[float, float]:
        right = MARGIN + (math.log2(x) - first) / (last - first) * (WIDTH - 2 * MARGIN)
        return right, HEIGHT - MARGIN - (math.log10(y) - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    lines = [*_axes(place, range(first, last + 1), range(low, high + 1), across, up)]
    if bar is not None:
        (x1, y1), (x2, _) = place(2.0**first, bar), place(2.0**last, bar)
        lines.append(
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y1:.0f}" stroke="#999" stroke-dasharray="5"/>'
        )
    for number, (name, group) in enumerate(groups.items()):
        colour = COLOURS[number % len(COLOURS)]
        lines.append(f'<text x="{WIDTH - 150}" y="{20 + 16 * number}" fill="{colour}">{name}</text>')
        for x, y, label in group:
            at = place(x, y)
            lines.append(
                f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{colour}"><title>{label}</title></circle>'
            )
    return "\n".join([_OPEN, *lines, "</svg>", ""])


def _span(powers: Sequence[float]) -> tuple[int, int]:
    """Return whole numbers below and above all of them."""
    low = math.floor(min(powers))
    return low, max(math.ceil(max(powers)), low + 1)


_OPEN = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    'font-family="sans-serif" font-size="12">'
    '<rect width="100%" height="100%" fill="white"/>'
)


def _axes(place: Place, twos: range, tens: range, across: str, up: str) -> Iterator[str]:
    left, bottom = place(2.0 ** twos[0], 10.0 ** tens[0])
    right, top = place(2.0 ** twos[-1], 10.0 ** tens[-1])
    yield f'<path d="M{left:.0f} {top:.0f}V{bottom:.0f}H{right:.0f}" fill="none" stroke="black"/>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 15}" text-anchor="middle">{across}</text>'
    yield f'<text x="15" y="{HEIGHT / 2}" transform="rotate(-90 15 {HEIGHT / 2})" text-anchor="middle">{up}</text>'
    for power in tens:
        _, y = place(2.0 ** twos[0], 10.0**power)
        yield f'<text x="{left - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{10.0**power:g}</text>'
    for power in twos:
        x, _ = place(2.0**power, 10.0 ** tens[0])
        yield f'<text x="{x:.0f}" y="{bottom + 16:.0f}" text-anchor="middle">{2.0**power:g}</text>'

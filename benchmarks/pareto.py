"""A scatter of loss against size as SVG, without any library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

WIDTH, HEIGHT, MARGIN = 760, 460, 60
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#444444")

Point = tuple[float, float, str]
Place = Callable[[float, float], tuple[float, float]]


def scatter(groups: Mapping[str, Sequence[Point]], across: str, up: str, bar: float | None = None) -> str:
    """Return an SVG of points (x, y > 0 on a logarithmic scale, label) by group, with a line at ``bar``."""
    points = [point for group in groups.values() for point in group]
    x_most = max(x for x, _, _ in points) * 1.05
    low = math.floor(min(math.log10(y) for _, y, _ in points))
    high = math.ceil(max(math.log10(y) for _, y, _ in points))

    def place(x: float, y: float) -> tuple[float, float]:
        right = MARGIN + x / x_most * (WIDTH - 2 * MARGIN)
        return right, HEIGHT - MARGIN - (math.log10(y) - low) / max(high - low, 1) * (HEIGHT - 2 * MARGIN)

    lines = [*_axes(place, x_most, low, high, across, up)]
    if bar is not None:
        (x1, y1), (x2, _) = place(0, bar), place(x_most, bar)
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


_OPEN = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    'font-family="sans-serif" font-size="12">'
    '<rect width="100%" height="100%" fill="white"/>'
)


def _axes(place: Place, x_most: float, low: int, high: int, across: str, up: str) -> Iterator[str]:
    left, bottom = place(0, 10.0**low)
    right, top = place(x_most, 10.0**high)
    yield f'<path d="M{left:.0f} {top:.0f}V{bottom:.0f}H{right:.0f}" fill="none" stroke="black"/>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 15}" text-anchor="middle">{across}</text>'
    yield f'<text x="15" y="{HEIGHT / 2}" transform="rotate(-90 15 {HEIGHT / 2})" text-anchor="middle">{up}</text>'
    for power in range(low, high + 1):
        at = place(0, 10.0**power)
        yield f'<text x="{at[0] - 6:.0f}" y="{at[1] + 4:.0f}" text-anchor="end">{10.0**power:g}</text>'
    for step in range(6):
        at = place(x_most * step / 5, 10.0**low)
        yield f'<text x="{at[0]:.0f}" y="{at[1] + 16:.0f}" text-anchor="middle">{x_most * step / 5:.1f}</text>'

"""Small charts as SVG text: lines over steps, histograms, and scores with their intervals.

Colours are the page's CSS classes, so that one drawing serves light and dark. Every text from
outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 14, 44
MOST_POINTS = 500


@dataclass(frozen=True)
class Series:
    """One line: its name, its x and y values, and its look (a CSS class)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    look: str = "line"


def ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Some round values (1, 2 or 5 times a power of ten apart) within ``low`` and ``high``.

    Args:
        least: the smallest distance between them; 1 for whole numbers.
    """
    if not high > low:
        return [low]
    rough = max((high - low) / 5, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's text: plain from 0.001 to 10,000, else with an exponent."""
    if value and not 0.001 <= abs(value) < 10_000:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        if not exponent:
            mantissa, _, exponent = f"{value:.2e}".partition("e")
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def thin(values: Sequence[float], most: int = MOST_POINTS) -> list[int]:
    """Indices of at most about ``most`` values that keep each block's smallest and largest."""
    if len(values) <= most:
        return list(range(len(values)))
    block = math.ceil(len(values) / (most // 2))
    chosen = {0, len(values) - 1}
    for start in range(0, len(values), block):
        span = range(start, min(start + block, len(values)))
        chosen |= {min(span, key=values.__getitem__), max(span, key=values.__getitem__)}
    return sorted(chosen)


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and the ``window - 1`` values before it, of as many as there are."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value
        if index >= window:
            total -= values[index - window]
        means.append(total / min(index + 1, window))
    return means


def line_chart(series: Sequence[Series], x_label: str, y_label: str) -> Markup:
    """Lines over an x axis of whole numbers; y starts at 0 where that costs little room.

    Values that are no finite numbers are left out. No value at all makes an empty text.
    """
    finite = [_finite(item) for item in series]
    finite = [item for item in finite if item.x]
    if not finite:
        return Markup("")
    xs = [x for item in finite for x in item.x]
    ys = [y for item in finite for y in item.y]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    if y_low >= 0 and y_low < 0.6 * y_high:
        y_low = 0.0
    y_high += 0.04 * (y_high - y_low) or abs(y_high) or 1.0
    x_high = x_high if x_high > x_low else x_low + 1
    across = (WIDTH - LEFT - RIGHT) / (x_high - x_low)
    down = (HEIGHT - TOP - BOTTOM) / (y_high - y_low)

    def place(x: float, y: float) -> str:
        return f"{LEFT + (x - x_low) * across:.1f},{HEIGHT - BOTTOM - (y - y_low) * down:.1f}"

    base, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    parts = []
    for value in ticks(y_low, y_high):
        y = base - (value - y_low) * down
        parts += [
            _line("grid", LEFT, y, WIDTH - RIGHT, y),
            _text("tick", LEFT - 8, y + 4, number(value), "end"),
        ]
    for value in ticks(x_low, x_high, least=1):
        parts.append(_text("tick", LEFT + (value - x_low) * across, base + 18, number(value)))
    parts += [
        _line("axis", LEFT, base, WIDTH - RIGHT, base),
        _text("label", middle, HEIGHT - 8, x_label),
        f'<g transform="translate(14 {(TOP + base) / 2:.0f}) rotate(-90)">'
        + _text("label", 0, 0, y_label)
        + "</g>",
    ]
    for item in finite:
        points = " ".join(place(item.x[i], item.y[i]) for i in thin(item.y))
        title = f"<title>{escape(item.name)}</title>"
        parts.append(f'<polyline class="{escape(item.look)}" points="{points}">{title}</polyline>')
    return _chart(WIDTH, HEIGHT, f"{y_label} over {x_label}", parts)


def _finite(series: Series) -> Series:
    pairs = [
        (x, y)
        for x, y in zip(series.x, series.y, strict=True)
        if isinstance(y, int | float) and math.isfinite(y)
    ]
    return Series(series.name, [x for x, _ in pairs], [y for _, y in pairs], series.look)


@dataclass(frozen=True)
class Interval:
    """A score between ``low`` and ``high``, fractions; ``look`` is a CSS class."""

    name: str
    value: float
    low: float
    high: float
    look: str = ""


def interval_chart(rows: Sequence[Interval], x_label: str) -> Markup:
    """One line a row from low to high with a dot at the value, on an axis from 0 to 100 %."""
    left, right, line = 92, 62, 32
    width, height = 460, line * len(rows) + 46
    base = height - 40
    span = width - left - right
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * span
        parts.append(_line("grid", x, 4, x, base))
        parts.append(_text("tick", x, base + 16, f"{100 * share:.0f} %"))
    for index, row in enumerate(rows):
        y = 4 + line * index + line / 2
        low, high, value = (left + span * part for part in (row.low, row.high, row.value))
        exact = f"{100 * row.value:.1f} %"
        title = f"{exact}, 95 % interval {100 * row.low:.1f} to {100 * row.high:.1f} %"
        parts += [
            f'<g class="interval {escape(row.look)}"><title>{escape(row.name)}: {title}</title>',
            _text("name", left - 14, y + 4, row.name, "end"),
            _line("range", low, y, high, y),
            _line("range", low, y - 5, low, y + 5),
            _line("range", high, y - 5, high, y + 5),
            f'<circle cx="{value:.1f}" cy="{y:.1f}" r="5"/>',
            _text("value", width - right + 10, y + 4, exact, "start"),
            "</g>",
        ]
    parts.append(_text("label", left + span / 2, height - 6, x_label))
    return _chart(width, height, x_label, parts)


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    threshold: float | None,
    x_label: str,
    y_label: str,
) -> Markup:
    """Bars between edges, with a line at the threshold; those below it look otherwise."""
    across = (WIDTH - LEFT - RIGHT) / (edges[-1] - edges[0])
    most = 1.04 * max(counts)
    base, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    down = (base - TOP) / most

    def x_of(value: float) -> float:
        return LEFT + (value - edges[0]) * across

    parts = []
    for value in ticks(0, most, least=1):
        y = base - value * down
        parts += [
            _line("grid", LEFT, y, WIDTH - RIGHT, y),
            _text("tick", LEFT - 8, y + 4, number(value), "end"),
        ]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        look = "below" if threshold is not None and left < threshold else "above"
        if count:
            x, y, width = x_of(left), base - count * down, (right - left) * across
            title = f"<title>{left:.4g} to {right:.4g}: {count}</title>"
            parts.append(
                f'<rect class="{look}" x="{x:.1f}" y="{y:.1f}" width="{max(width - 0.5, 0.5):.1f}"'
                f' height="{base - y:.1f}">{title}</rect>'
            )
    for value in ticks(edges[0], edges[-1]):
        parts.append(_text("tick", x_of(value), base + 18, number(value)))
    parts += [
        _line("axis", LEFT, base, WIDTH - RIGHT, base),
        _text("label", middle, HEIGHT - 8, x_label),
        f'<g transform="translate(14 {(TOP + base) / 2:.0f}) rotate(-90)">'
        + _text("label", 0, 0, y_label)
        + "</g>",
    ]
    if threshold is not None:
        x = x_of(threshold)
        parts.append(_line("threshold", x, TOP - 6, x, base))
    return _chart(WIDTH, HEIGHT, f"{y_label} by {x_label}", parts)


def standalone(chart: Markup) -> str:
    """A chart as a file of its own, with the looks that the page would give it."""
    style = (
        "<style>text{font:12px sans-serif;fill:#5d666f}.grid{stroke:#e3e5e7}.axis{stroke:#8b949e}"
        ".above{fill:#1f6feb}.below{fill:#b6bcc3}.threshold{stroke:#c0362c;stroke-width:2}"
        "</style>"
    )
    head, _, rest = str(chart).partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def _chart(width: int, height: int, label: str, parts: Sequence[str]) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {width} {height}" role="img"'
    return Markup(f'{head} aria-label="{escape(label)}">{"".join(parts)}</svg>')


def _line(look: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{look}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(look: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{look}" {place}>{escape(text)}</text>'

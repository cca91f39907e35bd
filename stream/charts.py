"""Charts as inline SVG for pages that stand alone: no script, no font, no file besides.

Each is drawn for a width in CSS pixels, so that its text has the size of the page's; a page holds
one for wide and one for narrow screens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 26
ROOM = 44  # pixels that a tick with its unit needs
Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Series:
    """A line of a chart: its name, its CSS class, and its points, y None where there is none."""

    name: str
    css: str
    points: Points


@dataclass(frozen=True)
class _Scale:
    """From values to pixels along one axis."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, self.low)) if self.log else value
        return round(self.start + (at - low) / ((high - low) or 1) * (self.stop - self.start), 1)


def line_chart(series: Sequence[Series], width: int, height: int, x_unit: str, y_log: bool = False) -> str:
    """Return lines over time; x in seconds from 0, y from 0 or, if ``y_log``, on a logarithmic axis."""
    values = [y for line in series for _, y in line.points if y is not None]
    if not values:
        return _nothing(width, height)
    right = max(x for line in series for x, _ in line.points) or 1
    x = _Scale(0, right, LEFT, width - RIGHT)
    y = _log_scale(values, height) if y_log else _Scale(0, max(values) * 1.08 or 1, height - BOTTOM, TOP)
    parts = [_x_axis(x, height, _ticks(0, right, width // 90), x_unit), _y_axis(y, width)]
    for line in series:
        parts += [f'<path class="line {line.css}" d="{piece}"/>' for piece in _pieces(line.points, x, y)]
    return _svg(width, height, "".join(parts), ", ".join(line.name for line in series))


def histogram(
    counts: Sequence[tuple[float, int]], marks: Sequence[tuple[str, float]], width: int, height: int, unit: str
) -> str:
    """Return a histogram of ``(value, count)`` on a logarithmic axis, with marked values by name."""
    counts = [(max(value, 1e-3), count) for value, count in counts]
    if not counts:
        return _nothing(width, height)
    low, high = counts[0][0] / 1.25, counts[-1][0] * 1.25
    x = _Scale(low, high, LEFT, width - RIGHT, log=True)
    bars = max(12, (width - LEFT - RIGHT) // 9)
    step = (x.stop - x.start) / bars
    heights = [0] * bars
    for value, count in counts:
        heights[min(bars - 1, int((x(value) - LEFT) / step))] += count
    total = sum(heights)
    y = _Scale(0, 100 * max(heights) / total * 1.15, height - BOTTOM, TOP + 12)
    parts = [_x_axis(x, height, _log_ticks(low, high, width // 55), unit), _y_axis(y, width, "%")]
    for index, count in enumerate(heights):
        if count:
            top = y(100 * count / total)
            place = f'x="{LEFT + index * step + 0.5:.1f}" y="{top}" width="{step - 1:.1f}"'
            parts.append(f'<rect class="bar" {place} height="{max(0.8, height - BOTTOM - top):.1f}"/>')
    end = -99.0
    for name, value in marks:
        at = x(value)
        parts.append(f'<path class="mark" d="M{at} {TOP + 12}V{height - BOTTOM}"/>')
        if at - end > 8 * len(name):  # names that would lie over one another are left to the table
            parts.append(f'<text x="{at}" y="{TOP + 8}" text-anchor="middle">{escape(name)}</text>')
            end = at
    return _svg(width, height, "".join(parts), f"distribution, {unit}")


def paths(frame: tuple[int, int], tracks: Sequence[tuple[int, Sequence[tuple[float, float]]]], width: int) -> str:
    """Return the paths of tracks, ``(id, [(x, y), ...])`` in pixels, in a frame of ``(width, height)``."""
    scale = width / frame[0]
    height = round(frame[1] * scale)
    parts = [f'<rect class="frame" width="{width}" height="{height}"/>']
    for index, (id_, points) in enumerate(tracks):
        places = [(round((x + 0.5) * scale, 1), round((y + 0.5) * scale, 1)) for x, y in points]
        d = "M" + "L".join(f"{x} {y}" for x, y in places)
        (x, y), css = places[-1], f"hue{index % 8}"
        parts.append(f'<path class="line {css}" d="{d}"><title>track {id_}</title></path>')
        parts.append(f'<circle class="dot {css}" cx="{x}" cy="{y}" r="2.5"/>')
        place = f'x="{x - 5}" text-anchor="end"' if x > width - 40 else f'x="{x + 5}"'
        parts.append(f'<text {place} y="{min(max(y - 4, 11), height - 4):.1f}">{id_}</text>')
    return _svg(width, height, "".join(parts), "paths of the tracks")


def lifetimes(spans: Sequence[tuple[int, float, float]], duration_s: float, width: int) -> str:
    """Return when tracks were there: a bar each of ``(id, start, end)``, seconds."""
    row, height = 14, 14 * len(spans) + BOTTOM + 4
    x = _Scale(0, duration_s or 1, LEFT, width - RIGHT)
    parts = [_x_axis(x, height, _ticks(0, duration_s or 1, width // 90), "s")]
    for index, (id_, start, end) in enumerate(spans):
        y = 4 + index * row
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 10}" text-anchor="end">{id_}</text>')
        place = f'x="{x(start)}" y="{y + 2}" width="{max(2.0, x(end) - x(start)):.1f}" height="{row - 4}"'
        parts.append(f'<rect class="bar hue{index % 8}" rx="2" {place}/>')
    return _svg(width, height, "".join(parts), "when tracks were there")


def _svg(width: int, height: int, inside: str, label: str) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{inside}</svg>'


def _nothing(width: int, height: int) -> str:
    middle = f'x="{width / 2}" y="{height / 2}" text-anchor="middle"'
    return _svg(width, height, f"<text {middle}>nothing was published</text>", "empty")


def _pieces(points: Points, x: _Scale, y: _Scale) -> list[str]:
    """Return the path of each unbroken piece of a line; a single point is drawn as a short dash."""
    pieces: list[list[str]] = [[]]
    for at, value in points:
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{x(at)} {y(value)}")
    return ["M" + "L".join(piece) + ("h2" if len(piece) == 1 else "") for piece in pieces if piece]


def _log_scale(values: Sequence[float], height: int) -> _Scale:
    low, high = max(min(values), 1e-3), max(values)
    return _Scale(low / 1.3, max(high, low) * 1.3, height - BOTTOM, TOP, log=True)


def _x_axis(x: _Scale, height: int, ticks: Sequence[float], unit: str) -> str:
    base = height - BOTTOM
    parts = [f'<path class="axis" d="M{x.start} {base}H{x.stop}"/>']
    if len(ticks) > 1 and x(ticks[-1]) - x(ticks[-2]) < ROOM:  # the last one has the unit beside it
        ticks = [*ticks[:-2], ticks[-1]]
    for index, tick in enumerate(ticks):
        said = f"{tick:g} {unit}" if index == len(ticks) - 1 else f"{tick:g}"
        anchor = "end" if x(tick) > x.stop - 18 else "middle"
        place = f'x="{x(tick)}" y="{base + 16}" text-anchor="{anchor}"'
        parts.append(f'<path class="grid" d="M{x(tick)} {TOP}V{base}"/><text class="tick" {place}>{said}</text>')
    return "".join(parts)


def _y_axis(y: _Scale, width: int, unit: str = "") -> str:
    ticks = _log_ticks(y.low, y.high, 5) if y.log else _ticks(y.low, y.high, 4)
    parts = []
    for tick in ticks:
        place = f'x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end"'
        line = f'<path class="grid" d="M{LEFT} {y(tick)}H{width - RIGHT}"/>'
        parts.append(f'{line}<text class="tick" {place}>{tick:g}{unit}</text>')
    return "".join(parts)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Return round values from ``low`` to ``high``, at most ``most`` + 1 of them."""
    raw = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step)
    return [round(index * step, 9) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return values 1, 2, 5 times powers of ten from ``low`` to ``high``; powers alone where those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [round(factor * 10.0**power, 9) for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    return ticks

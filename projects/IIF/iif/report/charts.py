"""Charts of the page as inline SVG; colours come from the page's classes, text is escaped.

Every mark has its tooltip in ``data-tip``, which the page shows on hover and, with the arrow keys,
on focus. The charts are ``markupsafe.Markup``, with values escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 28, 14, 44
WIDE = 960
GLYPH_WIDTH, GLYPH_HEIGHT = 160, 24

Scale = Literal["linear", "log", "log0"]


@dataclass(frozen=True)
class Mark:
    """One point of a chart: its place in data units, its CSS classes and its tooltip."""

    x: float
    y: float
    css: str
    tip: str


@dataclass(frozen=True)
class Axis:
    """A scale from data to pixels.

    Attributes:
        label: printed along the axis.
        low, high: the data range that is drawn; on a "log" axis both are powers of ten.
        start, end: pixels of low and high.
        scale: "log0" is logarithmic, with room for zero below the lowest decade.
    """

    label: str
    low: float
    high: float
    start: float
    end: float
    scale: Scale = "linear"

    def place(self, value: float) -> float:
        """Return the pixel of a value inside the range."""
        if self.scale == "linear":
            share = (value - self.low) / (self.high - self.low)
        else:
            decades = math.log10(self.high / self.low)
            gap = 0.5 if self.scale == "log0" else 0.0
            above = math.log10(value / self.low) + gap if value > 0 else 0.0
            share = above / (decades + gap)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the values that get a tick, with their text."""
        if self.scale == "linear":
            return [(value, _text(value)) for value in nice_ticks(self.low, self.high)]
        exponents = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
        step = math.ceil(len(exponents) / 7)
        zero = [(0.0, "0")] if self.scale == "log0" else []
        return zero + [(10.0**e, f"{10.0**e:,.10g}") for e in exponents[::step]]


def nice_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Return about ``target`` multiples of 1, 2 or 5 times a power of ten in [low, high]."""
    rough = (high - low) / target
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _text(value: float) -> str:
    return f"{value + 0.0:,.10g}".replace("-", "\N{MINUS SIGN}")


def log_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten around positive values; (1, 10) when there are none."""
    positive = [v for v in values if v > 0]
    if not positive:
        return 1.0, 10.0
    low = 10.0 ** math.floor(math.log10(min(positive)))
    high = 10.0 ** math.ceil(math.log10(max(positive)))
    return low, high if high > low else low * 10


def chart(
    x: Axis,
    y: Axis,
    lines: Sequence[tuple[str, Sequence[Mark]]],
    marks: Sequence[Mark],
    *,
    label: str,
    radius: float = 3.5,
) -> Markup:
    """Return a chart with axes.

    Args:
        x, y: the axes; see `x_axis` and `y_axis`.
        lines: (CSS classes, points) of each polyline; its points get no dots.
        marks: dots with tooltips, in the order in which the arrow keys visit them.
        label: the chart's text for screen readers.
        radius: of the dots, in pixels.
    """
    parts = [_frame(x, y)]
    for css, points in lines:
        path = " ".join(f"{x.place(p.x):.1f},{y.place(p.y):.1f}" for p in points)
        parts.append(Markup('<polyline class="curve {}" points="{}"/>').format(css, path))
    parts += [
        Markup('<circle class="dot hit {}" cx="{}" cy="{}" r="{}" data-tip="{}"/>').format(
            m.css, f"{x.place(m.x):.1f}", f"{y.place(m.y):.1f}", radius, m.tip
        )
        for m in marks
    ]
    width = round(x.end) + RIGHT
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" tabindex="0" data-roving>{}</svg>'
    ).format(width, HEIGHT, label, Markup("").join(parts))


def x_axis(
    label: str, low: float, high: float, scale: Scale = "linear", *, width: int = WIDTH
) -> Axis:
    """Return the horizontal axis of a `chart` that is ``width`` pixels wide."""
    return Axis(label, low, high, LEFT, width - RIGHT, scale)


def y_axis(label: str, low: float, high: float, scale: Scale = "linear") -> Axis:
    """Return the vertical axis of `chart`; the least value is at the bottom."""
    return Axis(label, low, high, HEIGHT - BOTTOM, TOP, scale)


def _frame(x: Axis, y: Axis) -> Markup:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for value, text in y.ticks():
        at = f"{y.place(value):.1f}"
        css = "zero" if value == 0 and y.low < 0 else "grid"
        parts.append(
            Markup(
                '<path class="{}" d="M{} {}H{}"/><text x="{}" y="{}" dy="4" text-anchor="end">{}'
                "</text>"
            ).format(css, LEFT, at, x.end, LEFT - 7, at, text)
        )
    for value, text in x.ticks():
        at = f"{x.place(value):.1f}"
        parts.append(
            Markup(
                '<path class="axis" d="M{} {}v5"/><text x="{}" y="{}" text-anchor="middle">{}'
                "</text>"
            ).format(at, bottom, at, bottom + 18, text)
        )
    parts.append(
        Markup(
            '<path class="axis" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format(
            LEFT, bottom, x.end, (LEFT + x.end) / 2, HEIGHT - 6, x.label,
            middle, y.label,
        )
    )  # fmt: skip
    return Markup("").join(parts)


def histogram(
    names: Sequence[str],
    bars: Sequence[Sequence[tuple[str, int, str]]],
    x_label: str,
    y_label: str,
    *,
    label: str,
) -> Markup:
    """Return upright bars of stacked counts.

    Args:
        names: of the bars, printed below them.
        bars: of each bar (CSS classes, count, tooltip) from the bottom up.
        x_label, y_label: printed along the axes.
        label: the chart's text for screen readers.
    """
    tallest = max(1, *(sum(count for _, count, _ in bar) for bar in bars))
    y = y_axis(y_label, 0.0, float(tallest))
    left, right, bottom = LEFT, WIDE - RIGHT, HEIGHT - BOTTOM
    width = (right - left) / len(bars)
    parts = []
    for value, text in y.ticks():
        if value == int(value):
            at = f"{y.place(value):.1f}"
            parts.append(
                Markup(
                    '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" dy="4" '
                    'text-anchor="end">{}</text>'
                ).format(left, at, right, left - 7, at, text)
            )
    for i, (name, bar) in enumerate(zip(names, bars, strict=True)):
        total, start = 0, left + i * width
        for css, count, tip in bar:
            if count:
                top, base = y.place(total + count), y.place(total)
                parts.append(
                    Markup(
                        '<rect class="column {}" x="{}" y="{}" width="{}" height="{}" '
                        'data-tip="{}"/>'
                    ).format(
                        css, f"{start + 2:.1f}", f"{top:.1f}", f"{width - 4:.1f}",
                        f"{base - top:.1f}", tip,
                    )
                )  # fmt: skip
            total += count
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                f"{start + width / 2:.1f}", bottom + 17, name
            )
        )
    parts.append(
        Markup(
            '<path class="axis" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format(
            left, bottom, right, (left + right) / 2, HEIGHT - 6, x_label,
            (TOP + bottom) / 2, y_label,
        )
    )  # fmt: skip
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" tabindex="0" data-roving>{}</svg>'
    ).format(WIDE, HEIGHT, label, Markup("").join(parts))


def interval_glyph(value: float, low: float, high: float, extent: float, css: str) -> Markup:
    """Return a small picture of an interval about zero.

    Args:
        value, low, high: the difference and its interval.
        extent: the data range drawn is [-extent, extent], and holds every bound.
        css: class of the whisker and dot.
    """

    def place(v: float) -> str:
        return f"{GLYPH_WIDTH / 2 * (1 + 0.96 * v / extent):.1f}"

    middle = GLYPH_HEIGHT / 2
    return Markup(
        '<svg viewBox="0 0 {} {}" aria-hidden="true"><path class="zero" d="M{} 2V{}"/>'
        '<path class="whisker mark-{}" d="M{} {}H{}"/><circle class="mark-{}" cx="{}" cy="{}" '
        'r="3.5"/></svg>'
    ).format(
        GLYPH_WIDTH, GLYPH_HEIGHT, GLYPH_WIDTH / 2, GLYPH_HEIGHT - 2,
        css, place(low), middle, place(high), css, place(value), middle,
    )  # fmt: skip


def stacked_bar(
    parts: Sequence[tuple[str, int, str, str | None]], scale: int, *, label: str
) -> Markup:
    """Return one horizontal bar of stacked counts, as wide as its container.

    Args:
        parts: (CSS classes, count, tooltip, where a click goes) from left to right.
        scale: the count that fills the whole width.
        label: the bar's text for screen readers.
    """
    rects = []
    start = 0
    for css, count, tip, link in parts:
        if count:
            target = Markup(' data-href="{}"').format(link) if link else ""
            rects.append(
                Markup(
                    '<rect class="{}" x="{}%" width="{}%" height="100%" data-tip="{}"{}/>'
                ).format(
                    css, f"{100 * start / scale:.3f}", f"{100 * count / scale:.3f}", tip, target
                )
            )
        start += count
    return Markup(
        '<svg class="bar" role="img" aria-label="{}" tabindex="0" data-roving>{}</svg>'
    ).format(label, Markup("").join(rects))

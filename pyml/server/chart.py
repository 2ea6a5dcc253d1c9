"""One metric of a device as an SVG picture, drawn from arrays.

Colours follow the reader's light or dark scheme. Severities differ by shape too, for readers who
do not see the colours. Each mark has a ``<title>`` that says what it stands for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.server.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    text,
    time_axis,
    value_axis,
    value_range,
)

Floats = NDArray[np.float64]

# Marks drawn between two pulses.
PULSE = 5000

STYLE = """
.pyml-chart{--ground:#fff;--ink:#1b2330;--muted:#5d6878;--grid:#e3e8ee;--line:#2563c9;
--ahead:#7a4fc4;--warning:#a35200;--critical:#c62836;color:var(--ink);
font:13px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){.pyml-chart{--ground:#161d27;--ink:#e6ebf2;--muted:#9aa7b8;
--grid:#2b3644;--line:#6aa5ff;--ahead:#b794f6;--warning:#f0a23c;--critical:#ff7480}}
.pyml-chart text{fill:var(--ink)}.pyml-chart .title{font-size:17px;font-weight:600}
.pyml-chart .muted{fill:var(--muted)}
.pyml-chart .ground{fill:var(--ground)}.pyml-chart .grid{stroke:var(--grid)}
.pyml-chart .line,.pyml-chart .ahead{fill:none;stroke:var(--line);stroke-width:1.5;
stroke-linejoin:round}
.pyml-chart .dot{stroke-width:3;stroke-linecap:round}
.pyml-chart .ahead{stroke:var(--ahead);stroke-dasharray:5 4}
.pyml-chart .band{fill:var(--ahead);fill-opacity:.2}
.pyml-chart .now{stroke:var(--muted);stroke-dasharray:2 3}
.pyml-chart .warning{fill:var(--warning)}.pyml-chart .critical{fill:var(--critical)}
.pyml-chart .span{fill-opacity:.12}
"""
SHAPES = {"warning": "M0-5 5 4H-5Z", "critical": "M0-6 6 0 0 6-6 0Z"}


@dataclass(frozen=True, slots=True)
class Mark:
    """An anomaly: its time, value, severity and score, and the reasons."""

    time: float
    value: float
    severity: str
    score: float
    reasons: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Span:
    """An incident: from when to when, its severity, and what it is in words."""

    start: float
    end: float
    severity: str
    words: str


@dataclass(frozen=True, slots=True)
class Ahead:
    """A forecast; arrays of shape (h,), the times in seconds since the Unix epoch."""

    times: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    level: float


def draw(
    times: Floats,
    values: Floats,
    *,
    title: str,
    subtitle: str,
    unit: str,
    window: tuple[float, float],
    longest_step: float,
    zone: tuple[str, tzinfo],
    spans: Sequence[Span],
    marks: Sequence[Mark],
    ahead: Ahead | None,
    notes: Sequence[str],
    pulse: Callable[[], None] = lambda: None,
) -> str:
    """Draw a metric's history, its device's incidents, its anomalies and its forecast.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch, increasing.
    values : ndarray of float64, shape (n,)
        NaN where missing; one finite value at least.
    title, subtitle : str
    unit : str
        What follows a number on the axis, for instance ``%``.
    window : pair of float
        Seconds; begin of the time axis, and its end if there is no forecast.
    longest_step : float
        Seconds; readings further apart are not joined by a line.
    zone : name and tzinfo
        For the labels on the time axis.
    spans : sequence of Span
    marks : sequence of Mark
        In time order.
    ahead : Ahead or None
    notes : sequence of str
        Said below the picture, one line each.
    pulse : callable
        Called several times a second; what it raises ends the drawing.

    Returns
    -------
    str
        An SVG document.
    """
    known = np.isfinite(values)
    times, values = times[known], values[known]
    everything, end = values, window[1]
    if ahead is not None:
        everything = np.concatenate([values, ahead.lower, ahead.upper])
        end = max(end, float(ahead.times[-1]))
    frame = Frame(window[0], end, *value_range(everything, unit))
    parts = [_span(frame, one, zone[1]) for one in spans]
    parts += [*value_axis(frame, unit), *time_axis(frame, zone[1])]
    if ahead is not None:
        parts += _forecast(frame, ahead, times, values, longest_step)
    parts += _history(frame, times, values, longest_step)
    # The worse ones on top.
    for kind in SHAPES:
        for i, one in enumerate(marks):
            if one.severity == kind:
                parts.append(_mark(frame, one, zone[1]))
            if i % PULSE == PULSE - 1:
                pulse()
    parts += _legend(spans, marks, ahead)
    parts.append(
        f'<text class="muted" x="{WIDTH - RIGHT}" y="{HEIGHT - 16}" text-anchor="end">'
        f"Times in {text(zone[0])}</text>"
    )
    parts += [
        f'<text class="muted" x="16" y="{HEIGHT + 16 * i}" font-size="11">{text(note)}</text>'
        for i, note in enumerate(notes)
    ]
    height = HEIGHT + 16 * len(notes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" class="pyml-chart"'
        f' role="img" aria-labelledby="pyml-title"><style>{STYLE}</style>'
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>'
        f'<text id="pyml-title" class="title" x="16" y="28">{text(title)}</text>'
        f'<text class="muted" x="16" y="48">{text(subtitle)}</text>' + "".join(parts) + "</svg>\n"
    )


def _history(frame: Frame, times: Floats, values: Floats, longest_step: float) -> list[str]:
    parts = []
    for at, of in _pieces(frame, times, values, longest_step):
        if len(at) == 1:  # a line of no length with round ends: a dot
            path = f'class="line dot" d="M{frame.points(at, of)}h0"'
        else:
            path = f'class="line" d="M{frame.points(at, of)}"'
        parts.append(f"<path {path}/>")
    return parts


def _forecast(
    frame: Frame, ahead: Ahead, times: Floats, values: Floats, longest_step: float
) -> list[str]:
    """The forecast's band and line, joined to the last reading if that is near enough."""
    joint = slice(-1 if ahead.times[0] - times[-1] <= longest_step else len(times), None)
    moments = np.concatenate([times[joint], ahead.times])
    lower, predicted, upper = (
        np.concatenate([values[joint], part])
        for part in (ahead.lower, ahead.predicted, ahead.upper)
    )
    outline = f"{frame.points(moments, lower)} {frame.points(moments[::-1], upper[::-1])}"
    return [
        f'<path class="band" d="M{outline}Z"/>',
        f'<path class="ahead" d="M{frame.points(moments, predicted)}"/>',
        f'<path class="now" d="M{frame.x(times[-1]):.1f} {TOP}V{HEIGHT - BOTTOM}"/>',
    ]


def _span(frame: Frame, span: Span, zone: tzinfo) -> str:
    """A band from when to when, two pixels wide at least."""
    left, right = (frame.x(min(max(at, frame.start), frame.end)) for at in (span.start, span.end))
    title = f"{datetime.fromtimestamp(span.start, zone):%Y-%m-%d %H:%M}, {span.severity}"
    size = f'height="{HEIGHT - BOTTOM - TOP}" width="{max(right - left, 2):.1f}"'
    return (
        f'<rect class="span {span.severity}" x="{left:.1f}" y="{TOP}" {size}>'
        f"<title>{text(f'{title}: {span.words}')}</title></rect>"
    )


def _mark(frame: Frame, mark: Mark, zone: tzinfo) -> str:
    moment = datetime.fromtimestamp(mark.time, zone)
    title = f"{moment:%Y-%m-%d %H:%M}, {mark.severity} ({mark.score:.3f})"
    for reason in mark.reasons:
        title += f"\n{reason['sentence']}"
    value = min(max(mark.value, frame.low), frame.high)
    return (
        f'<path class="{mark.severity}" d="{SHAPES[mark.severity]}"'
        f' transform="translate({frame.x(mark.time):.1f} {frame.y(value):.1f})">'
        f"<title>{text(title)}</title></path>"
    )


def _pieces(
    frame: Frame, times: Floats, values: Floats, longest_step: float
) -> list[tuple[Floats, Floats]]:
    """The unbroken pieces of the line, thinned to what a column of pixels can show."""
    share = (times - frame.start) / (frame.end - frame.start)
    kept = _thinned(values, np.floor(share * (WIDTH - LEFT - RIGHT)))
    breaks = np.flatnonzero(np.diff(times) > longest_step) + 1
    pieces = np.split(kept, np.searchsorted(kept, breaks))
    return [(times[inside], values[inside]) for inside in pieces if len(inside)]


def _thinned(values: Floats, columns: Floats) -> NDArray[np.intp]:
    """Indices of the first, smallest, largest and last value in each column of pixels."""
    starts = np.flatnonzero(np.diff(columns, prepend=-np.inf))
    if len(starts) * 4 >= len(values):
        return np.arange(len(values))
    kept: set[int] = set()
    for first, last in zip(starts, [*starts[1:], len(values)], strict=True):
        piece = values[first:last]
        kept |= {int(first), int(last - 1)}
        kept |= {int(first + piece.argmin()), int(first + piece.argmax())}
    return np.array(sorted(kept))


def _legend(spans: Sequence[Span], marks: Sequence[Mark], ahead: Ahead | None) -> list[str]:
    entries = [('<path class="line" d="M-9 0H9"/>', "readings")]
    if spans:
        worst = "critical" if any(one.severity == "critical" for one in spans) else "warning"
        sign = f'<rect class="span {worst}" x="-9" y="-6" width="18" height="12"/>'
        entries.append((sign, f"incident ({len(spans):,})"))
    for severity, shape in SHAPES.items():
        count = sum(mark.severity == severity for mark in marks)
        if count:
            entries.append((f'<path class="{severity}" d="{shape}"/>', f"{severity} ({count:,})"))
    if ahead is not None:
        entries += [
            ('<path class="ahead" d="M-9 0H9"/>', "forecast"),
            (
                '<rect class="band" x="-9" y="-6" width="18" height="12"/>',
                f"{ahead.level:.0%} interval",
            ),
        ]
    parts, place = [], LEFT + 9.0
    for sign, words in entries:
        parts.append(f'<g transform="translate({place} {TOP - 30})">{sign}')
        parts.append(f'<text x="15" y="4">{words}</text></g>')
        place += 42 + 7.2 * len(words)
    return parts

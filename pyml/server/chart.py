"""One metric of a device as an SVG picture, drawn from arrays.

Colours follow the reader's light or dark scheme. Severities differ by shape too, for readers who
do not see the colours. Each mark has a ``<title>`` that says what it stands for.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from html import escape
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Size of the picture and its margins, in pixels.
WIDTH, HEIGHT = 960, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 100, 74
# Room for one label of the time axis and of the value axis, in pixels.
LABEL_WIDTH, LABEL_HEIGHT = 84, 44

# Marks drawn between two pulses.
PULSE = 5000

MINUTE, HOUR, DAY = 60, 3600, 86400
STEPS = (
    *(n * MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR for n in (1, 2, 3, 6, 12)),
    *(n * DAY for n in (1, 2, 7, 14, 30, 60, 90, 180, 365)),
)

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
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
SHAPES = {"warning": "M0-5 5 4H-5Z", "critical": "M0-6 6 0 0 6-6 0Z"}


@dataclass(frozen=True, slots=True)
class Mark:
    """An anomaly: its time, value, severity and score, and the reasons of `pyml.forest.explain`."""

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


@dataclass(frozen=True, slots=True)
class Frame:
    """Maps a time and a value to pixels."""

    start: float
    end: float
    low: float
    high: float

    def x(self, moment: float) -> float:
        """Pixels from the left."""
        return LEFT + (moment - self.start) / (self.end - self.start) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def points(self, times: Floats, values: Floats) -> str:
        """Points of a path."""
        pairs = zip(times.tolist(), values.tolist(), strict=True)
        return " ".join(f"{self.x(t):.1f} {self.y(v):.1f}" for t, v in pairs)


def zone_of(name: str) -> tuple[str, tzinfo]:
    """The time zone that PostgreSQL calls `name`; UTC if IANA has no such zone.

    Returns
    -------
    name : str
    zone : tzinfo
    """
    try:
        return name, ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return "UTC", UTC


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
    frame = Frame(window[0], end, *_range(everything, unit))
    parts = [_span(frame, one, zone[1]) for one in spans]
    parts += [*_value_axis(frame, unit), *_time_axis(frame, zone[1])]
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
        f"Times in {_text(zone[0])}</text>"
    )
    parts += [
        f'<text class="muted" x="16" y="{HEIGHT + 16 * i}" font-size="11">{_text(note)}</text>'
        for i, note in enumerate(notes)
    ]
    height = HEIGHT + 16 * len(notes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" class="pyml-chart"'
        f' role="img" aria-labelledby="pyml-title"><style>{STYLE}</style>'
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>'
        f'<text id="pyml-title" class="title" x="16" y="28">{_text(title)}</text>'
        f'<text class="muted" x="16" y="48">{_text(subtitle)}</text>' + "".join(parts) + "</svg>\n"
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
        f"<title>{_text(f'{title}: {span.words}')}</title></rect>"
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
        f"<title>{_text(title)}</title></path>"
    )


def _text(words: str) -> str:
    """Words as XML takes them, whatever is in them."""
    wrong = r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    return re.sub(wrong, "&#xfffd;", escape(words))  # in letters that any encoding has


def _range(values: Floats, unit: str) -> tuple[float, float]:
    """Ends of the value axis, a little beyond the values."""
    low, high = float(values.min()), float(values.max())
    # A spread that a float's digits do not resolve is none.
    pad = 0.06 * (high - low) if high - low > 1e-9 * abs(high) else 0.05 * abs(high) or 1.0
    if unit == "%":
        return max(0.0, low - pad) if low >= 0 else low - pad, max(min(100.0, high + pad), high)
    return min(0.0, low) if 0 <= low < pad else low - pad, high + pad


def _value_axis(frame: Frame, unit: str) -> list[str]:
    low, high = frame.low, frame.high
    count = (HEIGHT - TOP - BOTTOM) / LABEL_HEIGHT
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
    parts = []
    for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        at = frame.y(i * step)
        parts += [
            f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>',
            f'<text class="muted" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
            f"{number(i * step, step)}{' %' if unit == '%' else ''}</text>",
        ]
    if unit != "%":
        parts.append(f'<text class="muted" x="16" y="{TOP - 10}">{_text(unit)}</text>')
    return parts


def number(value: float, step: float) -> str:
    """A number as an axis label, with as many digits as `step` needs.

    Examples
    --------
    >>> number(0.15, 0.05), number(1_200_000, 200_000), number(40, 10)
    ('0.15', '1.2M', '40')
    """
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(factor, 1e4):
            return number(value / factor, step / factor) + suffix
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}" if digits <= 6 else f"{value:.10g}"


def time_ticks(start: float, end: float, zone: tzinfo, room: int) -> list[float]:
    """At most `room` times that are round in a time zone.

    Parameters
    ----------
    start, end : float
        Seconds since the Unix epoch.
    zone : tzinfo
    room : int

    Returns
    -------
    list of float
        Seconds; a change of the clocks may leave those after it an hour off.
    """
    step = next((one for one in STEPS if (end - start) / one <= room), STEPS[-1])
    midnight = datetime.fromtimestamp(start, zone).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    if step >= DAY:
        days = (midnight + timedelta(days=i) for i in range(int((end - start) // DAY) + 2))
        found = [day.timestamp() for day in days if not day.toordinal() % (step // DAY)]
    else:
        first = midnight.timestamp()
        count = int((end - first) // step) + 1
        found = [first + i * step for i in range(count)]
    return [moment for moment in found if start <= moment <= end]


def _time_axis(frame: Frame, zone: tzinfo) -> list[str]:
    bottom = HEIGHT - BOTTOM
    ticks = time_ticks(frame.start, frame.end, zone, (WIDTH - LEFT - RIGHT) // LABEL_WIDTH)
    parts = [f'<path class="grid" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>']
    before = None
    for moment in ticks:
        local, at = datetime.fromtimestamp(moment, zone), frame.x(moment)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom + 5}"/>')
        label = f'<text class="muted" x="{at:.1f}" text-anchor="middle"'
        day = f"{local.day} {MONTHS[local.month - 1]}"
        if frame.end - frame.start > 200 * DAY:
            day += f" {local.year}"
        if local.date() != before:
            parts.append(f'{label} y="{bottom + 36}">{day}</text>')
        parts.append(f'{label} y="{bottom + 20}">{local:%H:%M}</text>')
        before = local.date()
    return parts


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

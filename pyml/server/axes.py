"""Axes of a picture: where a time and a value stand, and what is written beside them."""

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from html import escape

import numpy as np
from numpy.typing import NDArray

from pyml.seconds import DAY, HOUR, MINUTE

Floats = NDArray[np.float64]

# Size of the picture and its margins, in pixels.
WIDTH, HEIGHT = 960, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 100, 74
# Room for one label of the time axis and of the value axis, in pixels.
LABEL_WIDTH, LABEL_HEIGHT = 84, 44

STEPS = (
    *(n * MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR for n in (1, 2, 3, 6, 12)),
    *(n * DAY for n in (1, 2, 7, 14, 30, 60, 90, 180, 365)),
)
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


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


def value_range(values: Floats, unit: str) -> tuple[float, float]:
    """Ends of the value axis, a little beyond the values."""
    low, high = float(values.min()), float(values.max())
    # A spread that a float's digits do not resolve is none.
    pad = 0.06 * (high - low) if high - low > 1e-9 * abs(high) else 0.05 * abs(high) or 1.0
    if unit == "%":
        return max(0.0, low - pad) if low >= 0 else low - pad, max(min(100.0, high + pad), high)
    return min(0.0, low) if 0 <= low < pad else low - pad, high + pad


def value_axis(frame: Frame, unit: str) -> list[str]:
    """Lines across and their numbers."""
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
        parts.append(f'<text class="muted" x="16" y="{TOP - 10}">{text(unit)}</text>')
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


def time_axis(frame: Frame, zone: tzinfo) -> list[str]:
    """Lines upwards, with times and days in a time zone."""
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


def text(words: str) -> str:
    """Words as XML takes them, whatever is in them."""
    wrong = r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    return re.sub(wrong, "&#xfffd;", escape(words))  # in letters that any encoding has

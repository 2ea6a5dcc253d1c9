"""The picture: round ticks in any time zone, and every value that a pixel could show."""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyml.server import axes, chart
from pyml.zones import zone_of

DAY = 86400
START = datetime(2026, 3, 28, 9, 37, tzinfo=UTC).timestamp()
SVG = "{http://www.w3.org/2000/svg}"
FLOATS = st.floats(-1e15, 1e15, allow_nan=False, allow_subnormal=False)


def picture(times, values, **other):
    """Draw with ordinary arguments, and parse what comes."""
    given = {
        "title": "cpu_usage",
        "subtitle": "device",
        "unit": "%",
        "window": (float(times[0]), float(times[-1]) + 60),
        "longest_step": 600.0,
        "zone": ("UTC", UTC),
        "spans": [],
        "marks": [],
        "ahead": None,
        "notes": [],
    }
    return ElementTree.fromstring(chart.draw(times, values, **given | other))


def parts(root, kind):
    return [one for one in root.iter() if kind in one.get("class", "").split()]


def words(root):
    return [text.text for text in root.iter(f"{SVG}text")]


def points(path):
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", path.get("d").removesuffix("h0"))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize("name", ["UTC", "Europe/Paris", "Asia/Kathmandu", "America/St_Johns"])
@pytest.mark.parametrize("hours", [1, 6, 24, 72, 168, 1000, 20_000])
def test_ticks_are_round_on_the_zones_own_clock(name, hours):
    zone = ZoneInfo(name)
    found = axes.time_ticks(START, START + hours * 3600, zone, 10)
    assert 2 <= len(found) <= 11
    assert all(START <= moment <= START + hours * 3600 for moment in found)
    local = [datetime.fromtimestamp(moment, zone) for moment in found]
    assert {moment.second for moment in local} == {0}
    assert all(moment.minute % 5 == 0 for moment in local) or hours == 1
    if hours >= 168:
        assert {(moment.hour, moment.minute) for moment in local} == {(0, 0)}


def test_zones_that_python_does_not_know_are_none():
    assert zone_of("Europe/Paris") == ZoneInfo("Europe/Paris")
    for name in ("<+03>-03", "FOO5BAR", "/etc/passwd", "../x"):
        assert zone_of(name) is None


def test_a_thinned_line_keeps_every_extreme():
    times = START + np.arange(50_000) * 60.0
    values = 20 + np.sin(np.arange(50_000) / 900.0)
    values[[777, 31_234]] = [90.0, 1.0]
    (line,) = parts(picture(times, values), "line")[:1]
    drawn = points(line)
    assert len(drawn) < 4 * chart.WIDTH
    ys = [y for _, y in drawn]
    top, bottom = min(ys), max(ys)
    assert bottom - top > 0.85 * (chart.HEIGHT - chart.TOP - chart.BOTTOM)
    assert sum(y < top + 1 for y in ys) == sum(y > bottom - 1 for y in ys) == 1


def test_a_gap_breaks_the_line_and_a_lone_reading_is_a_dot():
    times = START + np.array([0.0, 60, 120, 7200, 14_400, 14_460])
    root = picture(times, np.arange(6.0))
    lines = parts(root, "line")[:3]
    assert [line.get("class") for line in lines] == ["line", "line dot", "line"]
    assert [len(points(one)) for one in (lines[0], lines[2])] == [3, 2]


def test_the_forecast_goes_on_from_the_last_reading_unless_that_is_old():
    times = START + np.arange(100) * 60.0
    values = np.full(100, 50.0)
    for delay, joined in ((60.0, 1), (6000.0, 0)):
        steps = times[-1] + delay + np.arange(12) * 60.0
        ahead = chart.Ahead(steps, np.full(12, 50.0), np.full(12, 40.0), np.full(12, 60.0), 0.9)
        root = picture(times, values, ahead=ahead)
        assert len(points(parts(root, "ahead")[0])) == 12 + joined
        assert len(points(parts(root, "band")[0])) == 2 * (12 + joined)
        assert "90% interval" in words(root)


def test_a_mark_says_what_it_stands_for():
    times = START + np.arange(10) * 60.0
    why = [{"sentence": "cpu_usage is 97.2 %, usually 40 %"}, {"sentence": "<b> is missing"}]
    mark = chart.Mark(times[4], 97.25, "critical", -0.7, why)
    zone = ("Asia/Tokyo", ZoneInfo("Asia/Tokyo"))
    root = picture(times, np.full(10, 97.25), marks=[mark], zone=zone)
    (found,) = [one for one in parts(root, "critical") if len(one)]
    said = "\n".join(reason["sentence"] for reason in why)
    assert found[0].text == f"2026-03-28 18:41, critical (-0.700)\n{said}"
    assert "critical (1)" in words(root)
    assert "Times in Asia/Tokyo" in words(root)


@pytest.mark.slow
@given(
    values=st.lists(FLOATS, min_size=1, max_size=40),
    title=st.text(),
    unit=st.sampled_from(["%", "per second", ""]),
)
def test_whatever_the_values_it_is_a_picture(values, title, unit):
    times = START + np.arange(len(values)) * 60.0
    given = np.array([*values, np.nan])
    root = picture(np.append(times, times[-1] + 60), given, title=title, unit=unit)
    for line in parts(root, "line"):
        if line.get("d") == "M-9 0H9":  # the legend's
            continue
        for x, y in points(line)[: len(values)]:
            assert chart.LEFT - 1 <= x <= chart.WIDTH - chart.RIGHT + 1
            assert chart.TOP - 1 <= y <= chart.HEIGHT - chart.BOTTOM + 1
    labels = [text for text in words(root) if text and text.endswith(" %")]
    assert (unit == "%") == bool(labels)
    assert len(labels) == len(set(labels))


def test_an_incident_is_a_band_that_says_what_it_is():
    times = START + np.arange(0, 3600, 60.0)
    spans = [
        chart.Span(START + 600, START + 1200, "critical", "cpu_usage is <odd>"),
        chart.Span(START - 9000, START - 8000, "warning", "before the window"),
        chart.Span(START + 3000, START + 3000, "warning", "a moment"),
    ]
    root = picture(times, np.arange(60.0), spans=spans)
    bands = [one for one in parts(root, "span") if len(one)]
    assert [one.get("class") for one in bands] == ["span critical", "span warning", "span warning"]
    assert bands[0][0].text == "2026-03-28 09:47, critical: cpu_usage is <odd>"
    assert float(bands[0].get("width")) > 100
    assert [float(one.get("width")) for one in bands[1:]] == [2.0, 2.0]
    assert "incident (3)" in words(root)

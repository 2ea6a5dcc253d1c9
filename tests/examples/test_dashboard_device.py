"""The page of a device in a real browser on a real database."""

import re

import psycopg
import pytest
from playwright.sync_api import Page, expect

from .conftest import ATHENS, BERLIN, ODD, PARIS, PHONE, ready
from .test_api_server import environment

pytestmark = pytest.mark.browser


def plotted(page: Page, key: str) -> list[tuple[float, float]]:
    """The points of one part of the picture: milliseconds and value."""
    found = page.evaluate(
        "key => Chart.getChart('plot').data.datasets.find(d => d.key === key)?.data"
        ".map(p => [p.x, p.y]) ?? []",
        key,
    )
    return [tuple(one) for one in found]


def rows(dsn, statement, *args) -> list[tuple]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(statement, args).fetchall()


def test_a_devices_picture_is_what_sql_says(api, fleet, visit):
    page = ready(visit(f"{api}/#/device/{BERLIN}?field=cpu_usage&hours=168"))
    milliseconds = 'floor(extract(epoch FROM "timestamp") * 1000)::float8'
    history = f"SELECT {milliseconds}, value FROM ml_zscore(%s, 'cpu_usage', 168) ORDER BY 1"
    assert len(plotted(page, "history")) > 1000
    assert plotted(page, "history") == rows(fleet.dsn, history, BERLIN)
    for severity in ("warning", "critical"):
        marked = rows(
            fleet.dsn,
            f"SELECT {milliseconds}, (metrics ->> 'cpu_usage')::float8 FROM ml_anomalies"
            " WHERE device_uuid = %s AND severity = %s ORDER BY 1",
            *(BERLIN, severity),
        )
        assert plotted(page, severity) == marked
    steps = rows(
        fleet.dsn,
        f"SELECT {milliseconds}, predicted_value, confidence_lower, confidence_upper"
        " FROM ml_forecasts WHERE device_uuid = %s ORDER BY 1",
        BERLIN,
    )
    assert len(steps) == 12
    joint = plotted(page, "history")[-1]
    for place, key in ((1, "forecast"), (2, "lower"), (3, "upper")):
        assert plotted(page, key) == [joint, *((step[0], step[place]) for step in steps)]
    assert {y for _, y in plotted(page, "limit")} == {3}
    page.get_by_text("Forecast until").click()
    shown = page.locator("#forecast tbody tr td:nth-child(2)").all_inner_texts()
    assert [float(text.removesuffix(" %")) for text in shown] == pytest.approx(
        [step[1] for step in steps], abs=0.051
    )


def test_an_anomaly_says_why_to_the_mouse_and_to_the_keyboard(api, fleet, visit):
    page = ready(visit(f"{api}/#/device/{PARIS}?field=cpu_usage&hours=168"))
    canvas = page.locator("#plot")
    canvas.focus()
    canvas.press("ArrowLeft")
    spot, metric = told_of_an_anomaly(page, fleet)
    expect(page.locator(".picture [aria-live=polite]")).to_contain_text(f"{metric} ")
    told = "Chart.getChart('plot').tooltip.dataPoints.some(p => p.raw.anomaly)"
    canvas.hover(position={"x": 0.8 * spot["x"], "y": spot["y"]})
    page.wait_for_function(f"!{told}")
    canvas.hover(position=spot)
    page.wait_for_function(told)
    told_of_an_anomaly(page, fleet)


def told_of_an_anomaly(page: Page, fleet) -> tuple[dict[str, float], str]:
    """Hold what the picture tells of an anomaly against the log.

    Gives where in the picture it is, and the metric of its first reason.
    """
    moment, lines, x, y = page.evaluate(
        "(() => { const t = Chart.getChart('plot').tooltip;"
        " const i = t.dataPoints.findIndex(p => p.raw.anomaly);"
        " return [t.dataPoints[i].raw.anomaly.timestamp, t.body[i].lines, t.caretX, t.caretY];})()"
    )
    severity, metric = rows(
        fleet.dsn,
        "SELECT severity, reasons -> 0 ->> 'metric' FROM ml_anomalies"
        ' WHERE device_uuid = %s AND "timestamp" = %s',
        *(PARIS, moment),
    )[0]
    assert lines[0] == f"{severity}:"
    assert lines[1].startswith(f"{metric} ")
    return {"x": x, "y": y}, metric


def test_a_device_without_a_model_shows_its_history(api, visit):
    page = ready(visit(f"{api}/#/device/{ATHENS}"))
    expect(page.locator("h1")).to_contain_text("untrained")
    assert len(plotted(page, "history")) > 1000
    assert "SELECT ml_train_lstm(" in page.locator("main").inner_text()


def test_a_device_of_any_id_is_found_and_named(odd_forecast, serve, visit):
    odd = odd_forecast
    with serve(**environment(odd)) as address:
        page = ready(visit(address, viewport=PHONE))
        page.goto(f"{address}/#/devices")
        expect(page.locator(".devices .id")).to_have_text([ODD, "cpu_usage"])
        page.locator(".devices").get_by_role("link", name="Hall clock").click()
        expect(page.locator("h1")).to_contain_text("Hall clock")
        expect(page.locator(".id")).to_have_text(ODD)
        ready(page)
        assert len(plotted(page, "forecast")) > 1
        page.locator("#hours").select_option("3")
        page.wait_for_url(re.compile("hours=3$"))
        expect(page.locator("h1")).to_contain_text("Hall clock")
        page.evaluate("location.hash = location.hash.replace('cpu_usage', 'memory')")
        expect(page.get_by_role("alert")).to_contain_text("field memory holds no usable number")
        statement = page.locator("code").inner_text()
    assert odd.execute(statement).fetchone()

"""The pages of a device and of capacity, in a real browser on a real database."""

import csv
import re
from datetime import datetime

import psycopg
import pytest
from playwright.sync_api import Page, expect

from .conftest import ATHENS, BERLIN, ODD, PARIS, PHONE, ready, trouble
from .test_api_server import environment

pytestmark = pytest.mark.browser

MOMENT = 'floor(extract(epoch FROM "timestamp") * 1000)::float8'


def plotted(page: Page, key: str) -> list[tuple[float, float]]:
    """The points of one part of the picture: milliseconds and value."""
    found = page.evaluate(
        "key => Chart.getChart('plot').data.datasets.find(d => d.key === key)?.data"
        ".map(p => [p.x, p.y]) ?? []",
        key,
    )
    return [tuple(one) for one in found]


def span(page: Page) -> tuple[float, float]:
    """From when to when the picture goes, in seconds."""
    found = page.evaluate(
        "(() => { const x = Chart.getChart('plot').scales.x; return [x.min, x.max]; })()"
    )
    return found[0] / 1000, found[1] / 1000


def asked(page: Page) -> tuple[float, float]:
    """From when to when the address says."""
    moments = re.search(r"from=([^&]+)&to=([^&]+)", page.url).groups()
    return tuple(datetime.fromisoformat(moment).timestamp() for moment in moments)


def rows(dsn, statement, *args) -> list[tuple]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(statement, args).fetchall()


# ---- the large picture -------------------------------------------------------------


def test_the_picture_is_what_sql_says(api, fleet, visit):
    page = ready(visit(f"{api}/#/device/{BERLIN}?field=cpu_usage&hours=48"))
    assert 500 < len(plotted(page, "history")) <= 1000  # of 2880
    for severity in ("warning", "critical"):
        marked = rows(
            fleet.dsn,
            f"SELECT {MOMENT}, (metrics ->> 'cpu_usage')::float8 FROM ml_anomalies"
            " WHERE device_uuid = %s AND severity = %s ORDER BY 1",
            *(BERLIN, severity),
        )
        assert plotted(page, severity) == marked
    steps = rows(
        fleet.dsn,
        f"SELECT {MOMENT}, predicted_value, confidence_lower, confidence_upper"
        " FROM ml_forecasts WHERE device_uuid = %s ORDER BY 1",
        BERLIN,
    )
    assert len(steps) == 12
    joint = plotted(page, "history")[-1]
    for place, key in ((1, "forecast"), (2, "forecast_low"), (3, "forecast_high")):
        assert plotted(page, key) == [joint, *((step[0], step[place]) for step in steps)]
    assert {y for _, y in plotted(page, "limit_high")} == {3}
    page.get_by_text("Forecast until").click()
    shown = page.locator("#forecast tbody tr td:nth-child(2)").all_inner_texts()
    assert [float(text.removesuffix(" %")) for text in shown] == pytest.approx(
        [step[1] for step in steps], rel=0.006
    )


def test_it_is_moved_and_zoomed_and_the_address_says_so(api, fleet, visit):
    page = ready(visit(f"{api}/#/device/{PARIS}?field=cpu_usage"))
    first, last = span(page)
    assert last - first == pytest.approx(86_400, abs=5)
    box = page.locator("#plot").bounding_box()
    at = [(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"]) for share in (0.5, 0.8)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile("from="))
    begin, end = span(ready(page))
    assert (begin, end) == asked(page)
    assert first < begin < end < last
    history = (
        f"SELECT {MOMENT}, value"
        " FROM ml_history(%s, 'cpu_usage', to_timestamp(%s), to_timestamp(%s))"
    )
    assert plotted(page, "history") == rows(fleet.dsn, history, PARIS, begin, end)
    page.get_by_role("button", name="Earlier").press("Enter")
    page.wait_for_function(f"Chart.getChart('plot').scales.x.min < {1000 * begin}")
    assert span(ready(page)) == asked(page)
    assert span(page)[1] - span(page)[0] == pytest.approx(end - begin, abs=2)
    expect(page.get_by_role("button", name="Earlier")).to_be_focused()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "web-paris_cpu_usage.csv"
    with open(download.value.path(), newline="") as file:
        table = [one for one in csv.DictReader(file) if one["value"]]
    assert [float(one["value"]) for one in table] == [y for _, y in plotted(page, "history")]
    page.go_back()
    page.wait_for_function(f"Chart.getChart('plot').scales.x.min === {1000 * begin}")
    page.locator("#range-6").click()
    page.wait_for_url(re.compile("field=cpu_usage&hours=6$"))
    ready(page)
    assert span(page)[1] - span(page)[0] == pytest.approx(21_600, abs=5)


def test_an_anomaly_says_why_to_the_mouse_and_to_the_keyboard(api, fleet, visit):
    page = ready(visit(f"{api}/#/device/{PARIS}?field=cpu_usage&hours=48"))
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


def test_an_incident_is_a_span_that_leads_to_its_sentence(api, fleet, visit):
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, ATHENS) as number:
        page = ready(visit(f"{api}/#/device/{ATHENS}?hours=6"))
        expect(page.locator("h1")).to_contain_text("critical")
        x, y = page.evaluate(  # of two hours ago: it began an hour before
            "(() => { const c = Chart.getChart('plot'); return"
            " [c.scales.x.getPixelForValue(Date.now() - 72e5), c.chartArea.top + 20]; })()"
        )
        page.locator("#plot").hover(position={"x": x, "y": y})
        page.wait_for_function(
            "Chart.getChart('plot').tooltip.footer.join(' ').includes('has stood at <i>50.7</i>')"
        )
        page.locator("#plot").click(position={"x": x, "y": y})
        incident = page.locator(f"#incident-{number}")
        expect(incident).to_be_focused()
        incident.get_by_role("button", name="Acknowledge").click()
        page.keyboard.press("Enter")
        expect(incident).to_contain_text("acknowledged by ")


# ---- all metrics -------------------------------------------------------------------


def test_every_metric_is_small_and_one_of_them_large(api, fleet, visit):
    with psycopg.connect(fleet.dsn, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO ml_metric (name, path, unit)"
            " VALUES ('age', 'health.uptime', 's'), ('own', 'no.such', NULL)"
        )
        try:
            page = ready(visit(f"{api}/#/device/{PARIS}?hours=24"))
            small = page.locator(".multiple")
            measured = conn.execute(
                "SELECT metric, min(value), max(value) FROM ml_histories(%s) GROUP BY 1 ORDER BY 1",
                [PARIS],
            ).fetchall()
            assert small.locator(".name").all_inner_texts() == [name for name, *_ in measured]
            assert "age" in dict.fromkeys(name for name, *_ in measured)
            cpu = page.locator("#metric-cpu_usage")
            expect(cpu).to_have_attribute("aria-current", "true")
            ((_, low, high),) = (one for one in measured if one[0] == "cpu_usage")
            expect(cpu).to_contain_text(f"{low:.3g} % to {high:.3g} %")
            assert "One sample in 60 s." in cpu.get_attribute("title")
            page.locator("#metric-age").press("Enter")
            page.wait_for_url(re.compile("field=age&hours=24$"))
            ready(page)
            expect(page.locator("#metric-age")).to_have_attribute("aria-current", "true")
            expect(page.locator("#metric-age")).to_be_focused()
            assert len(plotted(page, "history")) > 500
            assert page.evaluate("Chart.getChart('plot').options.scales.y.title.text") == "age (s)"
            page.locator("#others").click()
            page.get_by_role("link", name="own").click()
            expect(page.locator(".picture")).to_contain_text("field no.such holds no usable number")
        finally:
            conn.execute("DELETE FROM ml_metric WHERE name IN ('age', 'own')")


# ---- devices of all kinds ----------------------------------------------------------


def test_a_device_without_a_model_shows_its_history(api, visit):
    page = ready(visit(f"{api}/#/device/{ATHENS}"))
    expect(page.locator("h1")).to_contain_text("untrained")
    assert len(plotted(page, "history")) > 500
    expect(page.locator(".legend")).to_contain_text("not scanned")
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
        page.locator("#range-6").click()
        page.wait_for_url(re.compile("hours=6$"))
        expect(page.locator("h1")).to_contain_text("Hall clock")
        page.evaluate("location.hash += '&field=memory'")
        expect(page.locator(".picture")).to_contain_text("field memory holds no usable number")
        statement = page.locator(".picture code").inner_text()
    assert odd.execute(statement).fetchone()


# ---- days ahead --------------------------------------------------------------------

# A disk that fills up, and a rhythm of the day; four rows an hour for nine days.
FILLING = """
INSERT INTO devices (uuid, name) VALUES (%(device)s, 'one');
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, jsonb_build_object('system', jsonb_build_object(
    'cpuUsage', 50 + 20 * sin(i / 96.0 * 2 * pi()) + i * 7919 %% 5,
    'diskUsage', 800 - i / 2.0, 'diskTotal', 1000)),
    now() AT TIME ZONE 'UTC' - i * interval '15 minutes' FROM generate_series(0, 864) AS i;
UPDATE ml_setting SET value = '20' WHERE name = 'n_estimators';
SELECT ml_train_forest(%(device)s);
CALL ml_scan();
"""


def test_what_fills_up_leads_to_its_outlook(db, serve, visit):
    with psycopg.ClientCursor(db) as cursor:
        for statement in FILLING.split(";\n"):
            if statement:
                cursor.execute(statement, {"device": ATHENS})
    reached = db.execute(
        "SELECT metric, earliest IS NOT NULL FROM ml_capacity ORDER BY earliest"
    ).fetchall()
    assert reached[0] == ("disk_usage_percent", True)
    with serve(**environment(db)) as address:
        page = ready(visit(f"{address}/#/capacity"))
        row = page.locator(".limits tbody tr").first
        for part in ("disk_usage_percent", "90 %", "+4.8 %", "in 2 days"):
            expect(row).to_contain_text(part)
        far = page.get_by_text(re.compile(r"limits? of which it is not known"))
        far.click()
        expect(page.locator("main")).to_contain_text("memory_usage_percent: field ")
        row.get_by_role("link", name="one").click()
        page.wait_for_url(re.compile("field=disk_usage_percent&hours=168$"))
        ready(page)
        expect(page.locator("main")).to_contain_text(
            "It reaches its upper limit of 90 % at the earliest "
        )
        ahead = db.execute(
            f"SELECT {MOMENT}, predicted_value, lower_80, upper_90"
            " FROM ml_outlook(%s, 'disk_usage_percent', 2) OFFSET 1",
            [ATHENS],
        ).fetchall()
        for place, key in ((1, "outlook"), (2, "outlook_80_low"), (3, "outlook_90_high")):
            assert plotted(page, key)[1:] == [(one[0], one[place]) for one in ahead]
        page.locator("#metric-cpu_usage").click()
        page.wait_for_url(re.compile("field=cpu_usage"))
        expect(page.locator(".legend")).to_contain_text("usual")
        ready(page)
        band = plotted(page, "usual_low")
        usual = db.execute(
            "SELECT low FROM ml_usual(%s, 'cpu_usage', to_timestamp(%s), to_timestamp(%s))",
            [ATHENS, band[0][0] / 1000, band[-1][0] / 1000],
        ).fetchall()
        assert [y for _, y in band] == pytest.approx([low for (low,) in usual], abs=0.001)
        assert max(y for _, y in band) - min(y for _, y in band) > 30  # it follows the day


def test_where_nothing_is_known_it_is_said(db, serve, visit):
    db.execute("INSERT INTO devices (uuid, name) VALUES (%s, 'new')", [ATHENS])
    db.execute("SELECT _ml_meet(ARRAY[%s::uuid])", [ATHENS])
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading)"
        " VALUES (%s, now(), 'scanned', now() - interval '5 hours')",
        [ATHENS],
    )
    with serve(**environment(db)) as address:
        page = ready(visit(f"{address}/#/capacity"))
        expect(page.locator(".empty")).to_contain_text("No limit is watched")
        page.goto(f"{address}/#/device/{ATHENS}")
        expect(page.locator(".picture")).to_contain_text("has no readings in the window")
        expect(page.locator("main")).to_contain_text("None is open, and none was in this time.")
        ready(page)

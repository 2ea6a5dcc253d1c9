"""The page in a real browser on a real database: its figures, states, keys and sizes."""

import re
import shutil
from collections.abc import Callable, Iterator

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .conftest import ATHENS, BERLIN, ODD, PARIS, VIENNA, trouble
from .test_api_server import SHOWN, environment

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A first statement of a new connection takes its time on a busy machine.
expect.set_options(timeout=15_000)
PHONE, TABLET = {"width": 390, "height": 844}, {"width": 880, "height": 1180}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("there is no chromium here: sudo apt-get install chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page of the dashboard; a script's error or a foreign address fails the test."""
    contexts, wrong = [], []

    def visit(address: str, **options) -> Page:
        contexts.append(browser.new_context(timezone_id="Asia/Tokyo", **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda one: (
                one.url.startswith((address.split("/#")[0], "data:")) or wrong.append(one.url)
            ),
        )
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def ready(page: Page) -> Page:
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    return page


def refresh(page: Page) -> None:
    """Have the page ask again, as it does when the network is back."""
    page.evaluate("window.dispatchEvent(new Event('online'))")


# ---- figures -----------------------------------------------------------------------


def test_the_fleets_figures_are_those_of_sql(api, fleet, visit):
    page = ready(visit(api))
    tiles = dict(
        page.locator(".tile").evaluate_all(
            "all => all.map(t => [t.querySelector('dt').textContent,"
            " t.querySelector('dd').textContent])"
        )
    )
    health = fleet.ask("SELECT to_jsonb(h) FROM ml_fleet_health h")
    assert tiles["Devices"] == str(fleet.ask("SELECT count(*) FROM ml_device_status"))
    for name, column in (
        ("Anomalies, 24 h", "anomalies_24h"),
        ("Open incidents", "open_incidents"),
    ):
        assert tiles[name] == str(health[column]), name
    badges = [text.split()[-1] for text in page.locator(".devices .badge").all_inner_texts()]
    for status in ("critical", "failing", "warning", "silent", "untrained"):
        assert tiles[status.capitalize()] == str(badges.count(status)) == str(health[status])
    rows = page.locator(".devices tbody tr").evaluate_all(
        "all => all.map(r => [...r.children].map(c => c.textContent))"
    )
    expected = fleet.ask(
        "SELECT jsonb_object_agg(d.name || d.uuid, s.anomalies_24h)"
        " FROM ml_device_status s JOIN devices d ON d.uuid = s.device_uuid"
    )
    assert {row[0]: int(row[3]) for row in rows} == expected
    told = page.locator(".incident").all_text_contents()
    summaries = fleet.ask(f"SELECT array_agg(device_name || ': ' || summary) FROM {SHOWN}")
    assert len(told) == len(summaries) > 0
    assert all(any(summary in text for text in told) for summary in summaries)
    breach = page.locator(".breach", has_text="archive-berlin").inner_text()
    assert "archive-berlin system.cpuUsage is forecast at or above its limit of 3" in breach


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
    expect(page.locator("[aria-live=polite]")).to_contain_text(f"{metric} ")
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
        expect(page.locator(".devices .id")).to_have_text(ODD)
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


@pytest.mark.long
def test_a_long_id_stays_within_the_page(odd, serve, visit):
    odd.execute("INSERT INTO telemetry SELECT repeat('x', 1000), at, doc FROM telemetry")
    odd.execute("CALL ml_scan()")
    with serve(**environment(odd)) as address:
        page = ready(visit(address))
        page.get_by_role("link", name="xxx").click()
        expect(page.locator("h1")).to_contain_text("xxx")
        for place in ("#/", f"#/device/{1000 * 'x'}", f"#/device/{1001 * 'x'}"):
            page.goto(f"{address}/{place}")
            for size in (TABLET, PHONE):
                page.set_viewport_size(size)
                assert ready(page).evaluate("document.documentElement.scrollWidth") <= size["width"]


# ---- keys and sizes ----------------------------------------------------------------


def test_everything_is_reached_by_keyboard(api, visit):
    page = ready(visit(api))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    link = f"device-{VIENNA}"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == link:
            break
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("sensor-vienna")
    ready(page)
    page.locator("#hours").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_url(re.compile("hours=72"))
    ready(page)
    expect(page.locator("#hours")).to_have_value("72")
    page.go_back()
    expect(page.locator("#hours")).to_have_value("24")


def test_a_refresh_leaves_the_focus_where_it_was(api, visit):
    page = ready(visit(api))
    link = page.locator(f"#device-{PARIS}")
    link.focus()
    with page.expect_response("**/fleet"):
        refresh(page)
    ready(page)
    expect(link).to_be_focused()


@pytest.mark.parametrize("place", ["", f"#/device/{BERLIN}"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_scheme(api, visit, place, scheme):
    page = ready(visit(f"{api}/{place}", viewport=TABLET, color_scheme=scheme))
    for size in (TABLET, PHONE):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    ink, ground = page.evaluate(
        "(() => { const s = getComputedStyle(document.body);"
        " return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).map(Number)); })()"
    )
    assert (sum(ink) < sum(ground)) == (scheme == "light")
    poor = page.evaluate(CONTRAST)
    assert poor == []


# WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text.
CONTRAST = r"""(() => {
  const channels = (c) => c.match(/[\d.]+/g).map(Number);
  const light = (c) => channels(c).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    const own = getComputedStyle(e).backgroundColor;
    return channels(own)[3] === 0 ? ground(e.parentElement) : own;
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll("body *")].filter((e) => own(e) && e.offsetParent)
    .filter((e) => {
      const pair = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
      return (pair[0] + 0.05) / (pair[1] + 0.05) < 4.5;
    })
    .map((e) => e.outerHTML.slice(0, 80));
})()"""


# ---- states ------------------------------------------------------------------------


def test_what_happens_is_shown_without_a_reload(api, fleet, visit):
    page = ready(visit(f"{api}/#/device/{ATHENS}"))
    expect(page.locator("main")).to_contain_text("None is open, and none was in the last day.")
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, ATHENS):
        conn.execute(
            'INSERT INTO ml_anomaly (device_uuid, "timestamp", tier, score, severity, metrics,'
            " reasons, model_id) VALUES (%s, now(), 'forest', -0.7, 'critical',"
            ' \'{"cpu_usage": 99}\', \'[{"metric": "cpu_usage", "kind": "high", "sentence":'
            ' "cpu_usage is 99 %%, usually 1 to 50 %%", "value": 99, "usual_low": 1,'
            ' "usual_high": 50, "contribution": 1}]\', 1)',
            [ATHENS],
        )
        try:
            refresh(page)
            incident = page.locator(".incident")
            expect(incident).to_contain_text("temperature has stood at <i>50.7</i> °C for 3 h")
            expect(incident).to_contain_text("open · since ")
            expect(page.locator(".anomaly")).to_contain_text("cpu_usage is 99 %, usually 1 to 50 %")
            expect(page.locator("h1")).to_contain_text("critical")
            page.goto(f"{api}/#/")
            expect(page).to_have_title(re.compile(r"\(\d+\) Fleet"))
        finally:
            conn.execute("DELETE FROM ml_anomaly WHERE device_uuid = %s", [ATHENS])


def test_an_incident_is_acknowledged_and_resolved(api, fleet, visit):
    page = ready(visit(api))
    notes = ["the <b>fan</b> is on order", ""]
    page.on("dialog", lambda one: one.accept(notes.pop(0)) if notes else one.dismiss())
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, ATHENS) as number:
        refresh(page)
        incident = page.locator(f"#incident-{number}")
        expect(incident.get_by_role("link", name="meter-athens")).to_be_visible()
        acknowledge, resolve = (
            incident.get_by_role("button", name=name) for name in ("Acknowledge", "Resolve")
        )
        acknowledge.press("Enter")
        expect(incident).to_contain_text("acknowledged by ")
        expect(incident).to_contain_text("“the <b>fan</b> is on order”")
        expect(incident).to_be_focused()
        expect(acknowledge).to_have_count(0)
        resolve.click()
        expect(incident).to_contain_text("resolved by ")
        expect(resolve).to_have_count(0)
        kept = "SELECT state, note FROM ml_incident WHERE incident_id = %s"
        assert rows(fleet.dsn, kept, number) == [("resolved", "the <b>fan</b> is on order")]


def test_what_cannot_be_done_is_said_and_what_is_cancelled_is_not_asked_for(api, fleet, visit):
    page = ready(visit(api))
    with psycopg.connect(fleet.dsn, autocommit=True) as conn:
        with trouble(conn, ATHENS) as number:
            refresh(page)
            resolve = page.locator(f"#resolve-{number}")
            page.once("dialog", lambda one: one.dismiss())
            resolve.click()
            expect(resolve).to_be_visible()
        page.once("dialog", lambda one: one.accept())
        resolve.click()
        expect(page.locator("#notice")).to_contain_text(
            f"That was not done. there is no incident {number}"
        )


def test_who_may_only_read_has_no_buttons(db, serve, visit):
    role = f"page_{db.info.dbname}"
    db.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        db.execute("SELECT ml_grant(%s, 'read')", [role])
        db.execute(
            "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading)"
            " VALUES (%s, now(), 'scanned', now())",
            [ATHENS],
        )
        with trouble(db, ATHENS), serve(**environment(db, PGUSER=role)) as address:
            page = ready(visit(address))
            expect(page.locator(".incident")).to_contain_text("temperature has stood at")
            expect(page.locator(".incident button")).to_have_count(0)
    finally:
        db.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_an_empty_fleet_says_what_to_do(db, serve, visit):
    with serve(**environment(db)) as address:
        page = ready(visit(address))
        expect(page.locator(".empty")).to_contain_text("CALL ml_scan();")


def test_late_scans_are_told_and_names_stay_text(db, serve, visit):
    name = "<img src=x onerror=alert(1)>"
    db.execute("INSERT INTO devices (uuid, name) VALUES (%s, %s)", [ATHENS, name])
    db.execute("SELECT _ml_meet(ARRAY[%s::uuid])", [ATHENS])
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading)"
        " VALUES (%s, now() - interval '2 hours', 'scanned', now() - interval '5 hours')",
        [ATHENS],
    )
    with serve(**environment(db)) as address:
        page = ready(visit(address))
        expect(page.locator("#notice")).to_contain_text("The last scan was 2 h ago.")
        expect(page.locator(".devices")).to_contain_text("silent")
        page.get_by_role("link", name=name).click()
        expect(page.locator("h1")).to_contain_text(name)
        expect(page.locator(".picture")).to_contain_text("No reading of cpu_usage")
        expect(page.get_by_role("link", name="Look at the last 3 days")).to_be_visible()


def test_loading_is_shown_when_it_takes_a_while(api, visit, browser):
    page = ready(visit(api))
    page.route("**/devices/*", lambda route: None)  # an answer that does not come
    page.locator(f"#device-{PARIS}").click()
    expect(page.locator(".ghost").first).to_be_visible()
    expect(page.locator("#freshness")).to_have_text("loading …")
    expect(page.locator("main")).to_have_attribute("aria-busy", "true")


def test_a_lost_server_leaves_what_was_known_and_says_so(fleet, serve, visit):
    with serve(**fleet.environment) as address:
        page = ready(visit(address))
    refresh(page)
    expect(page.locator("#notice")).to_contain_text("Not refreshed since")
    assert page.locator(".devices tbody tr").count() == 8
    expect(page.locator("main")).to_have_class("stale")
    expect(page.locator("#freshness")).to_contain_text("as of")
    with serve(**fleet.environment, PORT=address.rpartition(":")[2]):
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#freshness")).to_contain_text("live")


def test_a_token_is_asked_for_once(fleet, serve, visit):
    token = "0123456789abcdef"
    with serve(**fleet.environment, TOKENS=f"act {token}") as address:
        page = ready(visit(address))
        for given in ("wrong" + token, token):
            page.get_by_label("Token").fill(given)
            page.get_by_label("Token").press("Enter")
        expect(page.locator(".devices tbody tr")).to_have_count(8)
        page.reload()
        expect(page.locator(".devices tbody tr")).to_have_count(8)
        page.locator(f"#device-{PARIS}").click()
        expect(page.locator("h1")).to_contain_text("web-paris")


def test_a_refusal_is_shown_with_its_hint(api, visit):
    page = ready(visit(f"{api}/#/device/00000000-0000-0000-0000-000000000000"))
    expect(page.get_by_role("alert").last).to_contain_text("has no model and was never scanned")
    expect(page.locator("main")).to_contain_text("CALL ml_scan();")
    page.get_by_role("link", name="To the fleet").click()
    expect(page.locator(".devices tbody tr")).to_have_count(8)

"""The list of devices in a real browser on a real database."""

import psycopg
import pytest
from playwright.sync_api import expect

from .conftest import ATHENS, BERLIN, PARIS, PHONE, TABLET, ready, refresh, trouble
from .test_api_server import environment

pytestmark = pytest.mark.browser


def test_devices_are_as_sql_has_them(api, fleet, visit):
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, BERLIN):
        page = ready(visit(f"{api}/#/devices?sort=name"))
        rows = page.locator(".devices tbody tr").evaluate_all(
            "all => all.map(r => [r.querySelector('a').textContent,"
            " r.querySelector('.badge').textContent.split(' ').pop(),"
            " Number(r.querySelector('.open').textContent)])"
        )
        expected = conn.execute(
            "SELECT device_name, status, open_incidents FROM ml_device_status ORDER BY device_name"
        ).fetchall()
        assert [tuple(row) for row in rows] == expected
        # Its line is of the metric that its trouble is about, and ends with the last value.
        line = page.locator(f"#row-{BERLIN} .spark-of")
        expect(line).to_contain_text("temperature")
        last = "SELECT last_value FROM ml_signals WHERE device_uuid = %s AND metric = 'temperature'"
        assert f"at last {fleet.ask(last, BERLIN):g} °C" in line.get_attribute("title")
        assert len(line.locator("polyline").get_attribute("points").split()) > 30
        expect(page.locator(f"#row-{ATHENS} .spark-of")).to_have_count(0)  # it has no model
        page.locator(f"#open-{BERLIN}").click()
        page.wait_for_url(f"**/#/?device={BERLIN}")
        expect(page.locator(".incident").first).to_contain_text("temperature has stood")


HUNDREDS = """
INSERT INTO ml_device (device_uuid, device_id, device_name)
SELECT md5(i::text)::uuid, md5(i::text), to_char(i, '"machine "FM000')
FROM generate_series(1, 200) AS i;
INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading, silent_from)
SELECT md5(i::text)::uuid, now(), 'scanned', now() - i * interval '1 minute',
    CASE WHEN i % 20 = 0 THEN now() ELSE now() + interval '1 day' END
FROM generate_series(1, 200) AS i;
UPDATE ml_device SET device_name = '<img src=x onerror=alert(1)>' WHERE device_id = md5('1');
UPDATE ml_scan_state SET outcome = 'failed', sqlstate = 'ML005', error = 'a <b>bad</b> model'
WHERE device_uuid = md5('1')::uuid;
"""


def machine(number: int) -> str:
    return f"machine {number:03}"


def test_a_fleet_of_hundreds_is_searched_filtered_sorted_and_paged(db, serve, visit):
    with serve(**environment(db)) as address:
        page = ready(visit(f"{address}/#/devices?sort=name", viewport=TABLET))
        expect(page.locator(".empty")).to_contain_text("CALL ml_scan();")
        db.execute(HUNDREDS)
        refresh(page)
        names = page.locator(".devices tbody a")
        expect(names).to_have_count(50)
        first = page.locator(".devices tbody tr").first
        expect(first).to_contain_text("<img src=x onerror=alert(1)>")  # text stays text
        expect(first).to_contain_text("a <b>bad</b> model")
        page.get_by_role("button", name="Load more").click()
        expect(names).to_have_text([names.first.inner_text(), *map(machine, range(2, 101))])
        page.get_by_role("link", name="10 silent").click()
        page.wait_for_url("**/#/devices?sort=name&status=silent")
        expect(names).to_have_text([*map(machine, range(20, 201, 20))])
        page.get_by_role("link", name="last reading").click()
        expect(names.first).to_have_text("machine 020")
        page.get_by_role("link", name="last reading").click()
        expect(names.first).to_have_text("machine 200")
        page.get_by_label("Search").fill("E 04")
        page.get_by_label("Search").press("Enter")
        expect(names).to_have_text(["machine 040"])
        expect(page.locator(".figures")).to_have_text("1 device of that kind")
        page.get_by_label("Search").fill("%")
        page.get_by_label("Search").press("Enter")
        expect(page.locator("main")).to_contain_text("No device is like that.")
        page.get_by_role("link", name="Show all").click()
        expect(names).to_have_count(50)
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollHeight") < 6000
        expect(names.nth(1)).to_be_visible()


def test_a_refresh_leaves_the_focus_where_it_was(api, visit):
    page = ready(visit(f"{api}/#/devices"))
    link = page.locator(f"#device-{PARIS}")
    link.focus()
    with page.expect_response("**/devices?*"):
        refresh(page)
    ready(page)
    expect(link).to_be_focused()


@pytest.mark.long
def test_a_long_id_stays_within_the_page(odd, serve, visit):
    odd.execute("INSERT INTO telemetry SELECT repeat('x', 1000), at, doc FROM telemetry")
    odd.execute("CALL ml_scan()")
    with serve(**environment(odd)) as address:
        page = ready(visit(f"{address}/#/devices"))
        page.get_by_role("link", name="xxx").click()
        expect(page.locator("h1")).to_contain_text("xxx")
        for place in ("", "devices", f"device/{1000 * 'x'}", f"device/{1001 * 'x'}"):
            page.goto(f"{address}/#/{place}")
            for size in (TABLET, PHONE):
                page.set_viewport_size(size)
                assert ready(page).evaluate("document.documentElement.scrollWidth") <= size["width"]

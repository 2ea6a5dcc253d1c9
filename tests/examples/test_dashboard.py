"""The inbox in a real browser on a real database, and what holds of every page."""

import json
import re
from contextlib import contextmanager

import psycopg
import pytest
from playwright.sync_api import expect

from .conftest import (
    ATHENS,
    BERLIN,
    PHONE,
    SERVER,
    TABLET,
    VIENNA,
    flood,
    ready,
    refresh,
    trouble,
)
from .test_api_server import environment

pytestmark = pytest.mark.browser

OPEN = "ml_incidents WHERE state <> 'resolved'"


@pytest.fixture(scope="module")
def conn(fleet):
    with psycopg.connect(fleet.dsn, autocommit=True) as conn:
        yield conn


def scanned(db):
    """Write that a device was scanned."""
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading, silent_from)"
        " VALUES (%s, now() - interval '1 minute', 'scanned', now() - interval '1 hour', now())",
        [ATHENS],
    )


# ---- what is shown -----------------------------------------------------------------


def test_the_inbox_is_what_sql_says(api, fleet, conn, visit):
    with trouble(conn, ATHENS) as number:
        page = ready(visit(api))
        told = page.locator("section[aria-label=Incidents] .incident").evaluate_all(
            "all => all.map(one => one.id)"
        )
        numbers = fleet.ask(f"SELECT array_agg(incident_id ORDER BY started_at DESC) FROM {OPEN}")
        assert told == [f"incident-{one}" for one in numbers]
        incident = page.locator(f"#incident-{number}")
        # Text stays text.
        sentence = "meter-athens: temperature has stood at <i>50.7</i> °C for 3 h"
        expect(incident).to_contain_text(sentence)
        expect(incident).to_contain_text("stuck · open · began 3 h ago")
        expect(page).to_have_title(f"({len(numbers)}) Inbox · pyml")
        counted = fleet.ask(
            "SELECT jsonb_object_agg(status, n) FROM"
            " (SELECT status, count(*) AS n FROM ml_device_status GROUP BY status) AS s"
        )
        for status, count in counted.items():
            link = page.locator(f"#figure-{status}")
            assert link.inner_text().split()[1:] == [str(count), status]
            assert link.get_attribute("href") == f"#/devices?status={status}"
        week, expected = conn.execute(
            "SELECT incidents_7d, round(expected_7d)::int FROM ml_fleet_health"
        ).fetchone()
        expect(page.locator(".figures")).to_contain_text(f"{week} incident")
        expect(page.locator(".figures")).to_contain_text(f"about {expected} to be expected")
        over = fleet.ask(
            "SELECT count(*) FROM ml_incidents WHERE state = 'resolved'"
            " AND ended_at > now() - interval '1 day'"
        )
        ended = page.locator("section", has_text="Over within a day").locator(".incident")
        expect(ended).to_have_count(over)
        assert page.locator(".figures [title]").count() == len(counted) + 3


def test_filters_are_links_and_the_address_holds_them(api, conn, visit):
    with trouble(conn, ATHENS) as number, trouble(conn, VIENNA) as other:
        noted = "UPDATE ml_incident SET severity = 'warning', note = 'Ask Ada'"
        conn.execute(f"{noted} WHERE incident_id = %s", [other])
        page = ready(visit(api))
        one, two = (page.locator(f"#incident-{each}") for each in (number, other))
        page.get_by_text("Severity and kind").click()
        page.get_by_role("link", name="warning", exact=True).last.click()
        expect(two).to_be_visible()
        expect(one).to_have_count(0)
        page.get_by_role("link", name="stuck", exact=True).click()
        page.wait_for_url("**/#/?severity=warning&kind=stuck")
        ready(page)
        chosen = page.locator("[aria-current=true]")
        expect(chosen).to_have_text(["not resolved", "warning", "stuck"])
        page.goto(f"{api}/#/?search=ask%20ada&device={VIENNA}")
        expect(page.get_by_label("Search")).to_have_value("ask ada")
        expect(one).to_have_count(0)
        expect(two).to_be_visible()
        page.get_by_label("Search").fill("nobody's")
        page.get_by_label("Search").press("Enter")
        expect(page.locator("main")).to_contain_text("No incident is like that.")
        page.get_by_role("link", name="Show all that are open").click()
        expect(one).to_be_visible()


def test_what_many_have_at_once_is_one_line_that_opens(api, conn, visit):
    with flood(conn) as numbers:
        page = ready(visit(api))
        many = page.locator(f"#incident-flood-{numbers[0]}")
        expect(many).to_contain_text("8 of 8 devices: ")
        expect(page.locator(f"#incident-{numbers[3]}")).to_have_count(0)
        many.get_by_text("Each device").click()
        expect(many.locator(".incident")).to_have_count(8)
        refresh(page)
        ready(page)
        expect(many.locator(".incident")).to_have_count(8)
        many.get_by_role("button", name="Acknowledge all").click()
        many.get_by_label("Note").first.fill("power cut")
        many.get_by_label("Note").first.press("Enter")
        known = many.locator(".incident", has_text="acknowledged by ")
        expect(known.filter(has_text="“power cut”")).to_have_count(8)
        page.goto(f"{api}/#/?severity=critical")  # something narrower: each by itself
        expect(page.locator(f"#incident-{numbers[3]}")).to_be_visible()
        expect(many).to_have_count(0)


def test_what_happens_is_shown_without_a_reload(api, conn, visit):
    page = ready(visit(api))
    expect(page.locator("#freshness")).to_have_text("live")
    with trouble(conn, ATHENS) as number:
        incident = page.locator(f"#incident-{number}")
        conn.execute("SELECT _ml_put_event(%s, %s, 'opened', now(), false)", [number, ATHENS])
        expect(incident).to_be_visible()
        expect(page.locator("#spoken")).to_contain_text("meter-athens: temperature has stood")
        incident.get_by_role("link").focus()
        conn.execute("SELECT ml_acknowledge(%s)", [number])
        expect(incident).to_contain_text("acknowledged by ")
        expect(incident.get_by_role("link")).to_be_focused()


def test_without_the_stream_it_asks_and_says_so(api, conn, visit):
    page = ready(visit(api))
    page.context.route("**/events", lambda route: route.abort())
    page.reload()
    ready(page)
    expect(page.locator("#freshness")).to_contain_text("asked at ")
    assert "every 15 seconds" in page.locator("#freshness").get_attribute("title")
    page.context.unroute("**/events")
    refresh(page)
    expect(page.locator("#freshness")).to_have_text("live")


# ---- what is done ------------------------------------------------------------------


def test_an_incident_is_acknowledged_and_resolved(api, conn, visit):
    with trouble(conn, ATHENS) as number:
        page = ready(visit(api))
        incident = page.locator(f"#incident-{number}")
        note = incident.get_by_label("Note")
        acknowledge, resolve = (
            page.locator(f"#{does}-{number}") for does in ("acknowledge", "resolve")
        )
        acknowledge.press("Enter")
        expect(note).to_be_focused()
        page.keyboard.type("the <b>fan</b>")
        with page.expect_response("**/incidents?*"):
            refresh(page)  # what is being said stays
        ready(page)
        expect(note).to_be_focused()
        page.keyboard.type(" is on order")
        page.keyboard.press("Enter")
        expect(incident).to_contain_text("acknowledged by ")
        expect(incident).to_contain_text("“the <b>fan</b> is on order”")
        expect(incident).to_be_focused()
        expect(acknowledge).to_have_count(0)
        resolve.click()
        page.keyboard.press("Escape")
        expect(resolve).to_be_focused()
        expect(note).to_have_count(0)
        resolve.click()
        page.keyboard.press("Enter")
        expect(incident).to_contain_text("resolved by ")
        expect(incident).to_be_focused()
        kept = "SELECT state, note FROM ml_incident WHERE incident_id = %s"
        assert conn.execute(kept, [number]).fetchone() == ("resolved", "the <b>fan</b> is on order")


def test_no_fault_shows_the_rule_before_it_is_made(api, fleet, conn, visit):
    with found_again(conn) as number:
        page = ready(visit(api))
        incident = page.locator(f"#incident-{number}")
        page.locator(f"#not-a-fault-{number}").click()
        expect(incident).to_contain_text("This would have kept it quiet.")
        statement = incident.locator("code").inner_text()
        assert "INSERT INTO" in statement
        rules = "SELECT count(*) FROM ml_rules"
        assert fleet.ask(rules) == 0
        incident.get_by_label("Note").fill("doors open")
        incident.get_by_role("button", name="Make this rule").click()
        expect(incident).to_contain_text("resolved by ")
        assert fleet.ask(rules) == statement.count("'incident ")
        assert fleet.ask("SELECT min(reason) FROM ml_rules") == "doors open"


@contextmanager
def found_again(conn):
    """The number of an incident with what it is made of, which is open for a while."""
    (number,) = conn.execute(
        "UPDATE ml_incident i SET state = 'open', resolved_at = NULL, why = NULL"
        " FROM (SELECT min(f.incident_id) AS number FROM ml_finding f) AS f"
        " WHERE i.incident_id = f.number RETURNING i.incident_id"
    ).fetchone()
    try:
        yield number
    finally:
        conn.execute("DELETE FROM ml_rule; DELETE FROM ml_quiet")
        conn.execute("SELECT ml_resolve(%s)", [number])


def test_what_cannot_be_done_is_said(api, conn, visit):
    with trouble(conn, ATHENS) as number:
        page = ready(visit(api))
        # Made by hand: what it is made of is not there.
        page.locator(f"#not-a-fault-{number}").click()
        expect(page.locator(f"#incident-{number}")).to_contain_text("are no longer there")
        page.get_by_role("button", name="Close").click()
        page.locator(f"#resolve-{number}").click()
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text(
        f"That was not done. there is no incident {number}"
    )


def test_who_may_only_read_has_no_buttons(db, serve, visit):
    role = f"page_{db.info.dbname}"
    db.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        db.execute("SELECT ml_grant(%s, 'read')", [role])
        scanned(db)
        with trouble(db, ATHENS), serve(**environment(db, PGUSER=role)) as address:
            page = ready(visit(address))
            expect(page.locator(".incident")).to_contain_text("temperature has stood at")
            expect(page.locator(".incident button")).to_have_count(0)
    finally:
        db.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


# ---- states ------------------------------------------------------------------------


SIXTY = """
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, summary, evidence, updated_at)
SELECT %s, 'level', 'open', 'warning', 'm' || i, now() - i * interval '1 hour', now(), now(),
    'number ' || i, '{}', now() FROM generate_series(1, 60) AS i
"""


def test_from_nothing_over_late_scans_to_more_than_a_page(db, serve, visit):
    with serve(**environment(db)) as address:
        page = ready(visit(address))
        nothing = page.locator(".empty")
        expect(nothing).to_contain_text("CALL ml_scan();")
        scanned(db)
        refresh(page)
        expect(nothing).to_contain_text("Nothing is open")
        expect(nothing).to_contain_text("1 device, the longest ago scanned 1 min ago.")
        expect(page.locator("#figure-silent")).to_contain_text("1 silent")
        db.execute("UPDATE ml_scan_state SET scanned_at = now() - interval '2 hours'")
        db.execute(SIXTY, [ATHENS])
        refresh(page)
        expect(page.locator("#notice")).to_contain_text("The last scan was 2 h ago.")
        more = page.get_by_role("button", name="Load more")
        for count in (25, 50, 60):
            expect(page.locator(".incident")).to_have_count(count)
            if count < 60:
                more.click()
        expect(more).to_be_hidden()
        told = page.locator(".incident").all_inner_texts()
        assert [int(re.search(r"number (\d+)", text)[1]) for text in told] == [*range(1, 61)]
        with page.expect_response("**/incidents?*limit=60"):
            refresh(page)
        expect(page.locator(".incident")).to_have_count(60)


def test_loading_is_shown_when_it_takes_a_while(api, visit):
    page = ready(visit(api))
    page.route("**/devices?*", lambda route: None)  # an answer that does not come
    page.get_by_role("link", name="Devices", exact=True).click()
    expect(page.locator(".ghost").first).to_be_visible()
    expect(page.locator("#freshness")).to_have_text("loading …")
    expect(page.locator("main")).to_have_attribute("aria-busy", "true")


def test_a_token_is_asked_for_once_and_a_lost_server_leaves_what_was_known(fleet, serve, visit):
    token = "0123456789abcdef"
    settings = fleet.environment | {"TOKENS": f"act {token}"}
    with serve(**settings) as address:
        page = ready(visit(f"{address}/#/devices"))
        page.get_by_label("Token").fill("wrong" + token)
        with page.expect_response("**/devices*"):
            page.get_by_label("Token").press("Enter")
        expect(page.locator("#why")).to_have_text("this token is not known here.")
        page.get_by_label("Token").fill(token)
        with page.expect_response("**/devices*"):
            refresh(page)
        expect(page.get_by_label("Token")).to_have_value(token)  # what is being typed stays
        page.get_by_label("Token").press("Enter")
        expect(page.locator(".devices tbody tr")).to_have_count(8)
        expect(page.locator("#freshness")).to_have_text("live")  # the stream has it, too
        page.reload()
        ready(page)
    expect(page.locator("#notice")).to_contain_text("Not refreshed since")  # the stream has ended
    expect(page.locator(".devices tbody tr")).to_have_count(8)
    expect(page.locator("main")).to_have_class("stale")
    expect(page.locator("#freshness")).to_contain_text("as of")
    with serve(**settings, PORT=address.rpartition(":")[2]):
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#freshness")).to_have_text("live")


def test_a_refusal_is_shown_with_its_hint(api, visit):
    page = ready(visit(f"{api}/#/device/00000000-0000-0000-0000-000000000000"))
    expect(page.get_by_role("alert").last).to_contain_text("has no model and was never scanned")
    expect(page.locator("main")).to_contain_text("CALL ml_scan();")
    page.get_by_role("link", name="To the inbox").click()
    expect(page.locator("h1")).to_have_text("Inbox")


# ---- for everybody -----------------------------------------------------------------

AXE = (SERVER / "node_modules/axe-core/axe.min.js").read_text
PAGES = ["", "#/devices", f"#/device/{BERLIN}", "#/capacity"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_for_everybody_on_any_screen(api, conn, visit, scheme):
    with flood(conn), trouble(conn, ATHENS) as number:
        conn.execute("UPDATE ml_incident SET kind = 'level' WHERE incident_id = %s", [number])
        page = visit(api, viewport=TABLET, color_scheme=scheme)
        for place in PAGES:
            page.goto(f"{api}/{place}")
            ready(page)
            if place == "":
                page.get_by_text("Severity and kind").click()
                page.get_by_text("Each device").click()
                page.locator(f"#resolve-{number}").click()
            for size in (TABLET, PHONE):
                page.set_viewport_size(size)
                assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], place
            page.evaluate(AXE())
            found = page.evaluate("axe.run().then(found => found.violations)")
            bad = [one for one in found if one["impact"] in ("serious", "critical")]
            assert bad == [], json.dumps([[one["help"], one["nodes"][0]["html"]] for one in bad])
            ink, ground = page.evaluate(
                "(() => { const s = getComputedStyle(document.body);"
                " return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).map(Number)); })()"
            )
            assert (sum(ink) < sum(ground)) == (scheme == "light")


def test_everything_is_reached_by_keyboard(api, visit):
    page = ready(visit(api))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for name in ("Inbox", "Devices"):
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        while not link.evaluate("one => one === document.activeElement"):
            page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Devices")
    expect(link).to_have_attribute("aria-current", "page")
    sort = page.get_by_role("link", name=re.compile("^name"))
    while not sort.evaluate("one => one === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/devices?sort=name")
    ready(page)
    expect(sort).to_have_text("name ↓")  # the list is sorted, so the link is the next one
    expect(sort).to_be_focused()  # not thrown back to the begin of the page
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/devices?sort=-name")
    page.go_back()
    expect(sort).to_have_text("name ↓")

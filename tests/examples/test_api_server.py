"""The API server on a real database: every route, its documents, errors and cancels."""

import json
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack

import jsonschema
import psycopg
import pytest

from .conftest import ATHENS, BERLIN, ODD, PARIS, VIENNA, flood, run, trouble

pytestmark = pytest.mark.slow

NOBODY = "00000000-0000-0000-0000-000000000000"


def ask(address, path, method="GET", body=None, **headers):
    """Status and document of a request; names of headers with _ for -."""
    request = urllib.request.Request(address + path, body and body.encode(), method=method)
    if body:
        request.add_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, document_of(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def document_of(answer):
    text = answer.read().decode()
    return text if answer.headers["Content-Type"].startswith("text/plain") else json.loads(text)


def do(address, call):
    """The same, of a request in one line."""
    method, path, *body = call.split(" ", 2)
    return ask(address, path, method, *body)


# ---- documents ---------------------------------------------------------------------

# Each route with the statement whose document it has to give; None where the statement
# is the server's own and the page's tests look at what it says.
FORESTS = f"""jsonb_set(i, '{{models}}', (SELECT jsonb_agg(m)
    FROM jsonb_array_elements(i -> 'models') AS m WHERE m ->> 'kind' = 'forest'))
FROM ml_model_info('{PARIS}') AS i"""
ROUTES = {
    f'POST /ml/anomalies/train/{VIENNA} {{"hours": 6, "contamination": 0.02}}': None,
    f'POST /ml/forecasts/train/{VIENNA} {{"field": "system.cpuUsage", "hours": 12}}': None,
    f"GET /ml/anomalies/detect/{PARIS}?hours=72": f"ml_detect('{PARIS}', hours => 72)",
    f"GET /ml/forecasts/predict/{BERLIN}?horizon=5": f"ml_forecast('{BERLIN}', horizon => 5)",
    f"GET /ml/anomalies/model-info/{PARIS}": FORESTS,
    f"GET /ml/forecasts/model-info/{BERLIN}?field=system.cpuUsage": None,
    "GET /devices?search=a&status=untrained&status=ok&status=critical&sort=-last_reading": None,
    f"GET /devices/{PARIS}/twin": None,
    "GET /fleet/capacity?limit=3": None,
    f"GET /devices/{PARIS}/twin/history?field=cpu_usage&points=50": None,
    f"GET /devices/{PARIS}/twin/anomalies?hours=30": None,
    f"GET /devices/{PARIS}/signals": None,
    f"GET /devices/{BERLIN}?hours=12": None,
    f"GET /devices/{PARIS}/metrics?points=20": None,
    f"GET /devices/{ATHENS}": None,
    f"GET /fleet/sparks?device={PARIS}&device={ATHENS}": None,
    "GET /fleet/health": None,
    "GET /fleet/alerts": None,
    "GET /fleet/incidents": None,
    "GET /incidents?state=open&state=acknowledged&severity=critical&limit=5": None,
    "GET /incidents/{id}": None,
    'POST /incidents/{id}/acknowledge {"note": "on my way"}': None,
    "POST /incidents/{id}/resolve {}": None,
    "GET /health": None,
    "GET /metrics": None,
}


def route_of(call):
    """A call's method and path as OpenAPI has it."""
    path = re.match("[A-Z]+ [^? ]+", call)[0]
    for device in (PARIS, BERLIN, ATHENS, VIENNA, urllib.parse.quote(ODD, safe="")):
        path = path.replace(device, "{device}")
    return path


def test_every_route_is_looked_at(schemas):
    assert {*map(route_of, ROUTES), *ELSEWHERE} == set(schemas)


@pytest.fixture
def stuck(fleet):
    """The number of an incident of Vienna's."""
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, VIENNA) as number:
        yield number


@pytest.mark.parametrize("call", ROUTES)
def test_a_document_is_as_the_types_say(api, fleet, schemas, stuck, call):
    status, document = do(api, call.replace("{id}", str(stuck)))
    assert status == 200, document
    jsonschema.validate(document, schemas[route_of(call)], jsonschema.Draft202012Validator)
    if ROUTES[call]:
        same = fleet.ask(f"SELECT {ROUTES[call]}")
        for each in (document, same):
            each.get("model_info", {}).pop("last_reading_age_seconds", None)
        assert document == {"device_id": document["device_id"], **same}


# By tests of their own: test_api_events.py, test_api_rules.py.
ELSEWHERE = [
    "GET /events",
    "GET /devices/{device}/outlook",
    "GET /rules",
    "POST /rules",
    "DELETE /rules/{id}",
    "POST /quiet",
    "DELETE /quiet/{id}",
    "POST /incidents/{id}/not-a-fault",
    "POST /fleet/incidents/{id}/acknowledge",
    "POST /fleet/incidents/{id}/resolve",
]


@pytest.mark.usefixtures("command")
def test_the_dashboards_types_are_sound():
    """The server's own are looked at when it is built."""
    run("npm", "exec", "--", "tsc", "-p", "../dashboard")


def test_the_z_scores_are_those_of_sql(api, fleet):
    _, document = ask(api, f"/devices/{PARIS}/twin/anomalies?field=cpu_usage&threshold=3&hours=72")
    assert document["statistics"]["dataPoints"] > 2000
    assert len(document["anomalies"]) == document["anomalyDetection"]["detected"]["total"] > 0
    assert len(document["anomalies"]) == fleet.ask(
        "SELECT count(*) FROM ml_zscore(%s, 'cpu_usage', 72, 3) WHERE is_anomaly", PARIS
    )


def test_the_fleets_routes_agree_with_the_views(api, fleet):
    _, whole = ask(api, "/devices")
    _, health = ask(api, "/fleet/health")
    _, alerts = ask(api, "/fleet/alerts")
    counted = "SELECT count(*) FROM ml_device_status"
    assert len(whole["devices"]) == health["totalDevices"] == fleet.ask(counted) == 8
    status = {device["name"]: device["status"] for device in whole["devices"]}
    assert status == fleet.ask("SELECT jsonb_object_agg(device_name, status) FROM ml_device_status")
    # Its CPU is forecast to pass the limit.
    assert status["archive-berlin"] in ("critical", "warning")
    assert status["meter-athens"] in ("untrained", "learning")
    for name in ("failing", "warning", "silent", "learning", "untrained"):
        assert health[name] == list(status.values()).count(name)
    assert health["health"]["critical"] == list(status.values()).count("critical")
    assert health["health"]["healthy"] == list(status.values()).count("ok")
    assert health["open_incidents"] == sum(device["open_incidents"] for device in whole["devices"])
    (alert,) = (one for one in alerts["alerts"] if one["deviceUuid"] == BERLIN)
    assert alert["alerts"][-1].startswith("system.cpuUsage is forecast to reach 3 % at ")


def pages(address, path, of):
    """What all pages of a list have, in order."""
    found, cursor = [], None
    while True:
        after = "" if cursor is None else f"&cursor={urllib.parse.quote(cursor, safe='')}"
        status, page = ask(address, path + after)
        assert status == 200, page
        assert 0 < len(page[of]) <= 3
        found += page[of]
        cursor = page["next"]
        if cursor is None:
            return found


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("name", 'lower(device_name) COLLATE "C"'),
        (
            "status",
            "array_position('{critical,failing,warning,silent,learning,untrained,ok}', status)",
        ),
        ("last_reading", "coalesce(last_reading_at, 'epoch')"),
        ("open_incidents", "open_incidents"),
    ],
)
def test_devices_come_by_pages_in_any_order(api, fleet, sort, order):
    for minus, direction in (("", "ASC"), ("-", "DESC")):
        found = pages(api, f"/devices?limit=3&sort={minus}{sort}", "devices")
        assert [one["device_uuid"] for one in found] == fleet.ask(
            f"SELECT array_agg(device_uuid::text ORDER BY {order} {direction},"
            f" device_uuid {direction}) FROM ml_device_status"
        )
    _, whole = ask(api, "/devices")
    by_uuid = {one["device_uuid"]: one for one in whole["devices"]}
    assert all(by_uuid[one["device_uuid"]] == one for one in found)


def test_devices_are_found_by_name_id_and_status(api, fleet):
    _, found = ask(api, "/devices?search=PARIS")
    assert [one["name"] for one in found["devices"]] == ["web-paris"]
    assert (found["total"], found["next"]) == (1, None)
    _, found = ask(api, f"/devices?search={BERLIN[3:20]}")
    assert [one["device_uuid"] for one in found["devices"]] == [BERLIN]
    for nothing in ("no such name", "%", "_"):
        _, found = ask(api, f"/devices?search={urllib.parse.quote(nothing)}")
        assert found == {"devices": [], "total": 0, "next": None}
    _, found = ask(api, "/devices?status=untrained&status=ok&limit=1")
    counted = "SELECT count(*) FROM ml_device_status WHERE status IN ('untrained', 'ok')"
    assert found["total"] == fleet.ask(counted) > 0
    assert {one["status"] for one in found["devices"]} <= {"untrained", "ok"}


def test_a_fleet_of_thousands_is_paged(db, serve):
    db.execute(
        "INSERT INTO ml_device (device_uuid, device_id, device_name)"
        " SELECT md5(i::text)::uuid, md5(i::text)::uuid, 'machine ' || i / 2"
        " FROM generate_series(1, 5000) AS i;"
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading)"
        " SELECT device_uuid, now(), 'scanned', now() - interval '2 hours' FROM ml_device"
    )
    with serve(**environment(db)) as address:
        found, cursor = [], ""
        while cursor is not None:
            after = cursor and f"&cursor={urllib.parse.quote(cursor)}"
            _, page = ask(address, f"/devices?limit=900&status=silent{after}")
            assert page["total"] == 5000
            found += [(one["name"], one["device_uuid"]) for one in page["devices"]]
            cursor = page["next"]
    assert found == sorted(found)
    assert len(set(found)) == 5000


def test_incidents_come_by_pages_and_of_a_span(db, serve):
    db.execute("INSERT INTO ml_device (device_uuid, device_id) VALUES (%s, %s)", [ATHENS, ATHENS])
    db.execute(
        "INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at,"
        " opened_at, ended_at, summary, evidence, updated_at)"
        " SELECT %s, 'stuck', 'open', 'warning', 'temperature', now() - i / 3 * interval '1 hour',"
        " now(), now() - i / 3 * interval '1 hour' + interval '30 minutes', 'stands', '{}', now()"
        " FROM generate_series(0, 9) AS i",
        [ATHENS],
    )
    (numbers,) = db.execute(
        "SELECT array_agg(incident_id ORDER BY started_at DESC, incident_id DESC) FROM ml_incidents"
    ).fetchone()
    (span,) = db.execute(
        "SELECT format('from=%%s&to=%%s', to_char(utc - interval '2.4 hours', f),"
        " to_char(utc - interval '1.9 hours', f))"
        " FROM (SELECT now() AT TIME ZONE 'UTC' AS utc, %s AS f) AS t",
        ['YYYY-MM-DD"T"HH24:MI:SS"Z"'],
    ).fetchone()
    with serve(**environment(db)) as address:
        found = pages(address, "/incidents?limit=3", "incidents")
        assert [one["incident_id"] for one in found] == numbers
        found = pages(address, f"/incidents?{span}&device={ATHENS}&limit=3", "incidents")
        assert [one["incident_id"] for one in found] == numbers[6:9]
        _, none = ask(address, f"/incidents?device={ATHENS}&state=resolved")
        assert none == {"incidents": [], "next": None, "may_act": True}


def test_a_twin_is_what_was_reported_and_its_history_keeps_extremes(api, fleet):
    _, twin = ask(api, f"/devices/{PARIS}/twin")
    assert twin["state"] == fleet.ask("SELECT state FROM ml_state(%s)", PARIS)
    _, whole = ask(api, f"/devices/{PARIS}/twin/history?field=cpu_usage&points=10000")
    _, thin = ask(api, f"/devices/{PARIS}/twin/history?field=cpu_usage&points=40")
    values = [[one["value"] for one in found["points"]] for found in (whole, thin)]
    assert len(values[0]) > 1000
    assert 20 <= len(values[1]) <= 40
    for of in (min, max):
        assert of(values[0]) == of(values[1])
    span = f"from={thin['from'].replace('+00:00', 'Z')}&to={thin['to'].replace('+00:00', 'Z')}"
    _, same = ask(api, f"/devices/{PARIS}/twin/history?field=cpu_usage&points=40&{span}")
    assert same == thin
    assert thin["unit"] == "%"


def test_a_span_of_time_is_the_same_on_every_route_of_a_device(api, fleet):
    begin, end = fleet.ask(
        'SELECT ARRAY[min("timestamp"), max("timestamp")]::timestamptz(0)[] FROM'
        ' (SELECT "timestamp" FROM ml_anomalies WHERE device_uuid = %s'
        ' ORDER BY "timestamp" DESC LIMIT 9) AS a',
        PARIS,
    )
    span = f"from={begin:%Y-%m-%dT%H:%M:%SZ}&to={end:%Y-%m-%dT%H:%M:%SZ}"
    _, page = ask(api, f"/devices/{PARIS}?{span}")
    within = f"device_uuid = '{PARIS}' AND \"timestamp\" > '{begin}' AND \"timestamp\" <= '{end}'"
    assert page["anomalies_found"] == len(page["anomalies"]) > 5
    assert page["anomalies_found"] == fleet.ask(f"SELECT count(*) FROM ml_anomalies WHERE {within}")
    _, found = ask(api, f"/devices/{PARIS}/metrics?{span}&points=10")
    values = {one["metric"]: [each["value"] for each in one["points"]] for one in found["metrics"]}
    assert {name for name, some in values.items() if some} == set(
        fleet.ask(
            "SELECT array_agg(DISTINCT metric) FROM ml_histories(%s, %s, %s)", PARIS, begin, end
        )
    )
    for name, some in values.items():
        if some:
            _, one = ask(api, f"/devices/{PARIS}/twin/history?field={name}&{span}&points=10")
            assert [each["value"] for each in one["points"]] == some
    assert {page["from"], found["from"], one["from"]} == {one["from"]}


def test_signals_are_those_of_the_view(api, fleet):
    _, found = ask(api, f"/devices/{PARIS}/signals")
    assert {one["metric"]: one["in_model"] for one in found["signals"]} == fleet.ask(
        "SELECT jsonb_object_agg(metric, in_model) FROM ml_signals WHERE device_uuid = %s", PARIS
    )
    assert found["name"] == "web-paris"
    assert {one["rhythm_seconds"] for one in found["signals"] if one["in_model"]} == {60}
    assert ask(api, f"/devices/{ATHENS}/signals")[1]["signals"] == []


def test_an_incident_has_its_findings_and_what_happened(api, fleet):
    number = fleet.ask(
        "SELECT i.incident_id FROM ml_incidents i JOIN ml_finding f USING (incident_id) LIMIT 1"
    )
    _, one = ask(api, f"/incidents/{number}")
    assert [each["finding_id"] for each in one["findings"]] == fleet.ask(
        "SELECT array_agg(finding_id ORDER BY started_at, finding_id) FROM ml_finding"
        " WHERE incident_id = %s",
        number,
    )
    assert one["events"][0]["event"] == "opened"
    assert all(each["sentence"] for each in one["findings"])


def test_days_ahead_are_told_with_the_limits_that_are_reached(db, serve, schemas):
    db.execute("INSERT INTO devices (uuid, name) VALUES (%s, 'one')", [ATHENS])
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT %s, jsonb_build_object('system', jsonb_build_object('cpuUsage',"
        " 50 + 20 * sin(i / 96.0 * 2 * pi()) + i * 7919 %% 5)),"
        " now() AT TIME ZONE 'UTC' - i * interval '15 minutes' FROM generate_series(0, 800) AS i",
        [ATHENS],
    )
    db.execute("UPDATE ml_metric SET limit_high = 90 WHERE name = 'cpu_usage'")
    db.execute(
        "INSERT INTO ml_capacity_state (device_uuid, metric, side, limit_value, value, slope,"
        " earliest, probably, days, looked_at) VALUES (%s, 'cpu_usage', 'high', 90, 50, 1,"
        " now() + interval '3 days', now() + interval '9 days', 30, now())",
        [ATHENS],
    )
    with serve(**environment(db)) as address:
        _, ahead = ask(address, f"/devices/{ATHENS}/outlook?days=3")
        _, fleet = ask(address, "/fleet/capacity")
    schema = schemas["GET /devices/{device}/outlook"]
    jsonschema.validate(ahead, schema, jsonschema.Draft202012Validator)
    assert [one["predicted_value"] for one in ahead["outlook"]] == [
        value
        for (value,) in db.execute(
            "SELECT predicted_value FROM ml_outlook(%s, 'system.cpuUsage', 3)", [ATHENS]
        )
    ]
    assert ahead["capacity"] == fleet["capacity"]
    (reach,) = fleet["capacity"]
    assert (reach["name"], reach["limit_value"], reach["latest"]) == ("one", 90, None)
    assert fleet["total"] == 1


# ---- incidents ---------------------------------------------------------------------


def test_an_incident_is_told_until_somebody_resolves_it(api, fleet, stuck):
    def alerts():
        _, document = ask(api, "/fleet/alerts")
        return [told for one in document["alerts"] for told in one["alerts"]]

    def vienna():
        _, page = ask(api, f"/devices/{VIENNA}")
        (incident,) = (one for one in page["incidents"] if one["incident_id"] == stuck)
        return page["device"]["status"], incident["state"]

    summary = fleet.ask("SELECT summary FROM ml_incidents WHERE incident_id = %s", stuck)
    assert summary in alerts()
    assert vienna() == ("critical", "open")
    status, said = do(api, f'POST /incidents/{stuck}/acknowledge {{"note": "on my way"}}')
    assert (status, said["state"], said["changed"]) == (200, "acknowledged", True)
    _, said = do(api, f"POST /incidents/{stuck}/acknowledge {{}}")
    assert not said["changed"]
    assert "acknowledged it at " in said["told"]
    _, one = ask(api, f"/incidents/{stuck}")
    assert (one["state"], one["note"]) == ("acknowledged", "on my way")
    assert one["name"] == "sensor-vienna"
    assert one["acknowledged_by"] == fleet.environment["PGUSER"]
    assert one["evidence"]["detectors"] == one["tiers"] == ["stuck"]
    assert vienna() == ("critical", "acknowledged")
    assert summary in alerts()
    _, said = do(api, f"POST /incidents/{stuck}/resolve {{}}")
    assert (said["state"], said["changed"], said["note"]) == ("resolved", True, "on my way")
    assert summary not in alerts()
    status, state = vienna()
    assert status != "critical"
    assert state == "resolved"


@pytest.mark.parametrize(
    ("asked", "condition"),
    [
        ("", "true"),
        ("?state=open", "state = 'open'"),
        ("?state=open&state=resolved", "state IN ('open', 'resolved')"),
        ("?severity=critical&kind=stuck", "severity = 'critical' AND kind = 'stuck'"),
        (f"?device={VIENNA}", f"device_uuid = '{VIENNA}'"),
        ("?state=open&search=R-VIENNA", f"device_uuid = '{VIENNA}' AND state = 'open'"),
        ("?search=%3Ci%3E50.7", "summary LIKE '%<i>50.7%'"),
    ],
)
def test_incidents_are_chosen(api, fleet, stuck, asked, condition):
    _, found = ask(api, f"/incidents{asked}")
    numbers = [one["incident_id"] for one in found["incidents"]]
    assert numbers == fleet.ask(
        "SELECT array_agg(incident_id ORDER BY started_at DESC, incident_id DESC) FROM ml_incidents"
        f" WHERE {condition}"
    )
    assert stuck in numbers
    _, last = ask(api, f"/incidents{asked}{'&' if asked else '?'}limit=1")
    assert [one["incident_id"] for one in last["incidents"]] == numbers[:1]


def test_the_same_trouble_of_many_is_one(api, fleet, schemas):
    def say(does):
        status, said = do(api, f'POST /fleet/incidents/{numbers[2]}/{does} {{"note": "no power"}}')
        if status == 200:
            schema = schemas[f"POST /fleet/incidents/{{id}}/{does}"]
            jsonschema.validate(said, schema, jsonschema.Draft202012Validator)
        return status, said.get("changed", said.get("code"))

    def listed(asked):
        return {one["incident_id"]: one for one in pages(api, f"/incidents?{asked}", "incidents")}

    with psycopg.connect(fleet.dsn, autocommit=True) as conn, flood(conn) as numbers:
        _, many = ask(api, "/fleet/incidents")
        (one,) = (one for one in many["incidents"] if numbers[0] in one["incident_ids"])
        assert (one["devices"], one["incident_ids"]) == (8, numbers)
        others = "SELECT array_agg(incident_id) FROM ml_incidents WHERE incident_id <> ALL (%s)"
        assert {*listed("limit=3&folded=true")} == {*fleet.ask(others, numbers)}
        assert {*listed(f"limit=3&fleet={numbers[4]}")} == {*numbers}
        assert [say("acknowledge"), say("acknowledge")] == [(200, 8), (200, 0)]
        found = listed(f"limit=3&fleet={numbers[0]}&state=acknowledged").values()
        assert [each["note"] for each in found] == 8 * ["no power"]
        assert [say("resolve"), say("resolve")] == [(200, 8), (404, "ML002")]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("note=x", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ("{}", {"Content_Type": "text/plain"}, 415),
        ("{", {}, 400),
        ('{"note": 5}', {}, 400),
        ('{"notes": "x"}', {}, 400),
        ("{}", {"Origin": "https://other.example"}, 403),
        (None, {"Origin": "null"}, 403),
        ("{}", {"Host": "other.example"}, 403),
    ],
)
def test_neither_another_site_nor_a_malformed_body_resolves_anything(
    api, fleet, stuck, body, headers, status
):
    got, problem = ask(api, f"/incidents/{stuck}/resolve", "POST", body, **headers)
    assert got == status, problem
    assert problem["message"]
    assert fleet.ask("SELECT state FROM ml_incidents WHERE incident_id = %s", stuck) == "open"


def test_a_page_of_the_servers_own_resolves_without_a_body(api, stuck):
    status, said = ask(api, f"/incidents/{stuck}/resolve", "POST", Origin=api)
    assert (status, said["state"]) == (200, "resolved")


# ---- errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        (f"GET /ml/anomalies/detect/{NOBODY}", 404, "ML002"),
        (f"GET /ml/forecasts/predict/{PARIS}", 404, "ML002"),
        (f"GET /ml/anomalies/model-info/{NOBODY}", 404, "ML002"),
        (f"GET /ml/forecasts/model-info/{PARIS}", 404, "ML002"),
        (f"GET /devices/{NOBODY}", 404, "ML002"),
        (f"GET /devices/{NOBODY}/metrics", 404, "ML002"),
        (f"GET /devices/{PARIS}?from=today", 400, None),
        (f"GET /devices/{NOBODY}/twin", 404, "ML002"),
        (f"GET /devices/{NOBODY}/twin/history", 404, "ML002"),
        (f"GET /devices/{NOBODY}/twin/anomalies", 404, "ML002"),
        (f"GET /devices/{NOBODY}/signals", 404, "ML002"),
        (f"GET /devices/{NOBODY}/outlook", 404, "ML002"),
        (f"GET /devices/{PARIS}/outlook?field=no.such", 404, "ML003"),
        (f"GET /devices/{PARIS}/outlook?days=0", 400, None),
        (f"GET /devices/{PARIS}/twin/history?field=no.such", 404, "ML003"),
        (f"GET /devices/{PARIS}/twin/anomalies?field=no.such", 404, "ML003"),
        (f"GET /devices/{PARIS}/twin/history?from=yesterday", 400, None),
        (f"GET /devices/{PARIS}/twin/history?points=1", 400, None),
        (f"POST /ml/anomalies/train/{NOBODY}", 404, "ML002"),
        (f"POST /ml/forecasts/train/{NOBODY}", 404, "ML002"),
        (f'POST /ml/anomalies/train/{ATHENS} {{"hours": 1}}', 409, "ML001"),
        (f'POST /ml/forecasts/train/{PARIS} {{"field": "identity.model"}}', 404, "ML003"),
        (f"GET /ml/anomalies/detect/{PARIS}?hours=0", 400, None),
        (f"GET /ml/forecasts/predict/{BERLIN}?horizon=1000", 400, "ML004"),
        (f'POST /ml/anomalies/train/{PARIS} {{"contamination": 0.9}}', 400, None),
        (f'POST /ml/anomalies/train/{PARIS} {{"hours": "6"}}', 400, None),
        (f"POST /ml/anomalies/train/{PARIS}?hours=6", 400, None),
        (f"GET /devices/{PARIS}/twin/anomalies?threshold=-1", 400, None),
        ("GET /ml/anomalies/detect/web-paris", 404, "ML002"),
        ("GET /devices/web-paris", 404, "ML002"),
        ("GET /devices/web-paris/twin/anomalies", 404, "ML002"),
        (f"GET /devices/{1000 * '%C3%A9'}", 404, "ML002"),
        (f"GET /devices/{1001 * '%C3%A9'}", 400, None),
        ("GET /devices/%00", 400, None),
        ("POST /ml/anomalies/train/", 400, None),
        (f"GET /ml/anomalies/detect/{PARIS}?hours=soon", 400, None),
        (f"GET /ml/anomalies/detect/{PARIS}?hours=99999999999", 400, None),
        ("GET /ml/nothing", 404, None),
        ("DELETE /fleet/health", 405, None),
        ("GET /devices?sort=colour", 400, None),
        ("GET /devices?cursor=next", 400, None),
        ("GET /devices?names=x", 400, None),
        ("GET /incidents/0", 404, "ML002"),
        ("POST /incidents/0/acknowledge {}", 404, "ML002"),
        ("POST /incidents/0/resolve {}", 404, "ML002"),
        (f'POST /incidents/0/resolve {{"note": "{4001 * "x"}"}}', 400, None),
        (f"GET /incidents/{10**20}", 400, None),
        ("GET /incidents/last", 400, None),
        ("GET /incidents?state=new", 400, None),
        ("GET /incidents?limit=0", 400, None),
        ("GET /incidents?device=web-paris", 404, "ML002"),
        (f"GET /incidents?device={NOBODY}", 404, "ML002"),
    ],
)
def test_an_error_has_its_status_and_says_what_to_do(api, call, status, code):
    got, body = do(api, call)
    assert (got, body.get("code")) == (status, code), body
    assert body["message"]
    assert body["error"]
    assert body["hint"]
    assert "Traceback" not in json.dumps(body)


@pytest.mark.parametrize("name", ["max_anomalies", "hours) FROM ml_model; --"])
def test_a_parameter_that_there_is_not_is_refused(api, name):
    added = urllib.parse.urlencode({name: "1"})
    status, body = ask(api, f"/ml/anomalies/detect/{PARIS}?hours=72&{added}")
    assert (status, body["message"]) == (400, f"the query takes no {name}")


def test_broken_models_and_environments_are_the_servers_fault(db, serve):
    db.execute(
        "INSERT INTO ml_model (device_uuid, kind, is_current, window_start, window_end,"
        " readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)"
        " VALUES (%s, 'forest', true, now(), now(), 1, 0, '{}', '{}', '{}', 1, 'x', 'x')",
        [NOBODY],
    )
    with serve(**environment(db)) as address:
        status, body = ask(address, f"/ml/anomalies/detect/{NOBODY}")
        assert (status, body["code"]) == (500, "ML005")
        assert body["hint"] == f"SELECT public.ml_train_forest('{NOBODY}');"
        db.execute("UPDATE ml_setting SET value = 'public.nothing' WHERE name = 'history_table'")
        status, body = ask(address, f"/ml/anomalies/detect/{NOBODY}")
        assert (status, body["code"]) == (503, "ML006")
        status, body = ask(address, "/health")
        assert (status, body["status"]) == (503, "down")
        db.execute("DROP EXTENSION pyml")
        assert ask(address, "/devices")[0] == 503


def test_without_a_database_it_says_so(serve):
    with serve(PGHOST="/nonexistent", PGUSER="x", PGDATABASE="x") as address:
        for path in ("/health", "/devices", "/events"):
            status, body = ask(address, path)
            assert status == 503
            assert body["message"] == "the database cannot be reached"
            assert body["detail"]


def environment(db, **other):
    """How a server of one's own reaches a test's database."""
    info = {"PGHOST": db.info.host, "PGPORT": str(db.info.port), "PGUSER": db.info.user}
    return info | {"PGDATABASE": db.info.dbname} | other


LISTS = ["/fleet/health", "/fleet/alerts", "/fleet/incidents", "/incidents", "/devices"]
LISTS += ["/metrics"]


def test_the_privileges_that_the_readme_names_are_enough(db, serve):
    role = f"api_{db.info.dbname}"
    db.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        with serve(**environment(db, PGUSER=role)) as address:
            status, body = ask(address, "/devices")
            assert (status, body["code"]) == (403, "42501")
            assert body["hint"].startswith("SELECT ml_grant(")
            db.execute("SELECT ml_grant(%s, 'read')", [role])
            status, body = ask(address, f"/devices/{NOBODY}/twin")
            assert status == 403
            assert body["hint"] == "GRANT SELECT ON device_shadow_history TO api;"
            db.execute(f'GRANT SELECT ON devices, device_shadow_history TO "{role}"')
            for path in LISTS:
                assert ask(address, path)[0] == 200
            assert ask(address, f"/ml/anomalies/detect/{NOBODY}")[0] == 404
            assert ask(address, f"/devices/{NOBODY}/twin")[0] == 404
            assert ask(address, f"/ml/anomalies/train/{NOBODY}", "POST")[0] == 403
            assert do(address, "POST /incidents/0/resolve {}")[0] == 403
            assert not ask(address, "/incidents")[1]["may_act"]
            db.execute("SELECT ml_grant(%s, 'act')", [role])
            assert do(address, "POST /incidents/0/resolve {}")[0] == 404
            assert ask(address, "/incidents")[1]["may_act"]
            assert ask(address, f"/ml/anomalies/train/{NOBODY}", "POST")[0] == 403
            db.execute("SELECT ml_grant(%s, 'train')", [role])
            status, body = ask(address, f"/ml/anomalies/train/{NOBODY}", "POST")
            assert (status, body["code"]) == (404, "ML002")
    finally:
        db.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


# ---- ids of any kind ---------------------------------------------------------------

ODD_ROUTES = {
    "GET /ml/anomalies/detect/{}": "ml_detect(%s)",
    "GET /ml/forecasts/predict/{}": "ml_forecast(%s)",
    "GET /ml/anomalies/model-info/{}": None,
    "GET /ml/forecasts/model-info/{}": None,
    "GET /devices/{}/twin": None,
    "GET /devices/{}/twin/history?field=cpu_usage": None,
    "GET /devices/{}/metrics": None,
    "GET /devices/{}/twin/anomalies": None,
    "GET /devices/{}/signals": None,
    "GET /devices/{}": None,
    "GET /devices": None,
    "GET /fleet/alerts": None,
    "GET /incidents?device={}&search=clock": None,
    'POST /ml/anomalies/train/{} {{"hours": 6}}': None,
    "POST /ml/forecasts/train/{}": None,
}


def ids_of(document):
    """Each uuid in a document, however deep, with the id and the name that stand beside it."""
    if isinstance(document, list):
        return [one for each in document for one in ids_of(each)]
    if not isinstance(document, dict):
        return []
    found = [one for each in document.values() for one in ids_of(each)]
    uuid = document.get("device_uuid") or document.get("deviceUuid")
    if uuid:
        known_as = document.get("device_id") or document.get("deviceId")
        found.append((uuid, known_as, document.get("name") or document.get("deviceName")))
    return found


def test_a_device_goes_by_its_id_and_one_that_is_not_there_is_said_so(odd_forecast, serve, schemas):
    odd = odd_forecast
    uuid = str(odd.execute("SELECT ml_uuid(%s)", [ODD]).fetchone()[0])
    quoted = urllib.parse.quote(ODD, safe="")
    with serve(**environment(odd)) as address:
        for route, statement in ODD_ROUTES.items():
            call = route.format(quoted)
            status, document = do(address, call)
            assert status == 200, (call, document)
            jsonschema.validate(document, schemas[route_of(call)], jsonschema.Draft202012Validator)
            found = ids_of(document)
            assert {each[:2] for each in found} == {(uuid, ODD)}, call
            assert {each[2] for each in found} <= {None, "Hall clock"}, call
            if statement:
                (same,) = odd.execute(f"SELECT {statement}", [ODD]).fetchone()
                for each in (document, same):
                    each["model_info"].pop("last_reading_age_seconds", None)
                assert document == same
        _, page = ask(address, f"/devices/{uuid}")  # which pyml's own tables have
        _, values = ask(address, f"/devices/{uuid}/twin/history")
        for part in ("anomalies", "incidents", "breaches"):
            assert page[part], part
        for part in ("points", "forecast"):
            assert values[part], part
        for call in ODD_ROUTES:
            if "{}" in call:
                status, body = do(address, call.format("no%20body"))
                assert (status, body["code"]) == (404, "ML002")
                assert body["message"] == "there is no device no body"
                assert odd.execute(body["hint"]).fetchall() == [(ODD, "Hall clock")]


@pytest.mark.long
def test_a_name_that_pyml_has_goes_before_that_of_the_table_devices(odd, serve):
    odd.execute("INSERT INTO devices (uuid, name) VALUES (ml_uuid(%s), 'of old')", [ODD])
    with serve(**environment(odd)) as address:
        for name in ("Hall clock", "of old"):
            (device,) = ask(address, "/devices")[1]["devices"]
            assert device["name"] == name
            odd.execute("UPDATE thing SET label = NULL")
            odd.execute("CALL ml_scan()")


# ---- a fleet without names ---------------------------------------------------------

ROWS = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %s, jsonb_build_object('system', jsonb_build_object('cpuUsage', i * 7919 %% 101)),
       now() AT TIME ZONE 'UTC' - i * interval '1 minute' FROM generate_series(0, 300) AS i
"""
WITHOUT = {
    "no table": "SELECT",
    "a table of another shape": "CREATE TABLE devices (id int)",
    "ids of another type": "CREATE TABLE devices (uuid text, name text)",
    "a table that is not for the server": "CREATE TABLE devices (uuid uuid, name text)",
}


@pytest.fixture(scope="module")
def nameless(fleet, _copy):
    """A scanned fleet without a table of devices, and how a server reaches it that may read."""
    database, role = fleet.environment["PGDATABASE"] + "_nameless", "pyml_nameless"
    with _copy(database) as conn:
        conn.execute("DROP TABLE devices CASCADE")
        conn.execute(ROWS, [NOBODY])
        conn.execute(f"CREATE ROLE {role} LOGIN")
        conn.execute(f"SELECT ml_grant('{role}', 'read')")
        conn.execute(f"GRANT SELECT ON device_shadow_history TO {role}")
        conn.execute("SELECT ml_train_forest(%s, hours => 10)", [NOBODY])
        conn.execute("CALL ml_scan()")
        yield conn, fleet.environment | {"PGDATABASE": database, "PGUSER": role}
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("what", WITHOUT)
def test_names_are_optional(nameless, serve, what):
    """Then a device is called by its id, on every route that has a name."""
    conn, environment = nameless
    conn.execute(WITHOUT[what])
    with serve(**environment) as address:
        for path in LISTS:
            assert ask(address, path)[0] == 200
        status, body = ask(address, "/devices")
        assert (status, [one["name"] for one in body["devices"]]) == (200, [NOBODY])
        status, body = ask(address, f"/devices/{NOBODY}")
        assert (status, body["device"]["name"]) == (200, NOBODY)
    conn.execute("DROP TABLE IF EXISTS devices")


# ---- connections -------------------------------------------------------------------


def trainings(conn):
    """Trainings that the API server has running."""
    found = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'active' AND query LIKE 'SELECT ml_train_lstm(%'"
    )
    return found.fetchone()[0]


def start_training(address):
    """Ask for a training that takes seconds; closing what this gives is to go away."""
    host, port = urllib.parse.urlsplit(address).netloc.split(":")
    client = socket.create_connection((host, int(port)))
    body = '{"field": "memory_usage_percent"}'
    client.sendall(
        f"POST /ml/forecasts/train/{VIENNA} HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    return client


def test_a_client_that_goes_away_takes_its_query_along(api, fleet):
    before = fleet.ask("SELECT count(*) FROM ml_run")
    with psycopg.connect(fleet.dsn, autocommit=True) as conn:
        with start_training(api):
            until(lambda: trainings(conn) == 1)
        until(lambda: trainings(conn) == 0)
    assert fleet.ask("SELECT count(*) FROM ml_run") == before
    assert ask(api, "/fleet/health")[0] == 200


def until(met, seconds=60):
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_stop_ends_a_training(fleet, serve):
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, ExitStack() as later:
        with serve(**fleet.environment) as address:
            later.enter_context(start_training(address))
            until(lambda: trainings(conn) == 1)
        until(lambda: trainings(conn) == 0)


def test_reads_may_go_to_a_standby(fleet, serve):
    standby = "postgresql://?" + urllib.parse.urlencode(
        {"options": "-c default_transaction_read_only=on -c timezone=UTC"}
    )
    with serve(**fleet.environment, READ_DATABASE_URL=standby) as address:
        reads = ("/devices", f"/devices/{BERLIN}", "/incidents", "/health")
        for path in (f"/ml/anomalies/detect/{PARIS}", *reads):
            assert ask(address, path)[0] == 200
        assert do(address, "POST /incidents/0/resolve {}")[0] == 404
    nowhere = "postgresql:///x?host=/nonexistent"
    with serve(**fleet.environment, DATABASE_URL=standby, READ_DATABASE_URL=nowhere) as address:
        assert ask(address, "/devices")[0] == 503
        status, body = ask(address, f"/ml/anomalies/train/{VIENNA}", "POST", '{"hours": 3}')
        assert (status, body["code"]) == (503, "25006")

"""The Grafana dashboard: each statement in it runs, and gives what its panel needs."""

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from .conftest import BERLIN, EXAMPLES, trouble

pytestmark = pytest.mark.slow  # the fleet takes long to make

BOARD = json.loads((EXAMPLES / "grafana/pyml-fleet.json").read_text())
ALERTS = json.loads((EXAMPLES / "grafana/pyml-alerts.json").read_text())
RULES = {rule["uid"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
# Of a fleet of few devices this has none.
EMPTY = ("The same on many devices A",)
PANELS = {
    f"{panel['title']} {target['refId']}": (panel, target)
    for panel in BOARD["panels"]
    for target in panel["targets"]
}


def expanded(sql: str) -> str:
    """A statement with Grafana's macros and variables replaced as its documentation has it."""
    now = datetime.now(UTC)
    since, until = (
        f"'{moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}'"
        for moment in (now - timedelta(hours=48), now + timedelta(minutes=30))
    )
    for pattern, text in (
        (r"\$__timeFilter\(([^()]+)\)", rf"\1 BETWEEN {since} AND {until}"),
        (r"\$__timeFrom\(\)", since),
        (r"\$__timeTo\(\)", until),
        (
            r"\$__timeGroupAlias\(([^,]+), *\$__interval\)",
            r'floor(extract(epoch from \1)/300)*300 AS "time"',
        ),
        (r"\$\{device:sqlstring\}", f"'{BERLIN}'"),
        (r"\$\{field:sqlstring\}", "'system.cpuUsage'"),
    ):
        sql = re.sub(pattern, text, sql)
    assert "$" not in sql
    return sql


@pytest.fixture(scope="module")
def answer(fleet):
    """Columns and rows of a statement, asked in a transaction that only reads."""
    with psycopg.connect(fleet.dsn, options="-c default_transaction_read_only=on") as conn:

        def answer(sql):
            cursor = conn.execute(expanded(sql))
            return [column.name for column in cursor.description], cursor.fetchall()

        yield answer


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_has_something_to_show(answer, name):
    panel, target = PANELS[name]
    columns, rows = answer(target["rawSql"])
    assert bool(rows) == (name not in EMPTY)
    if panel["type"] == "timeseries":
        assert columns[0] == "time"
        assert rows == sorted(rows, key=lambda row: row[0])
        assert all(isinstance(value, int | float | str) for row in rows for value in row[1:])


def test_the_variables_and_annotations_have_something_to_offer(fleet, answer):
    device, field = (one for one in BOARD["templating"]["list"] if one["type"] == "query")
    columns, rows = answer(device["query"])
    assert columns == ["__text", "__value"]
    assert ("archive-berlin", BERLIN) in rows
    assert ("system.cpuUsage",) in answer(field["query"])[1]
    anomalies, incidents = (one["target"]["rawSql"] for one in BOARD["annotations"]["list"])
    columns, rows = answer(anomalies)
    assert columns == ["time", "tags", "text"]
    assert rows
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, BERLIN):
        columns, rows = answer(incidents)
    assert columns == ["time", "timeend", "tags", "text"]
    assert rows


@pytest.mark.parametrize("uid", RULES)
def test_a_rule_asks_for_one_number_a_label(answer, uid):
    rule = RULES[uid]
    asked, judged = rule["data"]
    assert rule["condition"] == judged["refId"]
    assert judged["model"]["expression"] == asked["refId"]
    columns, rows = answer(asked["model"]["rawSql"])
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert named <= set(columns[:-1])
    assert all(isinstance(value, str) for row in rows for value in row[:-1])
    assert all(isinstance(row[-1], int | float | Decimal) for row in rows)
    assert len({row[:-1] for row in rows}) == len(rows)


def test_an_open_incident_is_an_alert(fleet, answer):
    rows = {uid: answer(rule["data"][0]["model"]["rawSql"])[1] for uid, rule in RULES.items()}
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, BERLIN) as number:
        (alert,) = answer(RULES["pyml-critical"]["data"][0]["model"]["rawSql"])[1]
        assert alert == (str(number), "archive-berlin", "stuck", 1)
        assert answer(RULES["pyml-incident"]["data"][0]["model"]["rawSql"])[1] == []
    assert rows["pyml-critical"] == []
    assert len(rows["pyml-scans"]) == 1
    assert rows["pyml-trainings"] == [(0,)]


def test_a_device_of_any_id_is_offered_by_its_name_and_has_its_panels(odd_forecast):
    odd = odd_forecast
    device = BOARD["templating"]["list"][1]
    ((name, uuid),) = odd.execute(expanded(device["query"])).fetchall()
    assert name == "Hall clock"
    for title, (_, target) in PANELS.items():
        sql = expanded(target["rawSql"]).replace(BERLIN, uuid)
        assert odd.execute(sql).fetchall() or title in EMPTY, title


def test_the_forecast_lies_in_the_future_of_the_readings(answer):
    name = "$field of the device"
    readings, steps = (answer(PANELS[f"{name} {ref}"][1]["rawSql"])[1] for ref in "AB")
    assert len(steps) == 12
    assert readings[-1][0] < steps[0][0]
    assert all(lower <= predicted <= upper for _, predicted, lower, upper in steps)


def test_the_panels_are_told_apart_and_do_not_overlap():
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        apart = any(
            a[axis] + a[size] <= b[axis]
            for axis, size in (("x", "w"), ("y", "h"))
            for a, b in ((one, other), (other, one))
        )
        assert apart, (one, other)

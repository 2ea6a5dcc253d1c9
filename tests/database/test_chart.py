"""`ml_chart`: it draws what the other functions give, and it draws without any model."""

from xml.etree import ElementTree

import pytest

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def chart(one):
    """Draw, and parse what comes."""

    def chart(*args, call="ml_chart(%s, %s, %s)"):
        return ElementTree.fromstring(one(f"SELECT {call}", *args))

    return chart


def parts(root, kind):
    return [one for one in root.iter() if kind in one.get("class", "").split()]


def words(root):
    return [text.text for text in root.iter(f"{SVG}text")]


def marks(root, severity):
    return [one for one in parts(root, severity) if len(one) and one not in parts(root, "span")]


def test_without_a_model_the_history_is_drawn_and_what_is_missing_said(chart, device):
    root = chart(device, call="ml_chart(%s)")
    assert len(parts(root, "line")[0].get("d")) > 1000
    assert not marks(root, "warning") + marks(root, "critical") + parts(root, "band")
    assert words(root)[0] == "system.cpuUsage, last 24 h"
    assert f"SELECT ml_train_forest('{device}');" in words(root)
    assert f"SELECT ml_train_lstm('{device}', 'system.cpuUsage');" in words(root)


def test_it_marks_what_the_forest_finds_and_writes_nothing(db, one, chart, device, train):
    train(device)
    db.execute(
        "UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state,"
        " '{system,cpuUsage}', '99') WHERE device_uuid = %s"
        " AND \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '10 minutes'",
        [device],
    )
    db.execute("SET default_transaction_read_only = on")
    root = chart(device, "cpu_usage", 40)
    for severity in ("warning", "critical"):
        flagged = one(
            "SELECT count(*) FROM ml_score(%s, now() - interval '40 h', now()) WHERE severity = %s",
            *(device, severity),
        )
        assert len(marks(root, severity)) == flagged
        assert (f"{severity} ({flagged})" in words(root)) == (flagged > 0)
    assert "critical (-" in marks(root, "critical")[-1][0].text
    assert any(text.endswith(" %") for text in words(root))


@pytest.mark.slow
def test_it_draws_the_forecast_whichever_name_is_asked_for(db, one, chart, device, train):
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    train(device, "system.cpuUsage")
    bands = [
        parts(chart(device, field, 5), "band")[0].get("d")
        for field in ("system.cpuUsage", "cpu_usage")
    ]
    steps = one("SELECT count(*) FROM ml_predict(%s, 'system.cpuUsage')", device)
    assert [len(band.split()) - 1 for band in bands] == [4 * (steps + 1) - 1] * 2
    assert not parts(chart(device, "memory_usage_percent", 5), "band")


def test_times_are_the_sessions(db, chart, device):
    for zone in ("UTC", "Asia/Kathmandu"):
        db.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        assert f"Times in {zone}" in words(chart(device, "cpu_usage", 3))
    db.execute("SET TimeZone = '<+03>-03'")
    assert "Times in UTC" in words(chart(device, "cpu_usage", 3))


def test_the_axis_tells_the_metrics_unit(db, chart, device):
    assert "B/s" in words(chart(device, "network_receive_rate", 3))
    assert "°C" in words(chart(device, "system.temperature", 3))
    db.execute("UPDATE ml_metric SET unit = NULL")
    assert "per second" in words(chart(device, "network_receive_rate", 3))
    # A range from 0 to 100 does not make a percentage.
    assert not [text for text in words(chart(device, "cpu_usage", 3)) if text and "%" in text]


def test_what_is_in_a_name_stays_text(db, chart, device):
    field = """<script>&"'</script>"""
    db.execute(
        "UPDATE device_shadow_history"
        " SET reported_state = reported_state || jsonb_build_object(%s::text, id)",
        [field],
    )
    root = chart(device, field, 3)
    assert words(root)[0] == f"{field}, last 3 h"
    assert not list(root.iter(f"{SVG}script"))


def test_an_unreadable_model_is_said_in_the_picture(db, chart, device):
    db.execute(
        "INSERT INTO ml_model (device_uuid, kind, is_current, window_start, window_end,"
        " readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)"
        " VALUES (%s, 'forest', true, now(), now(), 1, 0, '{}', '{}', '{}', 1, 'x', 'x')",
        [device],
    )
    assert "No anomalies: the stored model cannot be read." in words(chart(device, "cpu_usage", 3))


def test_mistakes_are_told(refused, device):
    for call, sqlstate in (
        ("ml_chart(NULL)", "ML004"),
        (f"ml_chart('{device}', hours => 0)", "ML004"),
        (f"ml_chart('{device}', 'health.status')", "ML003"),
        ("ml_chart('00000000-0000-0000-0000-000000000000')", "ML002"),
    ):
        refused(f"SELECT {call}", sqlstate=sqlstate)


def test_the_devices_incidents_are_drawn(chart, db, device):
    db.execute(
        "INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at,"
        " opened_at, ended_at, summary, evidence, updated_at) SELECT %s, 'stuck', 'open',"
        " 'warning', 'temperature', now() - i * interval '1 hour', now(),"
        " now() - i * interval '50 minutes', 'temperature stands', '{}', now()"
        " FROM unnest(ARRAY[2, 100]) AS i",
        [device],
    )
    bands = [one for one in parts(chart(device, call="ml_chart(%s)"), "span") if len(one)]
    assert len(bands) == 1
    assert bands[0][0].text.endswith("warning: temperature stands")


def test_what_no_scan_has_looked_at_is_said(chart, db, one, device):
    said = "No incidents: the device has not been scanned."
    assert said in words(chart(device, call="ml_chart(%s)"))
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute("UPDATE ml_setting SET value = '6' WHERE name = 'scan_first_hours'")
    db.execute("CALL ml_scan()")
    assert one("SELECT now() - scanned_from > interval '5 hours' FROM ml_device_status")
    long, short = (words(chart(device, "cpu_usage", hours)) for hours in (24, 2))
    assert any(one.startswith("Incidents are known from ") for one in long)
    assert said not in long
    assert not any(one.startswith("Incidents are known from ") for one in short)
    db.execute("CALL ml_scan()")
    assert one("SELECT now() - scanned_from < interval '7 hours' FROM ml_device_status")

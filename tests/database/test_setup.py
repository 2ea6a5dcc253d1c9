"""ml_setup: a table of one's own, in one call; what is wrong changes nothing."""

import psycopg
import pytest

SETTINGS = "SELECT array_agg(name || '=' || value ORDER BY name) FROM ml_setting"
TABLE = """
CREATE SCHEMA "Plant 7";
CREATE TABLE "Plant 7"."Raw data" ("Sensor Id" text, "At" bigint, doc json, what text);
INSERT INTO "Plant 7"."Raw data"
SELECT 'aa:bb:cc:0' || d,
       1000 * extract(epoch FROM now() - i * interval '30 seconds')::bigint,
       json_build_object('sensors', json_build_object('bme688',
           json_build_object('temp', round((21 + 3 * sin(i / 90.0) + d)::numeric, 2),
                             'hum', 40 + i % 7))),
       CASE WHEN i % 10 = 0 THEN 'log' ELSE 'reading' END
FROM generate_series(1, 3) AS d, generate_series(1, 900) AS i;
CREATE TABLE "Plant 7".thing (code text PRIMARY KEY, "Label" text);
INSERT INTO "Plant 7".thing VALUES ('aa:bb:cc:01', 'boiler'), ('aa:bb:cc:02', 'roof');
"""
CALL = """SELECT * FROM ml_setup('"Plant 7"."Raw data"', 'Sensor Id', 'At', 'doc', 'what',
    'reading', device_name => '"Plant 7".thing."Label"')"""


@pytest.fixture
def plant(db):
    db.execute(TABLE)


def test_it_says_what_it_found_and_sets_all_of_it(db, one, plant):
    before = one(SETTINGS)
    found = dict(db.execute(CALL).fetchall())
    assert found["rows"] == "2700"
    assert found["devices"] == "3, with ids of type text, such as aa:bb:cc:01"
    assert found["time"] == "milliseconds since 1970"
    ends = 'SELECT to_timestamp(min("At") / 1000), to_timestamp(max("At") / 1000)'
    oldest, newest = db.execute(f'{ends} FROM "Plant 7"."Raw data"').fetchone()
    assert one("SELECT %s = format('from %%s to %%s', %s, %s)", found["span"], oldest, newest)
    assert found["rhythm"] == "a row every 00:00:30, as a rule"
    assert "rows looked at; " in found["readings"]
    assert found["fields"].startswith("2 numbers: sensors.bme688.hum, sensors.bme688.temp; ")
    assert found["index"].splitlines()[1] == (
        'CREATE INDEX CONCURRENTLY ON "Plant 7"."Raw data" ("Sensor Id", "At" DESC);'
    )
    assert one(SETTINGS) != before
    assert one("SELECT value FROM ml_setting WHERE name = 'history_time_unit'") == "milliseconds"
    db.execute(found["index"].splitlines()[1])
    assert "an index leads" in dict(db.execute(CALL).fetchall())["index"]


def test_three_statements_give_anomalies_under_the_names_that_people_have(db, one, plant):
    db.execute(CALL)
    db.execute("SELECT ml_discover(apply => true)")
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan()")
    found = db.execute(
        "SELECT device_id, device_name, scan_outcome FROM ml_device_status ORDER BY 1"
    ).fetchall()
    assert found == [
        ("aa:bb:cc:01", "boiler", "scanned"),
        ("aa:bb:cc:02", "roof", "scanned"),
        ("aa:bb:cc:03", "aa:bb:cc:03", "scanned"),
    ]
    db.execute("""UPDATE "Plant 7".thing SET "Label" = 'attic' WHERE code = 'aa:bb:cc:02'""")
    db.execute("CALL ml_scan()")
    name = "SELECT device_name FROM ml_device_status WHERE device_uuid = ml_uuid('aa:bb:cc:02')"
    assert one(name) == "attic"
    assert one("SELECT ml_detect('aa:bb:cc:01') ->> 'device_id'") == "aa:bb:cc:01"


ASK = """SELECT ml_setup('"Plant 7"."Raw data"', {})"""


def test_a_large_table_is_looked_at_in_part(db, plant):
    db.execute(
        'INSERT INTO "Plant 7"."Raw data" SELECT "Sensor Id", "At" - 100000 * i, doc, what'
        ' FROM "Plant 7"."Raw data", generate_series(1, 40) AS i;'
        'CREATE INDEX ON "Plant 7"."Raw data" ("Sensor Id", "At" DESC);'
        'ANALYZE "Plant 7"."Raw data"'
    )
    found = dict(db.execute(CALL).fetchall())
    assert found["rows"].startswith("about 1")
    oldest, newest = db.execute(
        'SELECT to_timestamp(min("At") / 1000)::text, to_timestamp(max("At") / 1000)::text'
        ' FROM "Plant 7"."Raw data"'
    ).fetchone()
    assert found["span"] == f"from {oldest} to {newest}, by the rows of some devices"


WRONG = {
    "a column": (
        "'sensor', 'At', 'doc'",
        "ML006",
        '"Sensor Id" (text), "At" (bigint), doc (json), what (text)',
    ),
    "a type": (
        "'Sensor Id', 'what', 'doc'",
        "ML006",
        "column what is of type text and has to be timestamp, timestamptz or a number",
    ),
    "a zone": (
        "'Sensor Id', 'At', 'doc', time_zone => 'Mars'",
        "ML004",
        "name of a time zone",
    ),
    "a unit": (
        "'Sensor Id', 'At', 'doc', time_unit => 'days'",
        "ML004",
        "seconds, milliseconds or empty",
    ),
    "the names": (
        "'Sensor Id', 'At', 'doc', device_name => 'a.b.c'",
        "ML006",
        "schema.table.column",
    ),
    "a name alone": (
        "'Sensor Id', 'At', 'doc', device_name => 'label'",
        "ML006",
        "schema.table.column",
    ),
    "half a condition": (
        "'Sensor Id', 'At', 'doc', shadow => 'what'",
        "ML004",
        "has the value shadow_value",
    ),
    "the other half": (
        "'Sensor Id', 'At', 'doc', shadow_value => 'raw'",
        "ML004",
        "has the value shadow_value",
    ),
    "no table": ("'a', 'b', NULL", "ML004", "a table or a view"),
    "no column": (
        "NULL, 'b', 'c'",
        "ML004",
        "a table or a view",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_and_changes_nothing(db, one, refused, plant, what):
    call, sqlstate, words = WRONG[what]
    before = one(SETTINGS)
    assert words in refused(ASK.format(call), sqlstate=sqlstate).message_detail
    assert one(SETTINGS) == before


def test_the_view_that_is_proposed_can_be_made(db, one, refused, plant):
    said = refused(ASK.format(WRONG["a type"][0]), sqlstate="ML006")
    db.execute(said.message_hint)
    assert one('SELECT count(*) FROM "Plant 7"."Raw data_for_pyml"') == 2700


def test_an_empty_table_and_a_view_are_taken(db, plant):
    db.execute('CREATE VIEW v AS TABLE "Plant 7"."Raw data"')
    assert dict(db.execute("SELECT * FROM ml_setup('v', 'Sensor Id', 'At', 'doc')"))["devices"]
    db.execute('TRUNCATE "Plant 7"."Raw data"')
    found = dict(db.execute("SELECT * FROM ml_setup('v', 'Sensor Id', 'At', 'doc')").fetchall())
    assert found["rows"] == "0"
    assert found["readings"] == found["span"] == "there are no rows"
    assert found["devices"] == "0, with ids of type text"
    assert found["rhythm"] == "too few rows to tell"
    assert found["fields"].startswith("no messages within a day")


def test_the_doctor_tells_of_names_that_cannot_be_read(db, one, plant):
    db.execute(CALL)
    names = "SELECT ok, detail, fix FROM ml_doctor() WHERE check_name = 'names'"
    assert db.execute(names).fetchone() == (True, 'from "Plant 7".thing', None)
    db.execute('DROP TABLE "Plant 7".thing')
    ok, detail, fix = db.execute(names).fetchone()
    assert ok is False
    assert "code, Label" in detail
    db.execute("CALL ml_scan()")  # which goes on without
    db.execute(fix)
    assert db.execute(names).fetchone() is None


def test_a_role_that_may_not_set_changes_nothing(db, one, dsn, plant):
    db.execute("CREATE ROLE pyml_setup_reader LOGIN; SELECT ml_grant('pyml_setup_reader', 'read')")
    before = one(SETTINGS)
    try:
        with psycopg.connect(dsn, user="pyml_setup_reader", autocommit=True) as reader:
            reader.execute("SET search_path = public")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(CALL)
    finally:
        db.execute("DROP OWNED BY pyml_setup_reader; DROP ROLE pyml_setup_reader")
    assert one(SETTINGS) == before

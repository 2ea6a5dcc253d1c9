"""What people know, said over HTTP: rules, quiet windows, and what is no fault."""

import json

import jsonschema
import psycopg
import pytest

from .conftest import PARIS, VIENNA
from .test_api_server import NOBODY, ask

pytestmark = pytest.mark.slow

RULE = {"device": PARIS, "metric": "temperature", "direction": "up", "reason": "it is <cold> there"}
WINDOW = {
    "starts_at": "2026-03-02T22:00:00Z",
    "ends_at": "2026-03-03T02:00:00+01:00",
    "repeat": "weekly",
    "zone": "Europe/Berlin",
}
KINDS = [("rules", "rule_id", RULE), ("quiet", "quiet_id", WINDOW)]


@pytest.fixture(autouse=True)
def clean(fleet):
    """Nothing is left of what these tests say."""
    yield
    with psycopg.connect(fleet.dsn, autocommit=True) as conn:
        conn.execute("DELETE FROM ml_rule; DELETE FROM ml_quiet")


@pytest.fixture
def act(api, schemas):
    """Ask for something, and hold a document against what OpenAPI says of it."""

    def act(method, path, body=None, route=None):
        status, document = ask(api, path, method, None if body is None else json.dumps(body))
        if status == 200:
            schema = schemas[f"{method} {route or path}"]
            jsonschema.validate(document, schema, jsonschema.Draft202012Validator)
        return status, document

    return act


@pytest.mark.parametrize(("path", "key", "body"), KINDS)
def test_it_is_made_listed_and_deleted(act, path, key, body):
    status, made = act("POST", f"/{path}", body)
    assert status == 200, made
    assert made["device_uuid"] == body.get("device")
    assert made["reason"] == body.get("reason")
    (listed,) = act("GET", "/rules")[1]["rules"]
    assert listed[key] == made[key]
    assert listed["name"] == (body.get("device") and "web-paris")
    assert listed["says"]
    status, gone = act("DELETE", f"/{path}/{made[key]}", route=f"/{path}/{{id}}")
    assert (status, gone) == (200, made)
    assert act("GET", "/rules")[1] == {"rules": []}
    status, problem = act("DELETE", f"/{path}/{made[key]}")
    assert (status, problem["code"]) == (404, "ML002")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("rules", {}, 400, "ML004"),
        ("rules", RULE | {"mute": True}, 400, "ML004"),
        ("rules", RULE | {"device": NOBODY}, 404, "ML002"),
        ("rules", RULE | {"device": "nobody"}, 404, "ML002"),
        ("rules", RULE | {"metric": "nothing"}, 400, "ML004"),
        ("rules", RULE | {"direction": "left"}, 400, None),
        ("rules", RULE | {"rule_id": 1}, 400, None),
        ("rules", RULE | {"reason) VALUES (1); --": 1}, 400, None),
        ("quiet", {}, 400, None),
        ("quiet", WINDOW | {"zone": "Mars/Olympus"}, 400, "ML004"),
        ("quiet", WINDOW | {"ends_at": "2026-03-01T00:00:00Z"}, 400, "ML004"),
        ("quiet", WINDOW | {"starts_at": "tonight"}, 400, None),
    ],
)
def test_what_says_nothing_is_refused_whole(act, fleet, path, body, status, code):
    got, problem = act("POST", f"/{path}", body)
    assert (got, problem.get("code")) == (status, code), problem
    assert problem["hint"]
    assert fleet.ask("SELECT (SELECT count(*) FROM ml_rule) + (SELECT count(*) FROM ml_quiet)") == 0


def test_what_is_no_fault_is_proposed_and_made(act, fleet):
    number, state = fleet.ask(
        "SELECT ARRAY[i.incident_id::text, i.state] FROM ml_incidents i WHERE EXISTS"
        " (SELECT FROM ml_finding f WHERE f.incident_id = i.incident_id) LIMIT 1"
    )
    path, route = f"/incidents/{number}/not-a-fault", "/incidents/{id}/not-a-fault"
    status, told = act("POST", path, {"note": "known"}, route=route)
    assert (status, told["applied"], told["state"]) == (200, False, state)
    assert "INSERT INTO" in told["statement"]
    assert told["words"]
    assert act("GET", "/rules")[1] == {"rules": []}
    status, told = act("POST", path, {"note": "known", "apply": True}, route=route)
    assert (status, told["applied"], told["state"]) == (200, True, "resolved")
    assert {rule["reason"] for rule in act("GET", "/rules")[1]["rules"]} == {"known"}


def test_what_there_is_not_is_no_fault_of_anybodys(act):
    for path in ("/incidents/0/not-a-fault", "/rules/0", "/quiet/0"):
        method = "POST" if path.startswith("/incidents") else "DELETE"
        status, problem = act(method, path)
        assert (status, problem["code"]) == (404, "ML002")


def test_the_device_may_be_named_by_any_of_its_ids(act):
    status, made = act("POST", "/rules", {"device": VIENNA.upper(), "mute": True})
    assert (status, made["device_uuid"], made["mute"]) == (200, VIENNA, True)

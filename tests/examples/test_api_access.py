"""Who may ask the API server for what, and with what it does not start."""

import json
import os
import subprocess
import urllib.error
import urllib.request

import psycopg
import pytest

from .conftest import PARIS, VIENNA, trouble
from .test_api_server import ask

pytestmark = pytest.mark.slow

READ, ACT, TRAIN = (f"{level}-0123456789abcdef" for level in ("read", "act", "train"))
TOKENS = f"# of whom\nread {READ}  # grafana\n\nact {ACT}\ntrain {TRAIN}\n"
PAGE = "https://fleet.example"


@pytest.fixture(scope="module")
def guarded(fleet, serve, tmp_path_factory):
    """The address of a server with tokens, and a page of another origin that may call it."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.touch(0o600)
    file.write_text(TOKENS)
    with serve(**fleet.environment, TOKENS_FILE=str(file), ORIGINS=PAGE) as address:
        yield address


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("path", "method", "least"),
    [
        ("/devices", "GET", 0),
        (f"/devices/{PARIS}/twin", "GET", 0),
        ("/metrics", "GET", 0),
        ("/incidents/0/acknowledge", "POST", 1),
        ("/incidents/0/resolve", "POST", 1),
        ("/incidents/0/not-a-fault", "POST", 1),
        ("/fleet/incidents/0/resolve", "POST", 1),
        ("/rules/0", "DELETE", 1),
        ("/quiet/0", "DELETE", 1),
        ("/ml/anomalies/train/nobody", "POST", 2),
        ("/ml/forecasts/train/nobody", "POST", 2),
    ],
)
def test_each_level_may_what_it_may(guarded, path, method, least):
    for level, token in enumerate((READ, ACT, TRAIN)):
        status, body = ask(guarded, path, method, **bearer(token))
        if level < least:
            assert (status, "of level" in body["message"]) == (403, True)
        else:
            assert status in (200, 404), body


@pytest.mark.parametrize("headers", [{}, bearer("wrong-0123456789abcdef"), {"Authorization": READ}])
def test_without_a_token_it_says_that_one_is_needed(guarded, headers):
    request = urllib.request.Request(f"{guarded}/devices", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert json.load(answer)["hint"] == "Authorization: Bearer …"


def test_the_page_and_the_documentation_ask_for_no_token(guarded):
    for path in ("/", "/app.js", "/docs/json"):
        with urllib.request.urlopen(guarded + path) as answer:
            assert answer.status == 200


def preflight(address, origin):
    """What the server says of a page's wish to act, and what may be read by it."""
    request = urllib.request.Request(f"{address}/incidents/0/resolve", method="OPTIONS")
    for name, value in (
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ):
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Access-Control-Allow-Origin"]
    except urllib.error.HTTPError as error:
        with error:
            return error.status, error.headers["Access-Control-Allow-Origin"]


def test_only_pages_on_the_list_may_call(guarded):
    assert preflight(guarded, PAGE) == (204, PAGE)
    assert preflight(guarded, "https://other.example")[1] is None
    path, act = "/incidents/0/resolve", bearer(ACT)
    assert ask(guarded, path, "POST", "{}", Origin=PAGE, **act)[0] == 404
    assert ask(guarded, path, "POST", "{}", Origin=guarded, **act)[0] == 404
    assert ask(guarded, path, "POST", "{}", Host="fleet.example", **act)[0] == 404
    for wrong in ({"Origin": "https://other.example"}, {"Host": "other.example"}):
        status, body = ask(guarded, path, "POST", "{}", **wrong, **act)
        assert (status, "example" in body["message"]) == (403, True)


def test_without_tokens_another_sites_name_gives_nothing_to_read(api):
    """A browser takes what a name points to for that name's own site."""
    assert ask(api, "/devices", Host="other.example")[0] == 403
    assert ask(api, "/devices", Host="localhost")[0] == 200


@pytest.mark.parametrize(
    ("settings", "told", "fix"),
    [
        ({"HOST": "0.0.0.0"}, "listens on this machine only", "TOKENS="),
        ({"TOKENS": "read short"}, "is not written as", "openssl rand"),
        ({"TOKENS_FILE": "/nonexistent"}, "there is no file", "unset TOKENS_FILE"),
        ({"ORIGINS": "fleet.example"}, "which is no origin", "ORIGINS="),
        ({"PORT": "1", "HOST": "192.0.2.1", "TOKENS": f"read {READ}"}, "192.0.2.1", "PORT="),
    ],
)
def test_it_does_not_start_with_what_it_cannot_keep(command, settings, told, fix):
    assert_refused(command, settings, told, fix)


def test_a_file_of_tokens_that_others_may_read_is_refused(command, tmp_path):
    file = tmp_path / "tokens"
    file.write_text(TOKENS)
    file.chmod(0o604)
    assert_refused(command, {"TOKENS_FILE": str(file)}, "others may read", f"chmod 600 {file}")


def assert_refused(command, settings, told, fix):
    ran = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "PORT": "0", **settings},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    first, second = ran.stderr.splitlines()
    assert first.startswith("cannot start: ")
    assert told in first
    assert second.startswith("fix: ")
    assert fix in second
    assert "0123456789abcdef" not in ran.stderr


def test_an_empty_file_of_tokens_lets_nobody_in(fleet, serve, tmp_path):
    file = tmp_path / "tokens"
    file.touch(0o600)
    with serve(**fleet.environment, TOKENS_FILE=str(file)) as address:
        assert ask(address, "/devices", **bearer(READ))[0] == 401


def test_who_acts_is_the_role_of_the_server(fleet, guarded):
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, VIENNA) as number:
        status, said = ask(guarded, f"/incidents/{number}/resolve", "POST", "{}", **bearer(ACT))
        assert (status, said["state"]) == (200, "resolved")


def test_answers_are_compressed(api):
    request = urllib.request.Request(f"{api}/devices", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.read(2) == b"\x1f\x8b"

"""What is configured: the files beside the service, mistakes, and who may come in."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from intake.configuration import Broker, Configuration, Messages, Mistake, read
from intake.shadows import merged
from intake.topics import Topic
from mqtt import EXAMPLE

from .conftest import Device, Intake, until

STATE = "iot/device/a/state"


def test_the_example_shows_each_default(tmp_path):
    text = (EXAMPLE / "intake.toml").read_text()
    bare = read(EXAMPLE / "intake.toml")
    whole = tmp_path / "whole.toml"
    whole.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M))
    assert read(whole) == bare
    shown = re.findall(r"^(?:# )?(\w+) = ", text, re.M)
    parts = (Configuration, Broker, Messages)
    known = {name for part in parts for name in part.__dataclass_fields__}
    assert {*shown, "broker", "messages"} == known


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "broker is missing"),
        ("[broker]", "broker.url is missing"),
        ("broker = 1", "broker is a section: [broker]"),
        ("what = 1", "what is not known; there are broker, database, new_devices, messages"),
        ("[broker", "Expected ']'"),
        ('[broker]\nurl = "http://x"', "write mqtt://user@host:1883, or mqtts://"),
        ('[broker]\nurl = "mqtt://x:y"', "write mqtt://user@host:1883, or mqtts://"),
        ('[broker]\nurl = "mqtt://a:secret@x"', "put it in password_file or MQTT_PASSWORD"),
        ('[broker]\nurl = 1', "broker.url is 1, which is of the wrong type"),
        ('[broker]\nurl = "mqtt://x"\nkey_file = "k"', "go together"),
        ('[broker]\nurl = "mqtt://x"\nclient_id = ""', "client_id is empty"),
        ('new_devices = "maybe"\n[broker]\nurl = "mqtt://x"', "it is 'add' or 'refuse'"),
        ('[messages]\nbatch = 0', "messages.batch is not from 1 to 32767"),
        ('[messages]\nbatch = true', "messages.batch is True, which is of the wrong type"),
        ('[messages]\nseconds = 0', "messages.seconds is not above 0"),
        ('[messages]\ntopics = []', "messages.topics is empty"),
        ('[messages]\ntopics = ["a/{device}/b{shadow}"]', "that is not a whole"),
        ('[messages]\ntopics = ["a/+/b"]', "needs one level {device}"),
        ('[messages]\ntopics = ["a/{device}/#/b"]', "that is not a whole"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_sentence(tmp_path, text, told):
    file = tmp_path / "intake.toml"
    file.write_text(text)
    with pytest.raises(Mistake, match=re.escape(told)):
        read(file)


def test_a_mistake_ends_the_service_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "intake", str(tmp_path / "none.toml")],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("intake: ")
    assert "No such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("pattern", "filters", "topic", "found"),
    [
        ("a/{device}/b", "a/+/b", "a/x y/b", ("x y", "usual")),
        ("a/{device}/b", "a/+/b", "a/x/y/b", None),
        ("{shadow}/{device}", "+/+", "s/d", ("d", "s")),
        ("+/{device}/#", "+/+/#", "any/d/and/more", ("d", "usual")),
        ("a.c/{device}", "a.c/+", "abc/d", None),
        ("{device}", "+", "", None),
    ],
)
def test_a_pattern_says_which_device_a_topic_is_of(pattern, filters, topic, found):
    one = Topic(pattern, "usual")
    assert (one.filter, one.match(topic)) == (filters, found)


# From RFC 7396's appendix: a target, a patch and the result.
MERGES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("state", "change", "result"), MERGES)
def test_a_change_is_merged_as_the_standard_says(state, change, result):
    before = repr(state)
    assert merged(state, change) == result
    assert repr(state) == before


# Who may come in ------------------------------------------------------------------------


def refused(intake: Intake) -> str:
    """What the service says when it ends by itself."""
    assert intake.process.wait(30) == 1, intake.told()
    assert "Traceback" not in intake.told()
    return intake.told().splitlines()[-1]


def test_a_table_that_is_missing_is_told_at_once(history, start):
    history.execute("DROP TABLE device_shadows")
    told = (
        'intake: relation "device_shadows" does not exist; tables.sql and demo/history.sql make it'
    )
    assert refused(start()) == told


def test_a_privilege_that_is_missing_is_told_at_once(history, dsn, start):
    role = f"intake_{os.getpid()}"
    history.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        told = refused(start(dsn=f"{dsn} options='-c role={role}'"))
        assert told == "intake: permission denied for table devices"
    finally:
        history.execute(f'DROP ROLE "{role}"')


def test_the_privileges_that_the_readme_names_are_enough(history, dsn, start, device):
    grants = re.findall(r"^ *(GRANT .*;)", (EXAMPLE / "README.md").read_text(), re.M)
    assert len(grants) == 4
    role = f"intake_{os.getpid()}"
    history.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        for grant in grants:
            history.execute(grant.replace("TO intake", f'TO "{role}"'))
        service = start(dsn=f"{dsn} options='-c role={role}'")
        device.say(STATE, {"n": 1})
        until(lambda: history.execute("SELECT FROM device_shadow_history").fetchall())
        service.end()
    finally:
        history.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def openssl(place: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=place, check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path):
    """An authority, and certificates of it for the broker and for the service."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout"
    by = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
    openssl(tmp_path, f"req -x509 {key} ca.key -out ca.pem -subj /CN=authority -days 2")
    for name in ("localhost", "client"):
        (tmp_path / "names").write_text(f"subjectAltName=DNS:{name}")
        openssl(tmp_path, f"req {key} {name}.key -out csr -subj /CN={name}")
        openssl(tmp_path, f"x509 -req -in csr {by} -extfile names -out {name}.pem")
    return tmp_path


def test_tls_with_a_certificate_of_our_own(history, broker, certificates, start, device):
    url = broker.url
    secure = (
        f"listener {broker.port + 1} 127.0.0.1\nrequire_certificate true\n"
        f"cafile {certificates}/ca.pem\n"
        f"certfile {certificates}/localhost.pem\nkeyfile {certificates}/localhost.key\n"
    )
    broker.end()
    with open(broker.place / "mosquitto.conf", "a") as conf:
        conf.write(secure)
    broker.start()
    ours = {"url": f"mqtts://localhost:{broker.port + 1}"}
    ours |= {"ca_file": f"{certificates}/ca.pem", "key_file": f"{certificates}/client.key"}
    service = start(broker={**ours, "certificate_file": f"{certificates}/client.pem"})
    other = Device(broker)
    other.say(STATE, {"n": 1})
    until(lambda: history.execute("SELECT FROM device_shadow_history").fetchall())
    other.end()
    assert f"connected to {ours['url']}" in service.end()
    assert url != ours["url"]


def test_a_password_from_a_file_and_one_that_is_wrong(
    history, broker, start, device, tmp_path, monkeypatch
):
    device.end()
    broker.end()
    conf = broker.place / "mosquitto.conf"
    text = conf.read_text().replace("allow_anonymous true", f"password_file {tmp_path}/passwords")
    conf.write_text(text)
    passwords = ["mosquitto_passwd", "-b", "-c", str(tmp_path / "passwords"), "intake", "right"]
    subprocess.run(passwords, check=True, capture_output=True)
    broker.start()
    secret = tmp_path / "secret"
    url = broker.url.replace("//", "//intake@")
    for password, ends in (("right\n", False), ("wrong", True)):
        secret.write_text(password)
        service = start(broker={"url": url, "password_file": str(secret)})
        if ends:
            assert refused(service) == "intake: the broker refuses us: Not authorized"
        else:
            assert "connected to" in service.end()
    monkeypatch.setenv("MQTT_PASSWORD", "right")
    assert "connected to" in start(broker={"url": url}).end()
    secret.unlink()
    service = start(broker={"url": url, "password_file": str(secret)})
    assert refused(service).startswith("intake: broker.password_file: ")


@pytest.mark.slow
def test_two_services_of_one_id_take_turns_and_store_each_message_once(history, start, device):
    services = [start(), start()]
    for n in range(300):
        device.tell(STATE, {"state": {"reported": {"n": n}}, "timestamp": 1.7e9 + n})
        time.sleep(0.005)
    count = "SELECT count(*), count(DISTINCT timestamp) FROM device_shadow_history"
    until(lambda: history.execute(count).fetchone() == (300, 300))
    for one in services:
        one.end()
    assert history.execute(count).fetchone() == (300, 300)

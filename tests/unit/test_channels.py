"""Sending, to real receivers that behave badly: what is sent, and what is said of what is not."""

import base64
import re
import shutil
import subprocess
import time

import paho.mqtt.client
import pytest
from aiosmtpd.controller import Controller

from pyml.workers import channels, targets
from pyml.workers.notify import attempt
from tests.receivers import ROOT, SECRET, free_port, notify, receiving, table, until

from .test_targets import TOLD


def send(source, told=TOLD):
    """Send to the one target of a TOML text; why it was not taken."""
    [target], wrong = targets.read(source)
    assert wrong == []
    return attempt(target, channels.sender(target), told)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(channels, "SECONDS", 1.0)


def test_a_receiver_that_checks_the_signature_takes_it():
    with receiving() as receiver:
        assert send(receiver.table()) is None
    assert receiver.got == [{**TOLD, "link": None}]


def test_the_signature_is_that_of_standard_webhooks():
    # The example that the libraries of that standard are tested with.
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    number, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'
    signature = channels.signature(key, number, "1614265330", body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_receiver_in_the_documents_knows_it_from_a_forged_one():
    shown = (ROOT / "docs" / "alerting.md").read_text()
    told: dict = {}
    exec(re.search(r"```python\n(.*?)```", shown, re.S)[1], told)
    known = []

    def look(handler, document):
        for body in (handler.body, handler.body.replace(b"critical", b"warning")):
            known.append(told["is_from_pyml"](SECRET, handler.headers, body))
        return 204

    with receiving(look) as receiver:
        assert send(receiver.table()) is None
    assert known == [True, False]


def test_a_receiver_that_refuses_it_is_quoted():
    with receiving(lambda handler, document: 401) as receiver:
        assert send(receiver.table()) == "it answers 401 Unauthorized"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status):
    with receiving() as other:

        def elsewhere(handler, document):
            handler.send_response(status)
            handler.send_header("Location", other.url())
            handler.end_headers()

        with receiving(elsewhere) as receiver:
            said = send(receiver.table())
    assert said == f"it answers {status}, with a redirect, which is not followed"
    assert other.got == []


def test_a_receiver_that_does_not_answer_is_given_up(quick):
    with receiving(lambda handler, document: time.sleep(3)) as receiver:
        began = time.monotonic()
        assert send(receiver.table()) == "it has not answered within 1 s"
    assert time.monotonic() - began < 6


def test_a_receiver_that_answers_byte_by_byte_is_given_up(quick):
    def drip(handler, document):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nx: ")
        for _ in range(30):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.1)

    with receiving(drip) as receiver:
        began = time.monotonic()
        assert send(receiver.table()) == "it has not answered within 1 s"
        assert time.monotonic() - began < 2


def test_a_huge_answer_is_not_read():
    sent = []

    def body(handler, document):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 1_000_000)
            sent.append(1)

    with receiving(body) as receiver:
        assert send(receiver.table()) is None
    assert len(sent) < 100


def test_a_huge_head_is_refused():
    def head(handler, document):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n" + b"x: y\r\n" * 1_000_000)

    with receiving(head) as receiver:
        assert "got more than 100 headers" in send(receiver.table())


def test_what_is_no_http_is_refused():
    with receiving(lambda handler, document: handler.wfile.write(b"\0\1\2 hello\n")) as receiver:
        assert send(receiver.table()).startswith("127.0.0.1: ")


def test_a_message_that_cannot_be_made_stops_no_other():
    with receiving() as receiver:
        late = {**TOLD, "started_at": "287396-10-12T08:59:59+00:00"}
        assert send(receiver.table(), late) == "ValueError"
    assert receiver.got == []


def test_nobody_there():
    url = f"http://127.0.0.1:{free_port()}/hook-s3cret"
    assert "Connection refused" in send(table("ops", url=url, secret=SECRET))
    url = "http://nobody.invalid/hook-s3cret"
    said = send(table("ops", url=url, secret=SECRET))
    assert said.startswith("nobody.invalid: ")
    assert "s3cret" not in said


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    with receiving() as receiver:
        receiver.encrypted(certificate, key)
        url = f"https://localhost:{receiver.port}/hook-s3cret"
        source = table("ops", url=url, secret=SECRET)
        assert "certificate verify failed" in send(source)
        trusted = {"SSL_CERT_FILE": str(certificate)}
        ran = notify(source, "--test", "ops", **trusted)
        assert (ran.returncode, ran.stdout) == (0, "ops: sent\n"), ran.stderr
        # It is for another name.
        ran = notify(source.replace("localhost", "127.0.0.1"), "--test", "ops", **trusted)
        assert ran.returncode == 1
        assert "certificate verify failed" in ran.stderr
        assert "s3cret" not in ran.stderr
    assert [told["event"] for told in receiver.got] == ["test"]


class Mailbox:
    """Keeps what an SMTP server gets."""

    def __init__(self):
        self.got = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - so aiosmtpd calls it
        self.got.append(envelope)
        return "250 OK"


def test_mail_is_sent_by_a_real_server():
    box = Mailbox()
    server = Controller(box, hostname="127.0.0.1", port=free_port())
    server.start()
    url = f"mailto://127.0.0.1:{server.port}?from=pyml@example.com&to=ops@example.com&mode=insecure"
    try:
        assert send(table("mail", url=url)) is None
    finally:
        server.stop()
    [envelope] = box.got
    assert envelope.rcpt_tos == ["ops@example.com"]
    lines = envelope.content.decode().splitlines()
    assert "Subject: boiler Bcc: all: temperature level (critical)" in lines
    assert not any(line.lower().startswith("bcc:") for line in lines)
    assert "Incident 7, since 2026-11-29 10:00 UTC." in lines
    said = send(table("mail", url=url.replace("mailto://", "mailto://us3r:s3cret@")))
    assert said
    assert "s3cret" not in said


@pytest.fixture
def mosquitto(tmp_path):
    """A broker of our own; its port."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not here")
    port = free_port()
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", settings], stderr=subprocess.DEVNULL)
    yield port
    process.terminate()
    process.wait(10)


def test_mqtt_is_sent_by_a_real_broker(mosquitto):
    got = []
    client = paho.mqtt.client.Client(paho.mqtt.client.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: got.append(message.payload.decode())
    client.on_connect = lambda client, *_: client.subscribe("pyml/#", qos=1)
    subscribed = []
    client.on_subscribe = lambda *_: subscribed.append(True)

    def connected():
        try:
            return client.connect("127.0.0.1", mosquitto) == 0
        except OSError:
            return False

    until(connected)
    client.loop_start()
    try:
        until(lambda: subscribed)
        assert send(table("broker", url=f"mqtt://127.0.0.1:{mosquitto}/pyml/ops?qos=1")) is None
        until(lambda: got)
    finally:
        client.disconnect()
        client.loop_stop()
    assert "temperature level (critical)" in got[0]
    assert "temperature has been at 61 °C" in got[0]
    nobody = f"mqtt://us3r:s3cret@127.0.0.1:{free_port()}/pyml/ops"
    said = send(table("broker", url=nobody))
    assert said
    assert "s3cret" not in said

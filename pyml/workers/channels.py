"""Sending a message: a signed webhook by itself, everything else by Apprise.

Nothing else leaves the machine: redirects are not followed, and Apprise keeps what it knows in
memory and has no pictures to offer.
"""

import base64
import hashlib
import hmac
import http.client
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pyml import __version__

if TYPE_CHECKING:
    from pyml.workers.messages import Message
    from pyml.workers.targets import Target

Send = Callable[["Message"], None]

SECONDS = 15.0  # in which a receiver has to have answered, from the first byte to the last
LONGEST_REASON = 200
# Stands in an address of Apprise for the device that a message is of, such as in a topic of MQTT.
DEVICE = "{device_uuid}"
OF_MANY = "fleet"  # what is filled in where it is of no single one
LOGGER = logging.getLogger("apprise")


class NotSent(Exception):
    """A receiver has not taken a message; says why."""


def sender(target: "Target") -> Send:
    """What sends to a target; it raises `NotSent`."""
    return _webhook(target) if target.is_webhook else _apprise(target)


# Webhooks ------------------------------------------------------------------------------


def _webhook(target: "Target") -> Send:
    def send(message: "Message") -> None:
        parts = urlsplit(target.url)
        body = json.dumps(message.document, ensure_ascii=False, allow_nan=False).encode()
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": f"pyml/{__version__}",
            "webhook-id": message.number,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(target.key, message.number, stamp, body),
        }
        place = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with _connection(parts.scheme.lower(), parts.hostname or "", parts.port) as conn:
            conn.request("POST", place, body, headers)
            answer = conn.getresponse()  # its head is bounded, and its body is not read
            status, reason = answer.status, answer.reason[:LONGEST_REASON]
            if 300 <= status < 400:
                raise NotSent(f"it answers {status}, with a redirect, which is not followed")
            if not 200 <= status < 300:
                raise NotSent(f"it answers {status} {reason}".strip())

    return send


def signature(key: bytes, number: str, stamp: str, body: bytes) -> str:
    """HMAC-SHA256 of a message's number, time and body, after Standard Webhooks."""
    signed = b".".join((number.encode(), stamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


@contextmanager
def _connection(scheme: str, host: str, port: int | None) -> Iterator[http.client.HTTPConnection]:
    """A connection that is cut after `SECONDS`, however slowly the other side goes on.

    Raises
    ------
    NotSent
        What the network, TLS or HTTP have to say.
    """
    conn = (
        http.client.HTTPSConnection(
            host, port, timeout=SECONDS, context=ssl.create_default_context()
        )
        if scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=SECONDS)
    )
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError, AttributeError):
            conn.sock.shutdown(2)

    timer = threading.Timer(SECONDS, cut)
    timer.daemon = True
    timer.start()
    slow = f"it has not answered within {SECONDS:.0f} s"
    try:
        yield conn
        if late.is_set():  # a head that is cut short looks like one that is over
            raise NotSent(slow)
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise NotSent(slow) from error
        words = str(error) or type(error).__name__
        raise NotSent(f"{host}: {words}") from error
    finally:
        timer.cancel()
        conn.close()


# Apprise -------------------------------------------------------------------------------


class _Kept(logging.Handler):
    """Keeps what Apprise says in this thread, and lets nobody else hear it: it names addresses."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the last of it."""
        self.said.words = record.getMessage()


_KEPT = _Kept()


def _notifier(url: str, device: str = OF_MANY) -> Any:
    """Apprise with one address, for a device; with none where it can make nothing of it."""
    import apprise  # half a second, which webhooks need not wait for

    if _KEPT not in LOGGER.handlers:
        LOGGER.addHandler(_KEPT)
        LOGGER.propagate = False
    asset = apprise.AppriseAsset(
        app_id="pyml",
        app_desc="pyml",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        http_redirects=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        pem_autogen=False,
        pgp_autogen=False,
        async_mode=False,
    )
    notifier = apprise.Apprise(asset=asset)
    notifier.add(url.replace(DEVICE, device))
    return notifier


def why_not(url: str) -> str | None:
    """Why Apprise cannot send to an address; None where it can."""
    made = list(_notifier(url))
    if len(made) != 1:
        return "Apprise cannot send to that url: https://appriseit.com/services/ has their forms"
    if not made[0].verify_certificate:
        return "url turns off the check of certificates (verify=no)"
    if made[0].redirects:
        return "url lets redirects be followed (redirect=yes)"
    return None


def _apprise(target: "Target") -> Send:
    fixed = None if DEVICE in target.url else _notifier(target.url)

    def send(message: "Message") -> None:
        notifier = fixed or _notifier(target.url, message.document.get("device_uuid") or OF_MANY)
        _KEPT.said.words = ""
        taken = notifier.notify(
            title=message.title, body=message.body, notify_type=_type(message), body_format="text"
        )
        if not taken:
            raise NotSent(_KEPT.said.words or "Apprise could not send it")

    return send


def _type(message: "Message") -> str:
    """How Apprise marks it."""
    if message.document["event"] in ("resolved", "resumed"):
        return "success"
    if message.document["event"] in ("test", "acknowledged"):
        return "info"
    return "warning" if message.document.get("severity") == "warning" else "failure"

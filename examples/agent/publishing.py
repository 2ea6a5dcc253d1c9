"""Readings to a broker, which keeps them for whoever writes the history (examples/mqtt)."""

import json
import os
import queue
import ssl
import threading
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

PORTS = {"mqtt": 1883, "mqtts": 8883}
PASSWORD = "MQTT_PASSWORD"  # noqa: S105 - the variable's name
TOPIC = "iot/device/{}/state"
PATIENCE = 10.0  # seconds for a connection, and for the broker to take what is sent
# A broker that is killed forgets what it has not written to disk yet, for which mosquitto takes
# its autosave_interval. So what was sent shortly before goes once more over a new connection;
# whoever writes the history knows repeats by their time.
REPEATED = 60.0  # seconds

Reading = tuple[datetime, dict[str, Any]]


class Broker:
    """The way to a broker, at QoS 1.

    Parameters
    ----------
    url : str
        ``mqtt://`` or ``mqtts://``; the password of its user is in MQTT_PASSWORD.
    device : uuid.UUID

    Raises
    ------
    ValueError
        If it is no such URL.
    """

    def __init__(self, url: str, device: uuid.UUID) -> None:
        self._address = urllib.parse.urlsplit(url)
        if self._address.scheme not in PORTS or not self._address.hostname:
            raise ValueError(f"{url!r} is no mqtt://user@host:1883, and no mqtts://…")
        self._port = self._address.port or PORTS[self._address.scheme]
        self._topic = TOPIC.format(device)
        self._sent: deque[tuple[float, Reading]] = deque()
        self._client: Client | None = None
        self._lost = threading.Event()

    def send(self, readings: Sequence[Reading], patience: float | None = None) -> None:
        """Publish readings; returns when the broker has taken them.

        Parameters
        ----------
        readings : Sequence of (datetime, dict)
            Naive UTC, and the state.
        patience : float, optional
            Seconds that connecting may take, if not the usual.

        Raises
        ------
        ConnectionError
            If the broker is not there, or not all of the time.
        PermissionError
            If it refuses us.
        """
        try:
            again: list[Reading] = []
            if self._client is None or self._lost.is_set():
                self._connect(patience or PATIENCE)
                again = [reading for _, reading in self._sent]
            self._deliver([*again, *readings])
        except OSError:
            self.close()
            raise
        except (RuntimeError, ValueError) as problem:  # the client library's: no connection, full
            self.close()
            raise ConnectionError(str(problem)) from problem
        now = time.monotonic()
        self._sent.extend((now, reading) for reading in readings)
        while self._sent and self._sent[0][0] < now - REPEATED:
            self._sent.popleft()

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
        self._client = None

    def _deliver(self, readings: Sequence[Reading]) -> None:
        """Publish readings, and wait until the broker has taken them."""
        assert self._client  # noqa: S101
        said = []
        for when, state in readings:
            document = {"state": {"reported": state}, "timestamp": when.isoformat() + "Z"}
            said.append(self._client.publish(self._topic, json.dumps(document), qos=1))
        until = time.monotonic() + PATIENCE
        for one in said:
            while not one.is_published():
                if self._lost.is_set() or time.monotonic() > until:
                    raise ConnectionError("the broker does not take what is sent")
                one.wait_for_publish(0.1)

    def _connect(self, patience: float) -> None:
        """Connect anew; returns when the broker has accepted us."""
        self.close()
        # A connection that the library makes by itself would not repeat what was sent before.
        client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        self._client, self._lost = client, threading.Event()
        lost, answers = self._lost, queue.SimpleQueue[Any]()
        client.on_connect = lambda _c, _u, _f, reason, _p: answers.put(reason)
        client.on_disconnect = lambda *_: lost.set()
        client.connect_timeout = patience
        if self._address.username:
            user = urllib.parse.unquote(self._address.username)
            client.username_pw_set(user, os.environ.get(PASSWORD))
        if self._address.scheme == "mqtts":
            client.tls_set_context(ssl.create_default_context())
        try:
            client.connect(str(self._address.hostname), self._port)
            client.loop_start()
            answer = answers.get(timeout=patience)
        except OSError as problem:
            raise ConnectionError(f"no connection to the broker: {problem}") from problem
        except queue.Empty:
            raise ConnectionError("the broker does not answer") from None
        if answer.is_failure:
            raise PermissionError(f"the broker refuses us: {answer}")

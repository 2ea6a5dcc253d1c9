"""The broker: a session that it keeps, of which a bounded part is here and unacknowledged."""

import logging
import queue
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from .configuration import Broker, Mistake

log = logging.getLogger(__package__)

KEEP_FOREVER = 2**32 - 1  # seconds of a session's life, in MQTT's words
LONGEST_WAIT = 30  # seconds between two tries to connect
# The broker keeps away what is larger: the service's memory has an end.
LARGEST_PACKET = 2**24
# These will not pass: another client has our id, or we may not come in.
ENDED = frozenset(
    {
        "Banned",
        "Bad authentication method",
        "Bad user name or password",
        "Client identifier not valid",
        "Not authorized",
        "Session taken over",
        "Topic filter invalid",
        "Unsupported protocol version",
    }
)


class Arrival(NamedTuple):
    """A message as it came, and of which connection it is."""

    topic: str
    payload: bytes
    came_at: datetime
    mid: int
    connection: int


class Session:
    """A session at the broker.

    Messages come in a thread of the client library's and wait here; `most` are unacknowledged at
    most, and the broker keeps the others.

    Parameters
    ----------
    broker : Broker
    filters : Sequence[str]
        What to subscribe to.
    most : int

    Raises
    ------
    Mistake
        If a file is missing or wrong.
    """

    def __init__(self, broker: Broker, filters: Sequence[str], most: int) -> None:
        self._filters, self._broker = list(filters), broker
        # Of a connection that broke some are here still when the next one sends them again.
        self._waiting: queue.Queue[Arrival] = queue.Queue(maxsize=most)
        self._connection, self._lock = 0, threading.Lock()
        self._refusal, self._ended = "", False
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=broker.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )
        self._client.reconnect_delay_set(1, LONGEST_WAIT)
        if broker.address.username:
            self._client.username_pw_set(unquote(broker.address.username), broker.password())
        if broker.address.scheme == "mqtts":
            self._client.tls_set_context(_tls(broker))
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._unreachable
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._came
        self._quiet = False
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = KEEP_FOREVER
        properties.ReceiveMaximum = most
        properties.MaximumPacketSize = LARGEST_PACKET
        self._client.connect_async(
            str(broker.address.hostname), broker.port, clean_start=False, properties=properties
        )

    def start(self) -> None:
        """Connect, now or as soon as the broker is there."""
        self._client.loop_start()

    def take(self, most: int, seconds: float, stop: threading.Event) -> list[Arrival]:
        """What comes: `most` messages, or those that come within some seconds.

        Raises
        ------
        Mistake
            If the broker refuses us.
        """
        taken: list[Arrival] = []
        until = time.monotonic() + seconds
        while len(taken) < most and not stop.is_set():
            if self._refusal:
                raise Mistake(self._refusal)
            if (left := until - time.monotonic()) <= 0:
                break
            with suppress(queue.Empty):
                taken.append(self._waiting.get(timeout=left))
        return taken

    def acknowledge(self, taken: Sequence[Arrival]) -> None:
        """Tell the broker that messages are stored; of an earlier connection, it asks again."""
        with self._lock:
            for one in taken:
                if one.connection == self._connection and one.mid:
                    self._client.ack(one.mid, 1)

    def end(self) -> None:
        """Send what is acknowledged, and disconnect; the broker keeps the session."""
        self._ended = True
        self._client.disconnect()
        self._client.loop_stop()

    # Called in the library's thread.

    def _connected(self, client: Client, _: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refused(f"the broker refuses us: {reason}", str(reason))
            return
        self._quiet, self._begins = False, not flags.session_present
        if not self._begins:
            # Said here: the broker confirms what follows behind all that it has kept for us, which
            # may have to wait for the database.
            log.info("connected to %s, which goes on with our session", self._broker.url)
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        client.subscribe([(one, options) for one in self._filters])

    def _subscribed(self, client: Client, _: Any, mid: int, reasons: Any, properties: Any) -> None:
        if self._begins:
            log.info("connected to %s, which begins our session", self._broker.url)
        for topic, reason in zip(self._filters, reasons, strict=False):
            if reason.is_failure:
                self._refused(f"the broker refuses us {topic}: {reason}", str(reason))

    def _unreachable(self, client: Client, _: Any) -> None:
        if not self._quiet:
            log.warning("no connection to %s; trying on", self._broker.url)
        self._quiet = True

    def _disconnected(self, client: Client, _: Any, flags: Any, reason: Any, props: Any) -> None:
        with self._lock:
            self._connection += 1
        if reason.is_failure:
            self._refused(f"the connection is lost: {reason}", str(reason))

    def _refused(self, told: str, reason: str) -> None:
        if reason in ENDED:
            self._refusal = told
        log.warning("%s", told)

    def _came(self, client: Client, _: Any, message: MQTTMessage) -> None:
        now = datetime.now(UTC).replace(tzinfo=None)
        arrival = Arrival(message.topic, message.payload, now, message.mid, self._connection)
        while not self._ended:
            with suppress(queue.Full):  # the network waits
                self._waiting.put(arrival, timeout=1)
                return


def _tls(broker: Broker) -> ssl.SSLContext:
    """The certificates that we trust, and ours."""
    try:
        context = ssl.create_default_context(cafile=broker.ca_file or None)
        if broker.certificate_file:
            context.load_cert_chain(broker.certificate_file, broker.key_file)
    except OSError as error:
        raise Mistake(f"broker's TLS files: {error}") from error
    return context

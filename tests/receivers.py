"""Real receivers for what notifiers send: HTTP that behaves badly on request, and its signature."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY = b"k" * 32
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
ROOT = Path(__file__).parents[1]


def verified(key: bytes, headers: Mapping[str, str], body: bytes) -> dict[str, object]:
    """A webhook's document, as a receiver gets it that checks the signature."""
    number, stamp = headers["webhook-id"], headers["webhook-timestamp"]
    assert abs(time.time() - int(stamp)) < 300
    digest = hmac.new(key, f"{number}.{stamp}.".encode() + body, hashlib.sha256).digest()
    assert hmac.compare_digest(
        headers["webhook-signature"], f"v1,{base64.b64encode(digest).decode()}"
    )
    return json.loads(body)


class Receiver:
    """A web server that keeps what it gets, and answers as it is told to.

    `behave` gets a request's handler and document, and returns a status, or None where it has
    answered by itself.
    """

    def __init__(self, behave: Callable[[BaseHTTPRequestHandler, dict], int | None] | None = None):
        self.got: list[dict] = []
        self.behave = behave or (lambda handler, document: 204)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.body = self.rfile.read(int(self.headers["content-length"]))
                document = verified(KEY, self.headers, self.body)
                status = outer.behave(self, document)
                if status is not None:
                    if 200 <= status < 300:
                        outer.got.append(document)
                    self.send_response(status)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # whoever hangs up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def url(self, path: str = "/hook-s3cret") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def table(self, name: str = "ops", **more: object) -> str:
        """A target's table in TOML."""
        return table(name, url=self.url(), secret=SECRET, **more)

    def encrypted(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def table(name: str, **keys: object) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([f"[{name}]", *lines, ""])


@contextlib.contextmanager
def receiving(*arguments: object) -> Iterator[Receiver]:
    receiver = Receiver(*arguments)
    try:
        yield receiver
    finally:
        receiver.close()


def environment(targets: str | None = None, **more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("PYML_TARGETS")
    }
    return {**kept, **({} if targets is None else {"PYML_TARGETS": targets}), **more}


COMMAND = (sys.executable, "-m", "pyml.workers.notify")


def notify(targets: str | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the notifier to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(targets, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextlib.contextmanager
def notifying(targets: str, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A notifier that runs meanwhile."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(targets, **more),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            print(process.communicate(timeout=30)[1])  # shown where a test fails
        finally:
            process.kill()


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it has not come to hold"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]

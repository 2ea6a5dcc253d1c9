"""An MQTT broker of our own: mosquitto, on a port of its own, for this machine alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from installer.process import HERE, Failure

CONFIGURATION = HERE / "examples/mqtt/mosquitto.conf"


def find_mosquitto() -> str | None:
    """The broker's program, which Debian keeps where only root looks."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """A broker, configured as the example is.

    Parameters
    ----------
    program : str
        Mosquitto.
    place : Path
        A folder for its files.
    more : str
        Further lines of its configuration.
    """

    def __init__(self, program: str, place: Path, more: str = "allow_anonymous true") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.program, self.place, self.log = program, place, place / "mosquitto.log"
        self.url = f"mqtt://127.0.0.1:{self.port}"
        own = f"listener {self.port} 127.0.0.1\npersistence_location {place}/\nuser root\n{more}\n"
        (place / "mosquitto.conf").write_text(f"{CONFIGURATION.read_text()}\n{own}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-c", str(self.place / "mosquitto.conf")],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        for _ in range(500):
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise Failure(f"mosquitto does not start: {self.log.read_text()}", f"less {self.log}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, gently or by SIGKILL."""
        if self.process:
            self.process.send_signal(number)
            self.process.wait()
        self.process = None

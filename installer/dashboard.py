"""The demo's dashboard: the API server built, started, and shown until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from installer.debian import apt_candidate, apt_install
from installer.live import beside, reporting
from installer.postgres import Server
from installer.process import HERE, Failure, locked, run, run_reporting, say

API_SERVER = HERE / "examples/api-server"
SCAN_SECONDS = 60


def api_server() -> list[str]:
    """The command that starts the API server, which is built if need be."""
    node = find_node()
    npm = [shutil.which("npm") or "npm", "--prefix", str(API_SERVER)]
    lock, installed = (
        API_SERVER / one for one in ("package-lock.json", "node_modules/.package-lock.json")
    )
    with locked(lock):  # one run at a time: a compiler that is being written cannot be run
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            say("installing the API server's libraries with npm")
            fix = "check the network, and run this again"
            run_reporting(
                [*npm, "ci", "--no-audit", "--no-fund"], "npm could not install them", fix
            )
        run([*npm, "run", "build"], wrong="the API server cannot be built")
    return [node, str(API_SERVER / "dist/main.js")]


def find_node() -> str:
    """Node.js, as new as the API server says; Debian's is installed where it is that new."""
    package = json.loads((API_SERVER / "package.json").read_text())
    least = int(package["engines"]["node"].removeprefix(">="))
    node = shutil.which("node")
    found = run([node, "--version"]) if node else "none"
    if node and shutil.which("npm") and int(found[1:].split(".")[0]) >= least:
        return node
    why = f"the API server needs Node.js {least} or later with npm; here is {found}"
    if node or not shutil.which("apt-cache") or apt_candidate("nodejs") < least:
        raise Failure(why, "https://nodejs.org/en/download")
    apt_install(["nodejs", "npm"], why)
    return find_node()


def show_dashboard(
    command: Sequence[str], server: Server, python: Path, mosquitto: str | None, place: Path
) -> None:
    """Show the demo's fleet, live, and scan as a schedule would, until Ctrl-C.

    `python` has pyml's libraries; `mosquitto` is the broker's program, and `place` its folder.
    """
    with socket.socket() as probe:
        port = 8080 if probe.connect_ex(("127.0.0.1", 8080)) else 0
    settings = {"DATABASE_URL": server.dsn, "PORT": str(port)}
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all ends with this program
        signal.signal(each, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as undo:
            programs = undo.enter_context(reporting(python, server, mosquitto, place))
            shown = undo.enter_context(beside(command, settings, stdout=subprocess.PIPE, text=True))
            address = (shown.stdout.readline() if shown.stdout else "").split()[-1:]
            if not address:
                raise Failure("the API server does not start")
            print(f"The dashboard: {address[0]}  (Ctrl-C stops it)", flush=True)
            if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
                webbrowser.open(address[0])
            while not (ended := [one for one in [*programs, shown] if one.poll() is not None]):
                server.ask("CALL ml_scan()")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    shown.wait(SCAN_SECONDS)
            raise Failure(f"this has ended: {shlex.join(ended[0].args)}", f"look into {place}")
    except KeyboardInterrupt:
        say("stopped the dashboard; the demo's server goes on")

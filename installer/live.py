"""The demo's fleet goes on reporting: over a broker where mosquitto is there, else by SQL."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from installer.broker import Mosquitto
from installer.postgres import Server
from installer.process import HERE, PLAIN_ENVIRONMENT, say

INTAKE = HERE / "examples/mqtt"


@contextlib.contextmanager
def beside(
    command: Sequence[str | Path], settings: Mapping[str, str] = PLAIN_ENVIRONMENT, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Run a program, and end it in the end; Ctrl-C does not reach it."""
    started, environment = [str(part) for part in command], {**PLAIN_ENVIRONMENT, **settings}
    with subprocess.Popen(started, env=environment, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait()  # which Popen leaves out after Ctrl-C


@contextlib.contextmanager
def reporting(
    python: Path, server: Server, mosquitto: str | None, place: Path
) -> Iterator[list[subprocess.Popen[Any]]]:
    """Have the fleet report, each reading at its time; the programs that see to it.

    Without `mosquitto` they write by SQL. What the broker has not handed on when all ends is kept
    in `place`, and comes the next time.
    """
    feed: list[str | Path] = [python, "-B", HERE / "demo/live.py", server.dsn]
    with contextlib.ExitStack() as undo:
        if not mosquitto:
            say("readings come by SQL; to have them published: sudo apt-get install mosquitto")
            yield [undo.enter_context(beside(feed))]
            return
        place.mkdir(exist_ok=True)
        broker = Mosquitto(mosquitto, place)
        undo.callback(broker.end)
        broker.start()
        configuration = place / "intake.toml"
        log = undo.enter_context(open(place / "intake.log", "w"))
        configuration.write_text(
            f"database = {json.dumps(server.dsn)}\n[broker]\nurl = {json.dumps(broker.url)}\n"
        )
        intake = beside(
            [python, "-B", "-m", "intake", configuration], cwd=INTAKE, stdout=log, stderr=log
        )
        print(f"The broker: {broker.url}  (examples/agent reports to it with --mqtt)", flush=True)
        programs = [undo.enter_context(intake)]
        yield [*programs, undo.enter_context(beside([*feed, "--mqtt", broker.url]))]

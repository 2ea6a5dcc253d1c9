#!/usr/bin/env python3
"""README's two commands on bare Debian releases, and the steps of the Dockerfile.

    sudo python3 tests/bare.py bookworm trixie              # demo, then test, four times
    sudo python3 tests/bare.py trixie --by user --run demo
    sudo python3 tests/bare.py trixie --by root --run "test tests/install -q" --keep
    sudo python3 tests/bare.py --images                     # what examples/docker makes, running

A bare root is what debootstrap makes of a release, with Python; it is gone afterwards. The
ordinary user types what install.py says is the fix, and no more. Wants root, the network,
Debian's package debootstrap and 6 GB of disk a root. Not part of the suite.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DOCKER = CHECKOUT / "examples/docker"
HOMES = {"root": "/root", "user": "/home/user"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A machine behind a proxy knows its address and certificates by these.
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
AUTHORITIES = "/etc/authorities.crt"

# Namespaces of their own end what was started and what was mounted together with the command.
ENTER = ("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", "-euc")
MOUNTS = """
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -t tmpfs -o mode=1777 shm "$0/dev/shm"
chroot --userspec="$USER:" "$0" "$@" || exit # a child, as whoever changes its user outlives us
"""
OWN_NETWORK = ("unshare", "--net", "sh", "-euc", 'ip link set lo up; exec "$0" "$@"')


def tell(text: str) -> None:
    """Say what is done, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def mirror() -> str:
    """Where this machine's apt has Debian from."""
    command = ["apt-get", "indextargets", "--format", "$(LABEL) $(SITE)", "Identifier: Packages"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"^Debian (\S+)$", told, re.M)
    if not found:
        raise SystemExit("apt on this machine knows no mirror of Debian")
    return found[1]


# Roots ----------------------------------------------------------------------------------


class Root:
    """A Debian release in a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        self.environment |= {name: os.environ[name] for name in PROXIES if name in os.environ}
        if "SSL_CERT_FILE" in os.environ:
            for name in ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"):
                self.environment[name] = AUTHORITIES

    def make(self, suite: str, include: str = "") -> None:
        """Fill it with the least that the release is, and what is to be included."""
        tell(f"making a bare {suite}")
        self.place.mkdir(parents=True)
        options = ["--variant=minbase", *([f"--include={include}"] * bool(include))]
        command = ["debootstrap", *options, suite, str(self.place), mirror()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"debootstrap failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        if given := os.environ.get("SSL_CERT_FILE"):
            shutil.copy(given, self.place / AUTHORITIES.lstrip("/"))

    def put(self, source: str, target: str) -> None:
        """Copy a file or what a folder holds, as far as git knows it or would take it."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", source],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        base = CHECKOUT / source
        for path in [CHECKOUT / name for name in listed.split("\0")[:-1]]:
            there = self.place / target.lstrip("/")
            there /= path.relative_to(base) if base.is_dir() else path.name
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)

    def start(
        self,
        *command: str,
        user: str = "root",
        where: str = "/",
        outside: tuple[str, ...] = (),
        **environment: str,
    ) -> subprocess.Popen[str]:
        """Start a command in it."""
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', where, *command]
        home = HOMES.get(user, "/")
        return subprocess.Popen(
            [*outside, *ENTER, MOUNTS, str(self.place), *inside],
            env={**self.environment, "HOME": home, "USER": user, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, quiet: bool = False, **how: object) -> tuple[int, str]:
        """Run a command in it, showing and giving what it says."""
        process = self.start(*command, **how)  # type: ignore[arg-type]
        said = []
        for line in process.stdout or ():
            if not quiet:
                print(line, end="", flush=True)
            said.append(line)
        return process.wait(), "".join(said)


# README's commands ----------------------------------------------------------------------


@contextmanager
def bare(place: Path, suite: str, who: str, keep: bool) -> Iterator[Root]:
    """A bare root with a checkout in somebody's home, as long as it is needed."""
    root = Root(place)
    try:
        if not place.exists():
            root.make(suite, include="python3")
            root.run("useradd", "--create-home", "--shell", "/bin/bash", "user")
        root.put(".", f"{HOMES[who]}/pyml")
        root.run("chown", "-R", f"{who}:", f"{HOMES[who]}/pyml")
        yield root
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def follow(root: Root, who: str, command: str) -> int:
    """Run one of README's commands, and each fix that it names, once each."""
    tried: set[str] = set()
    while True:
        line = ["python3", "install.py", *shlex.split(command)]
        status, said = root.run(*line, user=who, where=f"{HOMES[who]}/pyml")
        fix = re.search(r"^fix: +sudo (.+)$", said, re.M)
        if status == 0 or not fix or fix[1] in tried:
            return status
        tried.add(fix[1])
        tell(f"as root: {fix[1]}")
        if root.run("sh", "-c", fix[1], DEBIAN_FRONTEND="noninteractive")[0]:
            return status


def commands(options: argparse.Namespace) -> bool:
    """Run each command in each root, and tell how each ended."""
    outcomes = []
    for suite in options.suites:
        for who in options.by:
            with bare(options.into / f"{suite}-{who}", suite, who, options.keep) as root:
                for command in options.run:
                    began = time.monotonic()
                    status = follow(root, who, command)
                    outcomes.append((suite, who, command, status, time.monotonic() - began))
                    tell(f"{suite}, {who}: install.py {command} gave {status}")
    for suite, who, command, status, took in outcomes:
        outcome = "FAILED" if status else "well"
        print(f"{suite:<10}{who:<6}{command:<20}{outcome:<8}{took:.0f} s")
    return not any(status for *_, status, _ in outcomes)


# The images -----------------------------------------------------------------------------


class Image(Root):
    """What a stage of the Dockerfile makes."""

    def __init__(self, place: Path, base: str, steps: list[tuple[str, str]]) -> None:
        super().__init__(place)
        self.base, self.steps = base, steps
        self.user, self.where, self.command = "root", "/", [""]

    def build(self) -> None:
        """Take the steps, with the meaning that a Dockerfile gives them."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.make(self.base)
        # Debian's images keep packages from starting servers.
        policy = self.place / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        for name, rest in self.steps:
            tell(f"{name} {rest[:80]}")
            if name == "WORKDIR":
                self.where = rest
                (self.place / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self.put(source, os.path.join(self.where, target))
            elif name == "RUN":
                if self.run("sh", "-c", rest, user=self.user, where=self.where)[0]:
                    raise SystemExit(f"this step fails: RUN {rest}")
            elif name == "USER":
                self.user = rest
            elif name == "CMD":
                self.command = json.loads(rest)
            elif name not in ("EXPOSE", "STOPSIGNAL", "VOLUME"):
                raise SystemExit(f"the meaning of {name} is not known here")

    def serve(self, outside: tuple[str, ...]) -> subprocess.Popen[str]:
        """Start what the image runs, with the environment that the compose file gives it."""
        compose = (DOCKER / "compose.yaml").read_text()
        stage = self.place.name.removeprefix("image-")
        service = re.search(rf"^  {stage}:\n((?:    .*\n)+)", compose, re.M)
        lines = re.findall(r"^      ([A-Z_]+): (.+)$", service[1] if service else "", re.M)
        environment = {name: re.sub(r"\$\{.*\}", SECRET, value) for name, value in lines}
        how = {"user": self.user, "where": self.where, "outside": outside}
        return self.start(*self.command, **how, **environment)  # type: ignore[arg-type]


def stages(into: Path) -> Iterator[Image]:
    """Read the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.M)
    for part in re.split(r"^FROM ", text.replace("\\\n", ""), flags=re.M)[1:]:
        first, *lines = filter(None, part.splitlines())
        found = re.fullmatch(r"debian:(\w+)-slim AS (\w+)", first)
        if not found:
            raise SystemExit(f"the meaning of FROM {first} is not known here")
        steps = [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]
        yield Image(into / f"image-{found[2]}", found[1], steps)


DEVICE = "00000000-0000-4000-8000-000000000001"
READINGS = f"""
INSERT INTO devices VALUES ('{DEVICE}', 'one');
INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)
SELECT '{DEVICE}', jsonb_build_object('system', jsonb_build_object('cpuUsage', i * 7919 % 101)),
       now() AT TIME ZONE 'UTC' - i * interval '1 minute' FROM generate_series(1, 600) AS i
"""
# In place of what whoever starts the containers chooses.
SECRET = "0123456789abcdef"
FETCH = f"""
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080" + sys.argv[2], method=sys.argv[1])
request.add_header("Authorization", "Bearer {SECRET}")
print(urllib.request.urlopen(request).read().decode())
"""


PUBLISH = """
from paho.mqtt import publish
publish.single("iot/device/one/state", '{"system": {"cpuUsage": 1}}', qos=1)
"""


def until(what: str, check: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(1)
    tell(f"well: {what}")


def images(options: argparse.Namespace) -> None:
    """Build the images' roots, and use what they run as the compose file puts them together."""
    with ExitStack() as undo:
        database, api, broker, intake = built = list(stages(options.into))
        for image in built:
            if not options.keep:
                undo.callback(shutil.rmtree, image.place, ignore_errors=True)
            image.build()
        for image in (api, intake):
            (image.place / "etc/hosts").write_text("127.0.0.1 localhost database broker\n")
        server = database.serve(OWN_NETWORK)
        undo.callback(server.kill)
        network = ("nsenter", f"--net=/proc/{server.pid}/ns/net")

        def ask(statement: str) -> str:
            command = ("psql", "-XAtq", "-d", "fleet", "-c", statement)
            return database.run(*command, user="postgres", quiet=True)[1].strip()

        def fetch(method: str, path: str) -> str:
            command = [*network, sys.executable, "-c", FETCH, method, path]
            return subprocess.run(command, capture_output=True, text=True).stdout

        def healthy() -> bool:
            test = re.search(r"test: (.+)", (DOCKER / "compose.yaml").read_text())
            command = shlex.split(test[1] if test else "false")
            return database.run(*command, quiet=True, outside=network)[0] == 0

        until("the database's health check passes", healthy)
        client = api.serve(network)
        undo.callback(client.kill)
        until("the API server answers", lambda: '"status"' in fetch("GET", "/health"))
        amiss = "SELECT string_agg(check_name, ' ') FROM ml_doctor() WHERE NOT ok"
        until("ml_doctor has nothing to say", lambda: ask(amiss) == "")
        ask(READINGS)
        training = f"/ml/anomalies/train/{DEVICE}"
        until("a training over HTTP", lambda: "model_id" in fetch("POST", training))
        ask("SELECT ml_schedule('* * * * *', '0 0 1 1 *')")
        until("pg_cron scans", lambda: ask("SELECT outcome FROM ml_scan_state") == "scanned")
        for image in (broker, intake):
            undo.callback(image.serve(network).kill)

        def published() -> bool:
            command = ("venv/bin/python", "-c", PUBLISH)
            intake.run(*command, quiet=True, where=intake.where, outside=network)
            return ask("SELECT count(*) > 0 FROM device_shadows") == "t"

        until("a published message comes into the history", published)
        server.kill()
        server.wait()
        server = database.serve(OWN_NETWORK)
        undo.callback(server.kill)
        until(
            "the volume outlives its server", lambda: ask("SELECT min(name) FROM devices") == "one"
        )


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="Debian releases")
    parser.add_argument("--by", nargs="+", choices=HOMES, default=list(HOMES))
    parser.add_argument("--run", nargs="+", default=["demo", "test"], metavar="COMMAND")
    parser.add_argument("--images", action="store_true", help="take the steps of the Dockerfile")
    parser.add_argument("--keep", action="store_true", help="leave the roots, and go on in them")
    parser.add_argument("--into", type=Path, default=Path("/var/tmp/pyml-roots"))
    options = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        parser.error("this wants root, and debootstrap: apt-get install debootstrap")
    well = commands(options)
    if options.images:
        images(options)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())

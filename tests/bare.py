#!/usr/bin/env python3
"""README's two commands on bare Debian releases, by root and by an ordinary user.

    sudo python3 tests/bare.py bookworm trixie              # demo, then test, four times
    sudo python3 tests/bare.py trixie --by user --run demo
    sudo python3 tests/bare.py trixie --by root --run "test tests/install -q"

A bare root is what debootstrap makes of a release, with Python; it is gone afterwards. The
ordinary user types what install.py says is the fix, and no more. Wants root, the network,
Debian's package debootstrap and 6 GB of disk. Not part of the suite.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
HOMES = {"root": Path("/root"), "user": Path("/home/user")}
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
exec chroot "$0" "$@"
"""


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


class Root:
    """A Debian release in a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        self.environment |= {name: os.environ[name] for name in PROXIES if name in os.environ}
        if "SSL_CERT_FILE" in os.environ:
            for name in ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"):
                self.environment[name] = AUTHORITIES

    def make(self, suite: str) -> None:
        """Fill it with the least that the release is, and Python."""
        self.place.mkdir(parents=True)
        command = ["debootstrap", "--variant=minbase", "--include=python3"]
        log = self.place.with_suffix(".log")
        with open(log, "w") as handle:
            done = subprocess.run(
                [*command, suite, str(self.place), mirror()], stdout=handle, stderr=handle
            )
        if done.returncode:
            raise SystemExit(f"debootstrap failed: see {log}")
        log.unlink()
        self.run("useradd", "--create-home", "--shell", "/bin/bash", "user")
        if given := os.environ.get("SSL_CERT_FILE"):
            shutil.copy(given, self.place / AUTHORITIES.lstrip("/"))

    def put(self, sources: list[str], target: str, owner: str = "root") -> None:
        """Copy files of this checkout, those that git knows or would take."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *sources],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            there = self.place / target.lstrip("/") / name
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, there)
        self.run("chown", "-R", f"{owner}:", target)

    def run(self, *command: str, user: str = "root") -> tuple[int, str]:
        """Run a command in it, showing and giving what it says."""
        become = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user]
        become += ["--init-groups"] * bool(become)
        environment = {**self.environment, "HOME": str(HOMES[user]), "USER": user}
        process = subprocess.Popen(
            [*ENTER, MOUNTS, str(self.place), *become, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            said.append(line)
        return process.wait(), "".join(said)


@contextmanager
def bare(place: Path, suite: str, keep: bool) -> Iterator[Root]:
    """A bare root of a release, as long as it is needed."""
    root = Root(place)
    try:
        if not place.exists():
            tell(f"making a bare {suite}")
            root.make(suite)
        yield root
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def follow(root: Root, who: str, command: str) -> int:
    """Run one of README's commands, and each fix that it names, once each."""
    checkout = HOMES[who] / "pyml"
    tried: set[str] = set()
    while True:
        line = f"cd {checkout} && exec python3 install.py {command}"
        status, said = root.run("sh", "-c", line, user=who)
        fix = re.search(r"^fix: +sudo (.+)$", said, re.M)
        if status == 0 or who == "root" or not fix or fix[1] in tried:
            return status
        tried.add(fix[1])
        tell(f"as root: {fix[1]}")
        environment = "DEBIAN_FRONTEND=noninteractive "
        if root.run("sh", "-c", environment + fix[1])[0]:
            return status


def main() -> int:
    """Run each command in each root, and tell how each ended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="Debian releases")
    parser.add_argument("--by", nargs="+", choices=HOMES, default=list(HOMES))
    parser.add_argument("--run", nargs="+", default=["demo", "test"], metavar="COMMAND")
    parser.add_argument("--keep", action="store_true", help="leave the roots, and go on in them")
    parser.add_argument("--into", type=Path, default=Path("/var/tmp/pyml-roots"))
    options = parser.parse_args()
    outcomes = []
    for suite in options.suites:
        for who in options.by:
            with bare(options.into / f"{suite}-{who}", suite, options.keep) as root:
                root.put(["."], f"{HOMES[who]}/pyml", who)
                for command in options.run:
                    began = time.monotonic()
                    status = follow(root, who, command)
                    took = time.monotonic() - began
                    outcomes.append((suite, who, command, status, took))
                    tell(f"{suite}, {who}: install.py {command} gave {status} in {took:.0f} s")
    for suite, who, command, status, took in outcomes:
        print(
            f"{suite:<10}{who:<6}{command:<20}{'well' if not status else 'FAILED':<8}{took:.0f} s"
        )
    return int(any(status for *_, status, _ in outcomes))


if __name__ == "__main__":
    sys.exit(main())

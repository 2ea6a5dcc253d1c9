"""The one entry to pyml: try it, test it, put it on a server.

    python3 install.py demo        a private server with a sample fleet: nothing else is touched
    python3 install.py test        the whole test suite, on a private server
    python3 install.py install     the extension, on a PostgreSQL server of this machine

Standard library only, any Python from 3.9: it finds the Python of the server itself.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from installer.demo import command_demo
from installer.process import Failure
from installer.server import command_install
from installer.suite import command_test
from installer.uninstall import command_uninstall


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="install.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="a private server with a sample fleet")
    choice = demo.add_mutually_exclusive_group()
    choice.add_argument("--dsn", action="store_true", help="only print how to connect to it")
    choice.add_argument(
        "--dashboard", action="store_true", help="show it in a browser, with the API server"
    )
    choice.add_argument("--stop", action="store_true", help="stop it")
    choice.add_argument(
        "--remove",
        action="store_true",
        help="remove the private servers, demo's and test's, and their libraries",
    )
    demo.set_defaults(call=command_demo)
    test = commands.add_parser(
        "test",
        help="the test suite; --quick leaves out what takes long; further arguments go to pytest",
    )
    test.set_defaults(call=command_test)
    for name, call, summary in (
        ("install", command_install, "the extension into a database of a server on this machine"),
        ("upgrade", command_install, "the extension to the version of this checkout"),
        ("uninstall", command_uninstall, "drop it; its files too, when no database uses them"),
    ):
        each = commands.add_parser(name, help=summary)
        each.add_argument("dsn", nargs="?", metavar="DSN", help="libpq connection string")
        each.add_argument("--into", metavar="DIR", help="where the libraries go (/opt/pyml)")
        each.set_defaults(call=call, schema=None)
        if call is command_install:
            each.add_argument("--python", metavar="PATH", help="the interpreter, if not found")
            each.add_argument("--gpu", action="store_true", help="TensorFlow with GPU support")
            each.add_argument(
                "--libraries",
                metavar="DIR",
                help="use the libraries of this environment in place (same Python, same lock file)",
            )
        if name == "install":
            each.add_argument("--schema", help="the schema to create it in")
        if name == "uninstall":
            each.add_argument("--yes", action="store_true", help="drop the models without asking")
    options, rest = parser.parse_known_args()
    if rest and options.command != "test":
        parser.error(f"unknown arguments: {shlex.join(rest)}")
    options.arguments = rest
    os.umask(0o022)
    try:
        return int(options.call(options))
    except Failure as failure:
        print(f"\nerror: {failure}", file=sys.stderr)
        if failure.fix:
            print(f"fix:   {failure.fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; running the same command again goes on", file=sys.stderr)
        return 130

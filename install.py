#!/usr/bin/env python3
"""The one entry to pyml: what it can do, `python3 install.py --help` says."""

import sys

sys.dont_write_bytecode = True  # run by root, it leaves nothing in somebody's checkout

from installer.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

"""The anomaly detection on the sample fleet, where all that is wrong is known.

    python bench/sample.py "$(python3 install.py demo --dsn)" [--seeds 3] [--days 5]

makes a database ``pyml_sample`` on that server, where pyml is installed. For each seed it
loads the eight devices, trains each as of the start of each of the last days on the seven
before, through ml_train_forest, and scores the day through ml_score. Printed are the share
of readings flagged outside faults and the hour after them, which contamination asks to be
1 %, and how much of each fault is flagged.
"""

import argparse
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

import numpy as np
import psycopg
import sample_fleet
from timing import database, say

TRAINED_DAYS = 7
AFTERMATH = timedelta(hours=1)


def flags(
    conn: psycopg.Connection[Any], device: sample_fleet.Device, start: datetime, end: datetime
) -> list[tuple[datetime, bool]]:
    """Readings of a day, and which are flagged by a model that ends where it begins."""
    conn.execute("SELECT ml_train_forest(%s, as_of => %s)", [device.uuid, start])
    found = conn.execute(
        'SELECT "timestamp", is_anomaly FROM ml_score(%s, %s, %s)', [device.uuid, start, end]
    )
    return found.fetchall()


def main() -> None:
    """Judge each device and each fault, and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a superuser's database")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--days", type=int, default=5, help="judged of each device and seed")
    given = parser.parse_args()
    dsn = database(given.dsn, "pyml_sample")
    conn = psycopg.connect(dsn, autocommit=True)
    conn.execute("CREATE EXTENSION IF NOT EXISTS pyml CASCADE")
    now = datetime.now(UTC).replace(microsecond=0)
    quiet: dict[str, list[float]] = defaultdict(list)
    hit: dict[str, list[float]] = defaultdict(list)
    for seed in range(1, given.seeds + 1):
        say(f"the sample fleet of seed {seed}")
        span = {"seed": seed, "days": TRAINED_DAYS + given.days, "now": now.replace(tzinfo=None)}
        sample_fleet.load(dsn, **span)
        faults = {fault.device_uuid: fault for fault in sample_fleet.faults(**span)}
        for device in sample_fleet.FLEET:
            fault = faults.get(device.uuid)
            during: list[bool] = []
            for back in range(given.days):
                end = now - timedelta(days=back)
                outside = []
                for moment, flagged in flags(conn, device, end - timedelta(days=1), end):
                    at = moment.replace(tzinfo=None)
                    if fault is None or not fault.start <= at <= fault.end + AFTERMATH:
                        outside.append(flagged)
                    elif at <= fault.end:
                        during.append(flagged)
                quiet[device.name].append(float(np.mean(outside)))
            if fault is not None:
                hit[fault.kind].append(float(np.mean(during)))
    print(f"{'readings flagged outside faults':32}{'mean day':>10}{'worst day':>11}")
    for name, shares in (*quiet.items(), ("all", [*chain(*quiet.values())])):
        print(f"{name:32}{np.mean(shares):10.1%}{max(shares):11.1%}")
    print(f"\n{'readings flagged during a fault':32}{'mean':>10}{'least':>11}")
    for kind, shares in hit.items():
        print(f"{kind:32}{np.mean(shares):10.1%}{min(shares):11.1%}")


if __name__ == "__main__":
    main()

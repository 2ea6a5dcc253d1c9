"""How soon the dashboard shows what there is to see with a large fleet.

    python bench/dashboard.py "dbname=bench"

needs an empty database on a server where pyml is installed, and fills the extension's tables and
a history of six hours: 5,000 devices (``--devices``), an eighth of them silent at once. Then it
serves the pages on loopback and opens each in Chromium nine times, as a first visitor does.
Printed are medians in milliseconds from the request on: the first paint of anything, the first
sight of what was asked for (incidents, rows of devices), and when all of it is there.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from installer.dashboard import api_server
from installer.live import beside

ROOT = Path(__file__).parents[1]
VISITS = 9

DEVICES = """
INSERT INTO devices
SELECT md5(i::text)::uuid,
    ('{press,oven,lathe,pump,robot,chiller}'::text[])[1 + i %% 6] || ' ' || to_char(i, 'FM0000')
FROM generate_series(1, %(devices)s) AS i;
INSERT INTO ml_device (device_uuid, device_id, device_name) SELECT uuid, uuid, name FROM devices;
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT d.uuid, jsonb_build_object('system', jsonb_build_object(
    'cpuUsage',
    round((40 + 15 * sin(extract(epoch FROM t) / 3000 + phase) + 6 * random())::numeric, 1),
    'temperature', round((45 + 4 * sin(extract(epoch FROM t) / 5000 + phase))::numeric, 1))), t
FROM generate_series((now() AT TIME ZONE 'UTC') - interval '6 hours', now() AT TIME ZONE 'UTC',
         '5 minutes') AS t,
    (SELECT uuid, row_number() OVER (ORDER BY uuid) AS phase FROM devices) AS d;
INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, sqlstate, error, last_reading,
    silent_from, watermark)
SELECT md5(i::text)::uuid, now(), CASE WHEN i %% 500 = 1 THEN 'failed' ELSE 'scanned' END,
    CASE WHEN i %% 500 = 1 THEN 'ML005' END,
    CASE WHEN i %% 500 = 1 THEN 'the model cannot be read' END, seen,
    seen + CASE WHEN i %% 8 = 3 THEN interval '10 minutes' ELSE '1 day' END, seen
FROM generate_series(1, %(devices)s) AS i,
    LATERAL (SELECT now() - CASE WHEN i %% 8 = 3 THEN interval '40 minutes' ELSE '1 minute' END
             - i %% 50 * interval '1 second') AS x (seen);
INSERT INTO ml_model (device_uuid, kind, is_current, window_start, window_end, readings_used,
    readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT md5(i::text)::uuid, 'forest', true, now(), now(), 1, 0,
    jsonb_build_object('signals', jsonb_build_object('cpu_usage', NULL, 'temperature', NULL)),
    '{}', '{}', 1, '', ''
FROM generate_series(1, %(devices)s) AS i WHERE i %% 90 <> 5;
INSERT INTO ml_signal_state
SELECT s.device_uuid, '{cpu_usage,temperature}', '{300,300}', '{40,45}',
    ARRAY[s.last_reading, s.last_reading], '{ok,ok}', ARRAY[now(), now()], '{0,0}', '{0,0}',
    '{0,0}', '{0,0}', '{72,0,0,0}', 0, '[]'
FROM ml_scan_state s;
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, summary, evidence, updated_at)
SELECT s.device_uuid, 'silent', 'open', 'warning', '', s.last_reading, now(), now(),
    'nothing since ' || to_char(s.last_reading AT TIME ZONE 'UTC', 'HH24:MI') || ' UTC; '
    'it is never silent for more than 4 min', '{"detectors": ["presence"]}', now()
FROM ml_scan_state s WHERE s.silent_from < now();
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, resolved_at, why, summary, evidence, updated_at)
SELECT md5(i::text)::uuid, kind, CASE WHEN over THEN 'resolved' ELSE 'open' END,
    CASE WHEN i %% 3 = 0 THEN 'critical' ELSE 'warning' END, metric, began, began,
    least(now(), began + interval '2 hours'),
    CASE WHEN over THEN least(now(), began + interval '3 hours') END,
    CASE WHEN over THEN 'over' END, metric || ' has been at ' || 60 + i %% 40 || ' since '
    || to_char(began AT TIME ZONE 'UTC', 'HH24:MI') || ' UTC, ' || 10 + i %% 20
    || ' above what is usual at this hour', '{"detectors": ["level"]}', now()
FROM generate_series(1, %(devices)s) AS i,
    LATERAL (SELECT now() - i * interval '97 seconds', i %% 50 <> 7,
        ('{level,stuck,drift,value,missing,junk}'::text[])[1 + i %% 6],
        ('{cpu_usage,temperature}'::text[])[1 + i %% 2]) AS x (began, over, kind, metric)
WHERE i %% 5 = 2;
"""
VACUUM = "VACUUM (ANALYZE) ml_scan_state, ml_signal_state, ml_model, ml_incident, ml_device"

# When a node that the selector names is first there, and painted.
WATCH = """selector => {
  new MutationObserver((_, self) => {
    if (!document.querySelector(selector)) return;
    self.disconnect();
    requestAnimationFrame(() => setTimeout(() => (window.seen = performance.now())));
  }).observe(document, { childList: true, subtree: true });
}"""
TOOK = """() => [performance.getEntriesByName("first-contentful-paint")[0].startTime, window.seen,
  performance.now()]"""
ROWS = ".devices tbody tr"
PAGES = {"#/": ".incident", "#/?search=oven": ".incident", "#/devices": ROWS}


@contextmanager
def served(dsn: str) -> Iterator[str]:
    """The address of the API server on that database."""
    settings = {"DATABASE_URL": dsn, "PORT": "0"}
    with beside(api_server(), settings, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[-1]


def visit(browser: Browser, address: str, shown: str) -> list[float]:
    """First paint, first sight and all of a page, in milliseconds."""
    page = browser.new_page()
    page.add_init_script(f"({WATCH})({shown!r})")
    page.goto(address)
    page.wait_for_selector("main[aria-busy=false]")
    page.wait_for_function("window.seen")
    took = page.evaluate(TOOK)
    page.close()
    return took


def main() -> None:
    """Fill the database, and look at each page."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("dsn", help="connection string of a database, as a URL")
    options.add_argument("--devices", type=int, default=5000)
    given = options.parse_args()
    with psycopg.connect(given.dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS pyml CASCADE")
        conn.execute((ROOT / "demo/history.sql").read_text())
        if not conn.execute("SELECT 1 FROM devices LIMIT 1").fetchone():
            conn.execute(DEVICES, {"devices": given.devices})
            conn.execute(VACUUM)
    with served(given.dsn) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        print(f"{'page':24}{'paint':>8}{'sight':>8}{'all':>8}  ms")
        for page, shown in PAGES.items():
            visits = [visit(browser, f"{address}/{page}", shown) for _ in range(VISITS)]
            medians = [statistics.median(column) for column in zip(*visits, strict=True)]
            print(f"{page:24}" + "".join(f"{value:8.0f}" for value in medians), flush=True)
        browser.close()


if __name__ == "__main__":
    main()

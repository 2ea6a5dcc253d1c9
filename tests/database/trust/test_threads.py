"""Threads are few, and a signal to the backend lands in its main thread."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest

# What PostgreSQL is told by: cancels, ends, configuration, other backends, timeouts.
SIGNALS = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE),
}
SCORING, TRAINING = 1, 16


def masks(pid: int) -> dict[int, int]:
    """Signals that each thread of a process blocks, beside its main one."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        if int(task.name) != pid:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                lines = (task / "status").read_text().splitlines()
                blocked = next(line.split()[1] for line in lines if line.startswith("SigBlk"))
                found[int(task.name)] = int(blocked, 16)
    return found


@pytest.mark.slow
def test_threads_are_few_and_take_no_signal(db, dsn, add_modelled):
    device = add_modelled()
    db.execute("UPDATE ml_setting SET value = '3' WHERE name = 'epochs'")
    with psycopg.connect(dsn, autocommit=True) as session:
        pid = session.info.backend_pid
        session.execute("SELECT ml_detect(%s), ml_forecast(%s)", [device, device])
        assert len(masks(pid)) < SCORING
        seen: list[int] = []
        open_to: set[signal.Signals] = set()
        ended = threading.Event()

        def bother() -> None:
            while not ended.is_set():
                for _ in range(20):
                    os.kill(pid, signal.SIGUSR1)
                    os.kill(pid, signal.SIGHUP)
                found = masks(pid)
                for blocked in found.values():
                    open_to.update(s for s in SIGNALS if not blocked >> (s - 1) & 1)
                seen.append(len(found))
                time.sleep(0.02)

        thread = threading.Thread(target=bother)
        thread.start()
        try:
            for train in ("ml_train_forest", "ml_train_lstm"):
                told = session.execute(f"SELECT {train}(%s)", [device]).fetchone()[0]
                assert told["training_samples"] == 600
        finally:
            ended.set()
            thread.join()
        assert len(seen) > 20
        print(f"{len(seen) * 40} signals; at most {max(seen)} threads beside the main one")
        assert open_to == set()
        assert max(seen) < TRAINING
        assert session.execute("SELECT 1").fetchone() == (1,)

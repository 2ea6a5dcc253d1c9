"""Stored models as an attacker who may train could write them, loaded by a real backend.

Each is refused with ML005 or is a model; none crashes the backend, takes a second of
its time or makes it grow. ``--long`` takes ten thousand of them.
"""

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from tests.stored import newest, put_model

from . import mutate

ASK = {
    "forest": "SELECT ml_detect('{}', hours => 10)::text, (SELECT count(*) FROM ml_score('{}',"
    " now() - interval '2 hours', now()))",
    "lstm": "SELECT ml_forecast('{}')::text,"
    " (SELECT count(*) FROM ml_predict('{}', 'system.cpuUsage', level => 0.8))",
}
GROWTH = 200 << 20  # bytes


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, name: str = "VmHWM") -> int:
    """Memory of a process in bytes, now (VmRSS) or at most (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


class Reader:
    """A session that loads one model after the other; its memory and time are watched."""

    def __init__(
        self, owner: psycopg.Connection, session: psycopg.Connection, device: str, kind: str
    ) -> None:
        self.owner, self.session, self.device, self.kind = owner, session, device, kind
        self.pid = session.info.backend_pid
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        self.load(newest(kind).read_bytes())
        self.longest = 0.0  # the first call of a session loads libraries besides
        self.memory = memory(self.pid)

    def load(self, blob: bytes) -> str:
        """Make a blob the current model and call both functions: what came of it."""
        self.owner.execute("DELETE FROM ml_model")
        put_model(self.owner, self.device, newest(self.kind), blob)
        before = cpu_seconds(self.pid)
        outcome = self.ask()
        self.longest = max(self.longest, cpu_seconds(self.pid) - before)
        self.outcomes[outcome] += 1
        return outcome

    def ask(self) -> str:
        """Call both functions: what came of it."""
        try:
            statement = ASK[self.kind].format(self.device, self.device)
            answer, _ = self.session.execute(statement).fetchone()
        except psycopg.Error as error:
            if error.sqlstate in ("ML001", "ML003"):  # of another interval or path: it finds little
                return "a model"
            if error.sqlstate != "ML005":
                raise
            refusal = error.diag
        else:
            json.loads(answer, parse_constant=pytest.fail)
            return "a model"
        assert refusal.message_detail
        assert refusal.message_hint.startswith("SELECT public.ml_train_")
        assert "Traceback" not in (refusal.context or "")
        return "ML005"


@pytest.fixture(params=["forest", "lstm"])
def reader(request, db, connect, add_device):
    """A session of a role that may train, for models of one kind."""
    device = add_device(readings=600)
    with connect("train") as session:
        reader = Reader(db, session, device, request.param)
        yield reader
        assert reader.longest < 1
        assert memory(reader.pid) < reader.memory + GROWTH


@pytest.mark.slow
def test_what_was_made_by_hand_is_refused(reader):
    blob = newest(reader.kind).read_bytes()
    outcomes = {name: reader.load(data) for name, data in mutate.crafted(blob, reader.kind)}
    assert outcomes.pop("untouched") == "a model"
    assert {name for name, outcome in outcomes.items() if outcome != "ML005"} == set()


@pytest.mark.slow
def test_what_was_mutated_is_refused_or_is_a_model(reader, long, tmp_path):
    rng = random.Random(20)
    blob = newest(reader.kind).read_bytes()
    started = time.monotonic()
    for number in range(6000 if long else 150):
        data = mutate.mutated(blob, rng)
        try:
            reader.load(data)
        except BaseException:
            (tmp_path / f"{reader.kind}-{number}").write_bytes(data)
            raise
    print(
        f"{reader.kind}: {dict(reader.outcomes)}, at most {reader.longest:.2f} s of processor,"
        f" {(memory(reader.pid) - reader.memory) >> 20} MB more,"
        f" {time.monotonic() - started:.0f} s"
    )

"""Many sessions at once over the same devices; ``--long`` sixteen of them for two minutes."""

import random
import threading
import time
from collections import Counter, defaultdict

import psycopg
import pytest

pytestmark = pytest.mark.slow

DEVICES = 4
WORK = {
    "detect": "SELECT ml_detect(%(device)s) -> 'model_info'",
    "score": "SELECT count(*), max(anomaly_score) FROM ml_score(%(device)s, now() -"
    " interval '1 hour', now())",
    "forecast": "SELECT ml_forecast(%(device)s) -> 'model_info'",
    "train": "SELECT ml_train_forest(%(device)s, contamination => %(share)s)",
    "scan": "CALL ml_scan()",
    "scan one": "CALL ml_scan(%(device)s)",
    "retrain": "CALL ml_retrain()",
    "retrain one": "CALL ml_retrain(%(device)s)",
    "roll back": "SELECT ml_rollback((SELECT model_id FROM ml_model WHERE device_uuid ="
    " %(device)s ORDER BY random() LIMIT 1))",
    "forget": "SELECT ml_forget(%(device)s)",
    "look": "SELECT count(*) FROM ml_models, ml_device_status, ml_anomalies",
}
WEIGHTS = (6, 4, 2, 4, 1, 2, 1, 2, 3, 2, 1)
DOCUMENTED = {"ML001", "ML002"}


def test_many_at_once(db, dsn, long, add_device):
    devices = [add_device(readings=300) for _ in range(DEVICES)]
    for name, value in (("n_estimators", "20"), ("forecast_fields", "[]")):
        db.execute("UPDATE ml_setting SET value = %s WHERE name = %s", [value, name])
    db.execute("CALL ml_retrain()")
    sessions, seconds = (16, 120) if long else (4, 4)
    until = time.monotonic() + seconds
    done: Counter[str] = Counter()
    errors: Counter[tuple[str, str]] = Counter()
    # What readers saw of each model: a mixture of two would show as two answers.
    seen: dict[int, set[tuple[float, float, int]]] = defaultdict(set)

    def work(number: int) -> None:
        choose = random.Random(number)
        with psycopg.connect(dsn, autocommit=True) as session:
            while time.monotonic() < until:
                what = choose.choices(list(WORK), WEIGHTS)[0]
                values = {
                    "device": choose.choice(devices),
                    "share": choose.choice((0.01, 0.02, 0.05)),
                }
                try:
                    cursor = session.execute(WORK[what], values)
                    done[what] += 1
                except psycopg.Error as error:
                    errors[what, f"{error.sqlstate} {error}"[:300]] += 1
                    if error.sqlstate is None:
                        raise
                else:
                    if what == "detect":
                        told = cursor.fetchone()[0]
                        seen[told["model_id"]].add(
                            (
                                told["warning_below"],
                                told["critical_below"],
                                told["training_samples"],
                            )
                        )

    threads = [threading.Thread(target=work, args=[number]) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = Counter({(what, words[:5]): n for (what, words), n in errors.items()})
    print(f"{sum(done.values())} done: {dict(done)}; errors: {dict(told)}; {len(seen)} models seen")
    assert {words for _, words in errors if words[:5] not in DOCUMENTED} == set()
    assert {model: answers for model, answers in seen.items() if len(answers) > 1} == {}
    assert sum(done.values()) >= sessions
    current = db.execute(
        "SELECT device_uuid FROM ml_model WHERE is_current GROUP BY 1, kind, field"
        " HAVING count(*) > 1"
    ).fetchall()
    assert current == []
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan()")
    states = db.execute("SELECT outcome FROM ml_scan_state").fetchall()
    assert len(states) == DEVICES
    assert ("failed",) not in states

"""What pyml takes the place of, built the usual way: a service that fetches rows and scores them.

FastAPI, psycopg, pandas, scikit-learn and Keras, with the settings that pyml ships with;
models stay in memory once trained. ``DSN`` in the environment names the database.
"""

import os
from datetime import datetime, timedelta
from typing import Any

import keras
import numpy as np
import pandas as pd
import psycopg
from fastapi import FastAPI
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import MinMaxScaler

READINGS = """
SELECT "timestamp", reported_state #>> '{system,cpuUsage}' AS cpu_usage,
       reported_state #>> '{system,memoryUsage}' AS memory_usage,
       reported_state #>> '{system,memoryTotal}' AS memory_total,
       reported_state #>> '{system,diskUsage}' AS disk_usage,
       reported_state #>> '{system,diskTotal}' AS disk_total,
       reported_state #>> '{system,temperature}' AS temperature
FROM device_shadow_history
WHERE device_uuid = %s AND shadow_name = 'device-state' AND "timestamp" > %s AND "timestamp" <= %s
ORDER BY "timestamp"
"""
FEATURES = ["cpu_usage", "memory_percent", "disk_percent", "temperature"]
SEQUENCE, HORIZON, BATCH, UNITS = 50, 12, 32, 50

app = FastAPI()
conn = psycopg.connect(os.environ["DSN"], autocommit=True)
forests: dict[str, IsolationForest] = {}
networks: dict[str, tuple[keras.Model, MinMaxScaler, float]] = {}


def readings(device: str, hours: float, as_of: datetime) -> pd.DataFrame:
    """Rows of one device's window, numbers as numbers."""
    cursor = conn.execute(READINGS, [device, as_of - timedelta(hours=hours), as_of])
    frame = pd.DataFrame(cursor.fetchall(), columns=[c.name for c in cursor.description])
    frame = frame.set_index("timestamp").apply(pd.to_numeric, errors="coerce")
    frame["memory_percent"] = 100 * frame["memory_usage"] / frame["memory_total"]
    frame["disk_percent"] = 100 * frame["disk_usage"] / frame["disk_total"]
    return frame[FEATURES].fillna(frame[FEATURES].median())


@app.post("/forest/{device}")
def train_forest(device: str, as_of: datetime, hours: float = 168) -> dict[str, Any]:
    """Train an Isolation Forest on the hours up to a time."""
    frame = readings(device, hours, as_of)
    forest = IsolationForest(n_estimators=100, contamination=0.01, random_state=0)
    forests[device] = forest.fit(frame.to_numpy())
    return {"device": device, "training_samples": len(frame)}


@app.get("/anomalies/{device}")
def detect(device: str, as_of: datetime, hours: float = 24) -> dict[str, Any]:
    """Anomalies among the readings of the last hours."""
    forest, frame = forests[device], readings(device, hours, as_of)
    decision = forest.decision_function(frame.to_numpy())
    frame["anomaly_score"] = decision + forest.offset_
    found = frame[decision < 0].reset_index()
    return {
        "device": device,
        "analyzed_points": len(frame),
        "anomalies": found.to_dict(orient="records"),
    }


@app.post("/lstm/{device}")
def train_lstm(
    device: str, as_of: datetime, hours: float = 168, epochs: int = 50
) -> dict[str, Any]:
    """Train an LSTM that forecasts the next CPU reading from the fifty before it."""
    series = readings(device, hours, as_of)[["cpu_usage"]].to_numpy()
    scaler = MinMaxScaler()
    scaled = scaler.fit_transform(series).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(scaled[:, 0], SEQUENCE + 1)
    x, y = windows[:, :-1, None], windows[:, -1]
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((SEQUENCE, 1)), keras.layers.LSTM(UNITS), keras.layers.Dense(1)]
    )
    network.compile(optimizer="adam", loss="mse")
    network.fit(x, y, epochs=epochs, batch_size=BATCH, verbose=0)
    error = float(np.std(y - network.predict(x, verbose=0)[:, 0]))
    networks[device] = network, scaler, error
    return {"device": device, "training_samples": len(series)}


@app.get("/forecast/{device}")
def forecast(device: str, as_of: datetime, direct: bool = False) -> dict[str, Any]:
    """The next readings, one after the other; `direct` calls the model without ``predict``."""
    network, scaler, error = networks[device]
    series = readings(device, 2 * SEQUENCE / 60, as_of)[["cpu_usage"]].to_numpy()[-SEQUENCE:]
    window = scaler.transform(series).astype(np.float32)
    steps = []
    for _ in range(HORIZON):
        batch = window[None]
        said = network(batch) if direct else network.predict(batch, verbose=0)
        steps.append(np.asarray(said)[0])
        window = np.concatenate([window[1:], [steps[-1]]])
    half = 1.645 * error * np.sqrt(np.arange(1, HORIZON + 1))
    scaled = np.array(steps)[:, 0]
    lower, centre, upper = (
        scaler.inverse_transform(band[:, None])[:, 0].tolist()
        for band in (scaled - half, scaled, scaled + half)
    )
    return {
        "device": device,
        "predictions": [
            {"predicted_value": value, "confidence_lower": low, "confidence_upper": high}
            for value, low, high in zip(centre, lower, upper, strict=True)
        ],
    }
